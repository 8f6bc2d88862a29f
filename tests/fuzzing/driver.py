"""Sends inputs to a daemon in the test's own process, and judges what comes back."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import structlog
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from structlog.types import EventDict, WrappedLogger

from infer_daemon.bench.wire import Address, Connection, connect
from infer_daemon.daemon import Daemon
from infer_daemon.domain.states import EngineState
from tests.fuzzing.bodies import Request

ANSWER_TIMEOUT_S = 30.0
"""Longer is a hang."""
SILENCE_S = 0.03
"""What is no whole request gets no answer; who sends it does not wait longer than that."""
BATCH = 1000
"""The tool remembers all inputs of a run: many inputs are many runs."""
PLEASANT = frozenset(("would_wait_too_long", "waited_too_long", "grammar_busy"))
"""Reasons of a 503 that somebody with a strange deadline or grammar has asked for."""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)", re.IGNORECASE)
_CODE = re.compile(rb'"code": ?"(\w+)"')
_OURS = (b'"internal_error"', b'"engine_fault"', b"Traceback (most recent")


def fuzz(
    inputs: SearchStrategy[Any], try_one: Callable[[Any], None], count: int, first: int
) -> None:
    """Try so many inputs, and tell the smallest that fails. Blocks.

    Args: first: chooses the inputs; the same ones for the same number.
    """
    for number, done in enumerate(range(0, count, BATCH), start=first):
        _fuzz(inputs, try_one, min(BATCH, count - done), number)


def _fuzz(
    inputs: SearchStrategy[Any], try_one: Callable[[Any], None], count: int, number: int
) -> None:
    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(inputs)
    def one(value: Any) -> None:
        try_one(value)

    one()


def _is_whole(answered: bytes) -> bool:
    """Whether there is a first answer; what may follow is seen too, if it is there by then."""
    head, _, body = answered.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return length is not None and len(body) >= int(length[1])


class Complaints:
    """Takes the log, and keeps what should not be in it."""

    def __init__(self) -> None:
        self.kept: list[EventDict] = []

    def __call__(self, _: WrappedLogger, method: str, line: EventDict) -> EventDict:
        """See structlog's processors."""
        if method in ("error", "exception", "critical"):
            self.kept.append(line)
        raise structlog.DropEvent


class Victim:
    """A daemon, and connections to it."""

    def __init__(self, daemon: Daemon, tenants: Address, operators: Address) -> None:
        self.daemon = daemon
        self.tenants = tenants
        self.operators = operators
        self.seen: Counter[int] = Counter()
        """How often each status was answered."""
        self.slowest_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._kept: dict[Address, Connection] = {}
        self._statuses = self._engines()

    def wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something in the daemon's loop, from a thread."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(4 * ANSWER_TIMEOUT_S)

    def ask(self, request: Request) -> None:
        """From a thread: one request of a tenant."""
        self.wait_for(self._ask(self.tenants, request))

    def ask_operators(self, request: Request) -> None:
        """From a thread: one request at the operators' door."""
        self.wait_for(self._ask(self.operators, request))

    def send(self, pieces: list[bytes]) -> None:
        """From a thread: what may be no request."""
        self.wait_for(self._send(pieces))

    async def _ask(self, address: Address, request: Request) -> None:
        begun_s = time.perf_counter()
        body: list[bytes] = []
        wire = request.wire()
        try:
            connection = await self._connected(address)
            status = await connection.ask(wire, body.append, ANSWER_TIMEOUT_S)
        except ConnectionResetError:
            # The server may have meant the last request; on a new connection it must answer.
            body.clear()
            self._kept.pop(address).close()
            connection = await self._connected(address)
            status = await connection.ask(wire, body.append, ANSWER_TIMEOUT_S)
        self.slowest_s = max(self.slowest_s, time.perf_counter() - begun_s)
        self._judge(status, b"".join(body))

    async def _connected(self, address: Address) -> Connection:
        kept = self._kept.get(address)
        if kept is None or not kept.is_open:
            kept = self._kept[address] = await connect(address)
        return kept

    async def _send(self, pieces: list[bytes]) -> None:
        reader, writer = await asyncio.open_unix_connection(self.tenants.socket)
        answered = b""
        with suppress(ConnectionError, TimeoutError):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            while more := await asyncio.wait_for(reader.read(65_536), SILENCE_S):
                answered += more
                if _is_whole(answered):
                    break
        writer.transport.abort()
        for status in _STATUS.findall(answered):
            self._judge(int(status), answered)

    def _judge(self, status: int, body: bytes) -> None:
        self.seen[status] += 1
        assert not any(words in body for words in _OURS), (status, body[:1000])
        if status >= 500:
            code = _CODE.search(body)
            assert code is not None, (status, body[:1000])
            assert code[1].decode() in PLEASANT, (status, body[:1000])

    def _engines(self) -> dict[str, tuple[EngineState, int]]:
        """What they do, and how often each was started again."""
        supervisors = self.daemon.fleet.supervisors
        return {n: (one.status.state, one.status.restarts) for n, one in supervisors.items()}

    async def check(self) -> None:
        """Nothing has been left behind, and the daemon is in order."""
        for connection in self._kept.values():
            connection.close()
        daemon = self.daemon
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while daemon.path.in_flight:
                await asyncio.sleep(0.01)
        for scheduler in daemon.schedulers.values():
            scheduler.check()
            assert (scheduler.waiting, scheduler.running) == (0, 0)
        daemon.admission.check()
        daemon.allowances.check()
        assert daemon.allowances.open_count == 0
        assert self._engines() == self._statuses
        assert not any(one.in_flight for one in daemon.fleet.supervisors.values())
        verified = await daemon.view.ledger("verify", {})
        assert verified["ok"], verified["breaches"]
