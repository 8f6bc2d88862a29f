"""Clients of several tenants that ask without end, read every answer to its last word, and write
down what became of each."""

import asyncio
import random
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from infer_daemon.bench.wire import Address, Connection, connect
from infer_daemon.chaos.questions import BATCH_TENANT, KEYS, BadAnswer, Question, Said, said

GIVE_UP_S = 240.0
AGAIN_S = 0.5
"""After which a client that was not answered asks again."""
PAUSE_S = 0.1
"""Mean pause of a client between two questions: what is measured is not how full an engine gets."""
FAILURES_SHOWN = 3

_TEXT = re.compile(rb'"(?:content|text)":"[^"]')

Expected = Mapping[Question, Said]


@dataclass(slots=True, kw_only=True)
class Asked:
    """One request and what became of it. Times are of the machine's clock, as in a log."""

    question: Question
    tenant: str
    begun_s: float
    first_s: float = 0.0
    """When the first text came; 0 if none did, or all of it at once."""
    ended_s: float = 0.0
    status: int = 0
    """0: there was no answer, or not all of it."""
    problem: str = ""
    """What is wrong with what came, "" if nothing is."""
    said: Said | None = None

    @property
    def ttft_s(self) -> float:
        """Time to the first text."""
        return (self.first_s or self.ended_s) - self.begun_s

    def __str__(self) -> str:
        kind = "stream" if self.question.is_stream else "whole"
        spent_s = self.ended_s - self.begun_s
        return (
            f"{self.tenant} {self.question.path} {self.question.model} ({kind}), after "
            f"{spent_s:.2f} s, status {self.status}: {self.problem}"
        )


@dataclass(slots=True)
class Crowd:
    """Begun with `begin`; *must* be ended with `end`."""

    address: Address
    questions: Sequence[Question]
    expected: Expected = field(default_factory=dict)
    """What is not in it may be answered in any way."""
    clients: int = 4
    """Of each tenant."""
    deadline_s: float = 0.0
    pause_s: float = PAUSE_S
    asked: list[Asked] = field(default_factory=list)
    """All that were answered, or were not, in the order of their ends."""
    _is_over: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self) -> None:
        """Let all clients ask."""
        for tenant in KEYS:
            for number in range(self.clients):
                dice = random.Random(f"{tenant} {number}")
                task = asyncio.create_task(self._client(tenant, dice), name=f"{tenant}-{number}")
                self._tasks.append(task)

    async def end(self) -> None:
        """Let every client come to the end of what it has asked. Idempotent."""
        self._is_over.set()
        await asyncio.gather(*self._tasks)

    @property
    def failed(self) -> list[Asked]:
        """Those that were not answered as they should have been."""
        return [one for one in self.asked if one.problem]

    @property
    def failures(self) -> list[str]:
        """The first few of them, in words."""
        return [str(one) for one in self.failed[:FAILURES_SHOWN]]

    def ttfts_s(self, from_s: float, until_s: float, *, of_batch: bool = False) -> list[float]:
        """Of the streams that began in a time: of the interactive tenants, or of batch work, which
        makes room for them."""
        return [
            one.ttft_s
            for one in self.asked
            if one.question.is_stream
            and not one.problem
            and from_s <= one.begun_s <= until_s
            and (one.tenant == BATCH_TENANT) == of_batch
        ]

    async def until_asked(self, count: int) -> None:
        """Wait until so many are over."""
        while len(self.asked) < count:
            await asyncio.sleep(0.1)

    async def _client(self, tenant: str, dice: random.Random) -> None:
        connection: Connection | None = None
        while not self._is_over.is_set():
            question = dice.choice(self.questions)
            asked = Asked(question=question, tenant=tenant, begun_s=time.time())
            connection = await ask(
                self.address, asked, connection, self.expected, deadline_s=self.deadline_s
            )
            self.asked.append(asked)
            pause_s = AGAIN_S if asked.problem else dice.expovariate(1 / self.pause_s)
            try:
                async with asyncio.timeout(pause_s):
                    await self._is_over.wait()
            except TimeoutError:
                pass
        if connection is not None:
            connection.close()


async def ask(
    address: Address,
    asked: Asked,
    connection: Connection | None,
    expected: Expected,
    *,
    deadline_s: float = 0.0,
) -> Connection | None:
    """Ask once, and write down what came. Returns the connection if it can be used again."""
    body = bytearray()

    def take(piece: bytes) -> None:
        if not asked.first_s and _TEXT.search(piece):
            asked.first_s = time.time()
        body.extend(piece)

    request = asked.question.request(KEYS[asked.tenant], deadline_s=deadline_s)
    try:
        if connection is None or not connection.is_open:
            connection = await connect(address)
        asked.status = await connection.ask(request, take, GIVE_UP_S)
    except OSError as error:  # TimeoutError is one
        asked.problem = f"{type(error).__name__}: {error}; so far {bytes(body[-200:])!r}"
        if connection is not None:
            connection.close()
        connection = None
    asked.ended_s = time.time()
    if asked.status == 200:
        asked.problem = _judge(asked, bytes(body), expected)
    elif asked.status:
        asked.problem = bytes(body[:400]).decode(errors="replace")
    return connection


def _judge(asked: Asked, body: bytes, expected: Expected) -> str:
    """What is wrong with an answer."""
    try:
        asked.said = said(body, is_stream=asked.question.is_stream)
    except (BadAnswer, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    wanted = expected.get(asked.question)
    if wanted is None or asked.said == wanted:
        return ""
    return f"said {asked.said}, where it should have said {wanted}"
