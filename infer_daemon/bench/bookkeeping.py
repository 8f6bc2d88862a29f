"""All that the event loop does for a request so that it is counted, charged and written down: the
ledger's parts as the daemon puts them together, and requests that use them as its own do."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord, new_id
from infer_daemon.domain.states import EngineState
from infer_daemon.ledger.accounts import Budget, Unit
from infer_daemon.ledger.allowances import Allowances
from infer_daemon.ledger.book import Book
from infer_daemon.ledger.devices import Device
from infer_daemon.ledger.periods import Period
from infer_daemon.ledger.pricing import Price
from infer_daemon.ledger.stopwatch import Stopwatch
from infer_daemon.settings.schema import LedgerSection

TENANTS = [f"tenant-{number}" for number in range(20)]
MODEL = "bench"
PRICE = Price.parse(input_usd=3, output_usd=15, cached_usd="0.3")
BUDGETS = [
    Budget(period=Period.DAY, unit=Unit.TOKENS, limit=10**15),
    Budget(period=Period.MONTH, unit=Unit.NANO_USD, limit=10**18, is_hard=False),
]
"""Of each tenant: one of either kind, that nobody uses up."""
GPUS = [Device(f"gpu-{number}", 2_000_000_000) for number in range(2)]
ENGINES = {EngineName(f"engine-{number}"): [GPUS[number % 2]] for number in range(4)}
INSIDE = 64
"""Calls that are in the engines at any moment."""


class Bookkeeping:
    """You *must* `close` what you `start`."""

    def __init__(self, folder: Path, on_commit: Callable[[int, float], None]) -> None:
        loop = asyncio.get_running_loop()
        self._book = Book(folder, LedgerSection(), loop=loop, on_commit=on_commit)
        limits = dict.fromkeys(TENANTS, BUDGETS)
        self._allowances = Allowances(limits, {MODEL: PRICE}, lambda: time.time_ns() // 1000)
        self._stopwatch = Stopwatch(ENGINES)
        self._engines = cycle(ENGINES)
        self._inside: deque[tuple[RequestRecord, JobId]] = deque()

    async def start(self) -> None:
        """With requests in the engines, none of which has ended."""
        await self._book.start()
        for engine in ENGINES:
            self._stopwatch.change(engine, EngineState.READY)
        for number in range(INSIDE):
            self._begin(a_request(number))

    async def close(self) -> None:
        """Everything ends, and is written down."""
        while self._inside:
            await self._end(*self._inside.popleft())
        self._stopwatch.check()
        self._allowances.check()
        await self._book.close()

    def handle(self, record: RequestRecord) -> "asyncio.Future[None]":
        """This request begins and the oldest one ends. What is returned is done when the client of
        that may be told."""
        self._begin(record)
        return self._end(*self._inside.popleft())

    def _begin(self, record: RequestRecord) -> None:
        """From its admission to an engine: see `request_path` and `engines.gate`."""
        call = JobId(record.id)
        self._allowances.reserve(record, input_tokens=1, output_tokens=1)
        self._book.open(record)
        self._allowances.amend(record, input_tokens=100, output_tokens=50)
        self._stopwatch.enter(next(self._engines), call, prompt_tokens=100, seqs=1)
        self._inside.append((record, call))

    def _end(self, record: RequestRecord, call: JobId) -> "asyncio.Future[None]":
        """From its first token to its row."""
        self._stopwatch.first_output(call)
        self._stopwatch.leave(record, call)
        record.outcome = Outcome.OK
        self._stopwatch.settle(record)
        safe = self._book.settle(record, self._allowances.settle(record))
        assert safe is not None, "a request settles that was not opened"
        return safe


def a_request(number: int) -> RequestRecord:
    """With all that others than the ledger find out of it, up to its end."""
    now_s = time.monotonic()
    return RequestRecord(
        id=new_id(), endpoint=Endpoint.CHAT, accepted_s=now_s, clock=time.monotonic,
        tenant=TENANTS[number % len(TENANTS)], model=MODEL, deployment=MODEL, engine="engine",
        recipe_hash="0123456789abcdef", client="127.0.0.1", stream=True, authenticated_s=now_s,
        read_s=now_s, routed_s=now_s, admitted_s=now_s, rendered_s=now_s, granted_s=now_s,
        first_token_s=now_s, last_token_s=now_s, settled_s=now_s, prompt_tokens=100,
        cached_tokens=64, completion_tokens=50,
    )  # fmt: skip
