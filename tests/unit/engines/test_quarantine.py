"""Several suspects that wait for an engine of their own, on virtual time.

Each is woken by what the others do. To wake them in turn would be an endless loop in which no time
passes: so it is counted how often the pool is looked through, and too often is a failure.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable

import pytest

from infer_daemon.domain.errors import WaitedTooLong
from infer_daemon.domain.jobs import EngineName, WindowLimits
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.contract import Engine
from infer_daemon.engines.quarantine import Quarantine
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.scheduling.policy import Policy
from infer_daemon.scheduling.scheduler import Scheduler
from tests.unit.engines.conftest import Rig, clock, make_record

pytestmark = pytest.mark.looptime

LOOKS_MAX = 100
LIMITS = WindowLimits(seqs=4, kv_tokens=1000, prefill_tokens=1000)


class House:
    """A quarantine, the engines beside it and who is in them."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._looks = 0
        self.engines: dict[EngineName, Engine] = {}
        self.inside: dict[Engine, set[str]] = {}
        self.records: defaultdict[str, RequestRecord] = defaultdict(make_record)
        self.story: list[str] = []
        self.quarantine = Quarantine(
            Scheduler(Policy(queue_len_max=10)),
            self.engines,
            limits_of=self._limits,
            count=lambda: 3,
            requests_in=lambda engine: {one: self.records[one] for one in self.inside[engine]},
        )

    def _limits(self, name: EngineName) -> WindowLimits:
        self._looks += 1
        assert self._looks < LOOKS_MAX, "the suspects wake each other for ever"
        return LIMITS

    def come(self, name: str) -> SimEngine:
        """An engine is ready."""
        engine = self._rig.make(name)
        self.engines[engine.name] = engine
        self.inside[engine] = set()
        self.quarantine.review(were_opened=True)
        return engine

    def die(self, engine: Engine) -> None:
        """An engine dies under everybody who is in it."""
        del self.engines[engine.name]
        self.quarantine.died(engine)
        self.inside[engine] = set()

    def suspect(self, requests: Iterable[str]) -> None:
        """Two engines have died under these requests, the first of which is the first suspect."""
        for request in requests:
            for name in "ab":
                engine = self.come(name)
                self.inside[engine] = {request}
                self.die(engine)
            assert self.quarantine.is_suspect(request)
        self.come("last")

    def wait(self, request: str, *, deadline_s: float = 1000, stays_s: float = 10) -> "Waiter":
        """It waits for an engine of its own, in which it stays so long."""
        return asyncio.create_task(self._visit(request, deadline_s, stays_s))

    async def _visit(self, request: str, deadline_s: float, stays_s: float) -> None:
        try:
            name = await self.quarantine.turn(request, deadline_s, is_over=lambda: False)
            engine = self.engines[name]
            self.story.append(f"{clock():.0f} {request} enters")
            assert self.inside[engine] == set(), "it is not alone"
            self.inside[engine] = {request}
            try:
                await asyncio.sleep(stays_s)
            finally:
                self.inside[engine] = set()
        finally:
            self.quarantine.forget(request)


Waiter = asyncio.Task[None]


@pytest.fixture
def house(rig: Rig) -> House:
    return House(rig)


@pytest.mark.parametrize("count", [2, 3])
async def test_suspects_that_wait_have_an_engine_one_after_the_other(
    house: House, count: int
) -> None:
    requests = [f"r{number}" for number in range(count)]
    house.suspect(requests)
    waiting = [house.wait(request) for request in reversed(requests)]
    await asyncio.sleep(10)
    assert house.story == [], "none enters the last healthy engine"
    house.come("a")
    await asyncio.gather(*waiting)

    assert house.story == [f"{10 + 10 * number} r{number} enters" for number in range(count)]


async def test_a_suspect_whose_client_leaves_gives_its_turn_to_the_next(house: House) -> None:
    house.suspect(["first", "second", "third"])
    first, second, third = map(house.wait, ["first", "second", "third"])
    await asyncio.sleep(1)
    second.cancel()
    await asyncio.sleep(1)
    house.come("a")
    await asyncio.sleep(1)
    first.cancel()
    await third

    assert house.story == ["2 first enters", "3 third enters"]


async def test_a_suspect_that_waits_too_long_does_not_keep_the_others(house: House) -> None:
    house.suspect(["first", "second"])
    first, second = house.wait("first", deadline_s=3), house.wait("second")
    with pytest.raises(WaitedTooLong):
        await first
    assert clock() == 3
    house.come("a")
    await second

    assert house.story == ["3 second enters"]


async def test_the_death_of_an_engine_under_a_suspect_lets_the_next_have_another(
    house: House,
) -> None:
    house.suspect(["first", "second"])
    first, second = house.wait("first", stays_s=1000), house.wait("second")
    house.come("a")
    await asyncio.sleep(1)
    house.die(*(engine for engine, requests in house.inside.items() if requests))
    await asyncio.sleep(1)
    assert len(house.story) == 1, "the other engine is the last"
    house.come("b")
    await second
    first.cancel()

    assert house.story == ["0 first enters", "2 second enters"]
