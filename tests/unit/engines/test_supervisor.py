"""One engine's life, from its supervisor's side, on virtual time."""

import asyncio
from collections.abc import Callable

import pytest

from infer_daemon.domain.errors import EngineDied
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.memory import MemoryQueue
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.engines.supervisor import Status, Supervisor
from tests.unit.engines.conftest import Rig

pytestmark = pytest.mark.looptime


class Life:
    """A supervisor and what it reported."""

    def __init__(self, rig: Rig, engine: SimEngine) -> None:
        self.pool = rig.pool
        self.status = Status()
        self.states: list[EngineState] = []
        self.steps: list[str] = []
        self.supervisor = Supervisor(
            engine,
            status=self.status,
            place=rig.pool,
            memory=MemoryQueue(lambda: 0),
            memory_bytes=1,
            start_timeout_s=10,
            on_change=self._on_change,
        )

    def _on_change(self, _: EngineName, status: Status) -> None:
        self.steps.append(status.step)
        if self.states[-1:] != [status.state]:
            self.states.append(status.state)

    @property
    def is_open(self) -> bool:
        """Whether the engine is offered work."""
        return bool(self.pool.facts)


async def test_a_start_that_works_opens_the_engines_place(rig: Rig) -> None:
    life = Life(rig, rig.make("a", start_s=3, seqs_max=7))
    task = asyncio.create_task(life.supervisor.run())
    await asyncio.sleep(1)
    assert (life.status.state, life.status.step) == (EngineState.STARTING, "pretending to load")
    assert not life.is_open
    await asyncio.sleep(3)

    assert life.is_open
    assert life.status.facts is not None
    assert life.status.facts.seqs_max == 7
    assert life.status.since_s == pytest.approx(3)
    assert life.states == [EngineState.WAITING, EngineState.STARTING, EngineState.READY]
    task.cancel()
    await asyncio.wait([task])


async def test_a_start_that_fails_is_final_and_says_why(rig: Rig) -> None:
    life = Life(rig, rig.make("a", fail_start="no such model"))
    await life.supervisor.run()
    await life.supervisor.stop()

    assert (life.status.state, life.status.reason) == (EngineState.FAILED, "no such model")
    assert not life.is_open


async def test_a_start_that_takes_too_long_fails_and_names_its_last_step(rig: Rig) -> None:
    life = Life(rig, rig.make("a", start_s=60))
    await life.supervisor.run()

    assert asyncio.get_running_loop().time() == pytest.approx(10)
    assert life.status.state is EngineState.FAILED
    assert "not ready after 10 s (start_timeout_s)" in life.status.reason
    assert "pretending to load" in life.status.reason


async def test_waiting_for_memory_does_not_count_against_the_start(rig: Rig) -> None:
    life = Life(rig, rig.make("a", start_s=3))
    async with life.supervisor._memory.room("another", 1):
        task = asyncio.create_task(life.supervisor.run())
        await asyncio.sleep(60)
        assert (life.status.state, life.status.step) == (EngineState.WAITING, "waiting for memory")
    await asyncio.sleep(5)

    assert life.status.state is EngineState.READY
    task.cancel()
    await asyncio.wait([task])


async def test_an_engine_that_dies_is_closed_and_says_why(rig: Rig) -> None:
    engine = rig.make("a")
    life = Life(rig, engine)
    task = asyncio.create_task(life.supervisor.run())
    await asyncio.sleep(1)
    engine.kill("out of memory")
    await task

    assert (life.status.state, life.status.reason) == (EngineState.DEAD, "out of memory")
    assert not life.is_open
    await life.supervisor.stop()
    assert life.status.state is EngineState.DEAD


async def test_a_death_costs_those_who_still_wait_nothing_while_there_is_another_replica(
    rig: Rig, record: Callable[[], RequestRecord]
) -> None:
    engines = [rig.make(name, seqs_max=2) for name in ("a", "b")]
    tasks = [asyncio.create_task(Life(rig, engine).supervisor.run()) for engine in engines]
    await asyncio.sleep(1)
    running = [rig.collect(rig.work(1000), record()) for _ in range(4)]
    waiting = [rig.collect(rig.work(), record()) for _ in range(3)]
    await asyncio.sleep(1)
    engines[0].kill()
    lost = [type(end) for end in await asyncio.gather(*running, return_exceptions=True)]
    served = await asyncio.gather(*waiting, return_exceptions=True)

    assert lost.count(EngineDied) == 2
    assert served == [["w0", "w1", "w2"]] * 3
    rig.assert_empty()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("after_s", [0.0, 1.0, 5.0])
async def test_stopping_is_idempotent_at_any_moment(rig: Rig, after_s: float) -> None:
    life = Life(rig, rig.make("a", start_s=3))
    task = asyncio.create_task(life.supervisor.run())
    await asyncio.sleep(after_s)
    task.cancel()
    await asyncio.wait([task])
    for _ in range(2):
        await life.supervisor.stop()

    assert life.status.state is EngineState.STOPPED
    assert life.states[-2:] == [EngineState.STOPPING, EngineState.STOPPED]
    assert not life.is_open
