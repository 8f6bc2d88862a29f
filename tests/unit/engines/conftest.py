"""A pool with simulated engines, as the daemon would build it, and a request to use it with."""

import asyncio
import itertools
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import DaemonError
from infer_daemon.domain.jobs import EngineName, JobId, Tier
from infer_daemon.domain.record import CURRENT, RequestRecord
from infer_daemon.engines.call import EngineCall
from infer_daemon.engines.contract import Ended, Progress, Work
from infer_daemon.engines.health import Health
from infer_daemon.engines.pool import Pool
from infer_daemon.engines.sim import tokens
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.engines.sim.tokens import Choice, SimPayload, SimProgress
from infer_daemon.scheduling.policy import Policy
from infer_daemon.scheduling.scheduler import Scheduler
from infer_daemon.settings.schema import SimSection, WindowSection

WAIT_TIMEOUT_S = 60.0


@dataclass(slots=True)
class TokenLog:
    """A meter that remembers: (new tokens, gap) of each time it was told."""

    told: list[tuple[int, float | None]] = field(default_factory=list)
    preempted_for: list[Tier] = field(default_factory=list)

    def on_tokens(
        self, record: RequestRecord, *, new_tokens: int, gap_s: float | None, now_s: float
    ) -> None:
        """See `contract.Meter`."""
        self.told.append((new_tokens, gap_s))

    def on_preempted(self, tier: Tier) -> None:
        """See `contract.Meter`."""
        self.preempted_for.append(tier)

    @property
    def total(self) -> int:
        """All tokens."""
        return sum(count for count, _ in self.told)


@dataclass(slots=True)
class Presence:
    """A timing that knows who is in which engine, and who has ever been in one."""

    inside: dict[JobId, EngineName] = field(default_factory=dict)
    story: list[tuple[str, JobId]] = field(default_factory=list)

    def enter(self, engine: EngineName, call: JobId, *, prompt_tokens: int, seqs: int) -> None:
        """See `contract.Timing`."""
        assert call not in self.inside, "it must leave before it enters another"
        self.inside[call] = engine
        self.story.append((f"enters {engine}", call))

    def first_output(self, call: JobId) -> None:
        """See `contract.Timing`."""
        self.story.append(("first output", call))

    def leave(self, record: RequestRecord, call: JobId) -> None:
        """See `contract.Timing`."""
        if self.inside.pop(call, None) is not None:
            self.story.append(("leaves", call))


@dataclass(slots=True)
class Jury:
    """A judge that remembers what it was shown."""

    shown: list[tuple[str, list[Ended]]] = field(default_factory=list)

    def ended(self, model: str, progress: Progress) -> None:
        """See `contract.Judging`."""
        self.shown.append((model, list(progress.endings())))


def clock() -> float:
    """Loop time, virtual where the test says so."""
    return asyncio.get_running_loop().time()


def make_record() -> RequestRecord:
    """A request that has just come in."""
    record = RequestRecord(id="r", endpoint=Endpoint.CHAT, accepted_s=clock(), clock=clock)
    record.tenant = "acme"
    record.due_s = record.deadline_s = clock() + WAIT_TIMEOUT_S
    return record


class OpenDoor:
    """Admits everything; `output_tokens_max` may be lowered, or `refusal` be set."""

    def __init__(self) -> None:
        self.output_tokens_max = 1 << 30
        self.refusal: DaemonError | None = None
        self.granted_ids: list[str] = []

    def admit_tokens(
        self, record: RequestRecord, *, prompt_tokens: int, output_tokens_max: int, seqs: int
    ) -> int:
        """See `contract.Admit`."""
        if self.refusal is not None:
            raise self.refusal
        return min(output_tokens_max, self.output_tokens_max)

    def granted(self, record: RequestRecord) -> None:
        """See `contract.Admit`."""
        self.granted_ids.append(record.id)


class Rig:
    """The pool, its scheduler and its engines."""

    FANOUT_MAX = 8

    def __init__(self, health: Health | None = None) -> None:
        self.meter = TokenLog()
        self.scheduler = Scheduler(Policy(queue_len_max=100))
        self.admit = OpenDoor()
        self.timing = Presence()
        self.judge = Jury()
        self.pool = Pool(
            "pool",
            self.scheduler,
            self.meter,
            self.timing,
            self.admit,
            judge=self.judge,
            windows=defaultdict(WindowSection),
            fanout_max=self.FANOUT_MAX,
            health=health,
        )
        self.engines: list[SimEngine] = []
        self._numbers = itertools.count()

    def make(self, name: str, *, seqs_max: int = 2, **script: Any) -> SimEngine:
        """An engine that was not started yet. A step takes 10 ms unless the script says more."""
        section = SimSection(**{"step_ms": 10.0, **script})
        engine = SimEngine(EngineName(name), section, self.pool.gate, seqs_max=seqs_max)
        self.engines.append(engine)
        return engine

    async def add(self, name: str = "a", **options: Any) -> SimEngine:
        """A ready engine in the pool."""
        engine = self.make(name, **options)
        self.pool.open(engine, await engine.start(lambda _: None))
        return engine

    def work(
        self, count: int = 3, *, seqs: int = 1, has_grammar: bool = False, **options: Any
    ) -> Work:
        """A call that generates the words w0, w1, ... in each of its sequences."""
        choice = Choice([f"w{n}" for n in range(count)], "stop")
        payload = SimPayload([choice] * seqs, has_grammar=has_grammar)
        progress = SimProgress(prompt_token_ids=[1, 2], context_tokens=10**6, payload=payload)
        options = {"wants": "deltas", "prompt_tokens": 2, "progress": progress, **options}
        return Work(
            id=JobId(f"work-{next(self._numbers)}"),
            payload=payload,
            merge=tokens.merge,
            output_tokens_max=count,
            seqs=seqs,
            **options,
        )

    def run(self, work: Work, record: RequestRecord) -> EngineCall:
        """Through the gate, for that request."""
        CURRENT.set(record)
        return self.pool.gate.run(work)

    def collect(self, work: Work, record: RequestRecord) -> asyncio.Task[list[str]]:
        """Through the gate in a task of its own, to its end; the words of the first choice."""

        async def read() -> list[str]:
            outputs = self.run(work, record)
            try:
                return [word async for pieces in outputs for word in pieces[0].words]
            finally:
                await outputs.aclose()

        return asyncio.create_task(read())

    def assert_empty(self) -> None:
        """Nobody waits, nothing runs, in the scheduler and in the engines."""
        self.scheduler.check()
        assert self.timing.inside == {}
        assert (self.scheduler.waiting, self.scheduler.running) == (0, 0)
        assert [(e.stats.running, e.stats.waiting) for e in self.engines] == [(0, 0)] * len(
            self.engines
        )


@pytest.fixture
async def rig() -> AsyncGenerator[Rig, None]:
    """A pool without engines; `add` some."""
    rig = Rig()
    yield rig
    for engine in rig.engines:
        await engine.stop()


@pytest.fixture
def record() -> Callable[[], RequestRecord]:
    """Make a request; call it inside the test, where the loop runs."""
    return make_record
