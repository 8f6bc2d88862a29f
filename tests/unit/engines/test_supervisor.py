"""One engine's life, from its supervisor's side, on virtual time."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from infer_daemon.domain.errors import ClientError, EngineDied, PoolLost
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import EngineFacts, EngineStartError
from infer_daemon.engines.memory import MemoryQueue
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.engines.supervisor import Status, Supervisor
from infer_daemon.settings.schema import EngineSection, RestartSection
from tests.unit.engines.conftest import Rig

pytestmark = pytest.mark.looptime

S = EngineState
LIFE = [S.WAITING, S.STARTING, S.READY]
DEATH = [S.STOPPING, S.DEAD]


class FailingStart(SimEngine):
    """Whatever makes a start fail that may work the next time."""

    async def start(self, progress: Callable[[str], None]) -> EngineFacts:
        """See `contract.Engine.start`."""
        raise EngineStartError("Engine core initialization failed")


class Life:
    """A supervisor and what it reported."""

    def __init__(
        self,
        rig: Rig,
        *scripts: dict[str, Any],
        name: str = "a",
        needed_bytes: int = 0,
        **keys: Any,
    ) -> None:
        """Args: scripts: of each incarnation; the last is that of all that follow."""
        self.pool = rig.pool
        self.status = rig.pool.statuses[EngineName(name)] = Status()
        self.states: list[EngineState] = []
        self.steps: list[str] = []
        self.engines: list[SimEngine] = []
        self._scripts = [*scripts] or [{}]
        self._rig = rig
        section = EngineSection(
            model="echo", kind="sim", start_timeout_s=10, **{"stall_timeout_s": 5, **keys}
        )
        self.memory = MemoryQueue(lambda: 200_000_000)
        self.supervisor = Supervisor(
            EngineName(name),
            lambda: self.make(),
            section=section,
            status=self.status,
            place=rig.pool,
            memory=self.memory,
            memory_bytes=needed_bytes,
            on_change=self._on_change,
            chance=lambda: 1.0,
        )

    def make(self) -> SimEngine:
        """The next incarnation."""
        script = self._scripts[min(len(self.engines), len(self._scripts) - 1)]
        self.engines.append(self._rig.make(self.supervisor.name, **script))
        return self.engines[-1]

    def _on_change(self, _: EngineName, status: Status) -> None:
        self.pool.look_ahead()
        self.steps.append(status.step)
        if self.states[-1:] != [status.state]:
            self.states.append(status.state)

    @asynccontextmanager
    async def running(self, seconds: float = 1.0) -> AsyncGenerator[SimEngine, None]:
        """Run it for the length of the block, which begins after so long with its engine."""
        task = asyncio.create_task(self.supervisor.run())
        await asyncio.sleep(seconds)
        try:
            yield self.engines[-1]
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self.supervisor.stop()

    @property
    def is_open(self) -> bool:
        """Whether the engine is offered work."""
        return self.supervisor.name in self.pool.facts


async def test_a_start_that_works_opens_the_engines_place(rig: Rig) -> None:
    life = Life(rig, {"start_s": 3, "seqs_max": 7})
    async with life.running(1):
        assert (life.status.state, life.status.step) == (S.STARTING, "pretending to load")
        assert not life.is_open
        await asyncio.sleep(3)

        assert life.is_open
        assert life.status.facts is not None
        assert life.status.facts.seqs_max == 7
        assert life.status.since_s == pytest.approx(3)
        assert life.states == LIFE


async def test_a_start_that_can_never_work_is_final_and_says_why(rig: Rig) -> None:
    life = Life(rig, {"fail_start": "no such model"})
    await life.supervisor.run()
    await life.supervisor.stop()

    assert (life.status.state, life.status.reason) == (S.FAILED, "no such model")
    assert life.states == [S.WAITING, S.STARTING, S.STOPPING, S.FAILED]
    assert not life.is_open


async def test_a_start_that_takes_too_long_is_tried_again_until_there_were_too_many(
    rig: Rig,
) -> None:
    life = Life(rig, {"start_s": 60}, restart=RestartSection(starts_max=2, delay_s=4))
    await life.supervisor.run()

    assert asyncio.get_running_loop().time() == pytest.approx(10 + 4 + 10)
    assert life.status.state is S.FAILED
    assert "not ready after 10 s (start_timeout_s)" in life.status.reason
    assert "pretending to load" in life.status.reason
    assert "could not be started 2 times (restart.starts_max)" in life.status.reason
    assert all(engine.is_killed for engine in life.engines)


async def test_a_start_that_fails_once_only_costs_time(rig: Rig) -> None:
    life = Life(rig, {"start_s": 60}, {})
    async with life.running(12):
        assert life.states == [S.WAITING, S.STARTING, *DEATH, *LIFE]
        assert life.status.restarts == 1
        assert life.is_open


async def test_a_start_that_fails_says_how_much_memory_it_needs_and_was_free(rig: Rig) -> None:
    life = Life(rig, needed_bytes=1_640_000_000)
    life.make = lambda: FailingStart(  # type: ignore[method-assign]
        EngineName("a"), life._rig.make("x")._script, rig.pool.gate, seqs_max=1
    )
    await life.supervisor.run()

    assert life.status.reason.startswith(
        "Engine core initialization failed (a start needs about 1.6 GB of memory, 0.2 GB were free)"
    )


async def test_waiting_for_memory_does_not_count_against_the_start(rig: Rig) -> None:
    life = Life(rig, {"start_s": 3}, needed_bytes=300_000_000)
    async with life.memory.room("another", 1):
        task = asyncio.create_task(life.supervisor.run())
        await asyncio.sleep(60)
        assert (life.status.state, life.status.step) == (S.WAITING, "waiting for memory")
    await asyncio.sleep(5)

    assert life.status.state is S.READY
    task.cancel()
    await asyncio.wait([task])


async def test_an_engine_that_dies_is_closed_at_once_and_started_again(rig: Rig) -> None:
    life = Life(rig, {"start_s": 3})
    async with life.running(4) as first:
        first.kill("out of memory")
        await asyncio.sleep(0.01)
        assert not life.is_open
        assert (life.status.state, life.status.reason) == (S.DEAD, "out of memory")
        assert life.status.step == "starts again in 0.5 s"
        await asyncio.sleep(1)
        assert (life.status.state, life.status.reason) == (S.STARTING, "")
        assert life.pool.why_not_ready(None) == (
            "engine a is starting: pretending to load (restart 1, after: out of memory)"
        )
        await asyncio.sleep(3)

        assert life.is_open
        assert life.states == [*LIFE, *DEATH, *LIFE]
        assert (life.status.restarts, life.status.last_end) == (1, "out of memory")


async def test_an_engine_that_died_is_expected_back_when_its_last_start_would_have_it(
    rig: Rig,
) -> None:
    life = Life(rig, {"start_s": 3})
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(life.supervisor.run())
    await asyncio.sleep(1)
    assert life.status.back_s is None
    await asyncio.sleep(3)
    life.engines[0].kill("out of memory")
    await asyncio.sleep(0.1)
    expected_s = life.status.back_s
    assert expected_s is not None
    assert life.pool.back_s == expected_s == pytest.approx(loop.time() - 0.1 + 0.5 + 3, abs=0.3)
    await asyncio.sleep(expected_s - loop.time() - 0.1)
    assert life.status.back_s == expected_s
    await asyncio.sleep(0.2)

    assert (life.status.state, life.status.back_s) == (S.READY, None)
    task.cancel()
    await asyncio.wait([task])


async def test_a_dead_engine_that_is_drained_is_not_expected_back(rig: Rig) -> None:
    life = Life(rig, {"start_s": 3})
    async with life.running(4) as first:
        first.kill("out of memory")
        await asyncio.sleep(0.1)
        assert life.status.back_s is not None
        life.supervisor.drain()
        assert life.status.back_s is None
        await asyncio.sleep(10)

        assert (life.status.state, life.status.back_s) == (S.DRAINING, None)


async def test_each_incarnation_has_a_front_end_of_its_own_and_answers(
    rig: Rig, record: Callable[[], RequestRecord]
) -> None:
    life = Life(rig)
    async with life.running(1) as first:
        frontend = rig.pool.frontend(None)
        first.kill()
        await asyncio.sleep(1)

        assert rig.pool.frontend(None) is life.engines[1].frontend is not frontend
        assert await rig.collect(rig.work(), record()) == ["w0", "w1", "w2"]
        assert life.engines[1].steps == 3


async def test_an_engine_that_dies_again_and_again_is_given_up(rig: Rig) -> None:
    life = Life(rig, restart=RestartSection(deaths_max=2))
    task = asyncio.create_task(life.supervisor.run())
    for _ in range(3):
        await asyncio.sleep(30)
        life.engines[-1].kill("out of memory")
    await task

    assert life.status.state is S.FAILED
    assert life.status.reason == (
        "out of memory; given up: died 3 times within 900 s (restart.deaths_max)"
    )
    assert life.pool.is_lost


async def test_calls_that_lost_their_engine_wait_through_its_restarts_and_those_behind_them_too(
    rig: Rig, record: Callable[[], RequestRecord]
) -> None:
    life = Life(rig, {"seqs_max": 1, "start_s": 3}, {"start_s": 60}, {"seqs_max": 1, "start_s": 3})
    async with life.running(4) as first:
        running, one = rig.collect(rig.work(50), ran := record()), record()
        await asyncio.sleep(0.105)
        waiting = rig.collect(rig.work(), one)
        await asyncio.sleep(0)
        first.kill("out of memory")

        assert len(await running) == 50
        assert await waiting == ["w0", "w1", "w2"]
        assert life.status.restarts == 2
        assert (ran.prompt_tokens, ran.completion_tokens) == (2, 50)
        assert (one.prompt_tokens, one.waste_continuation_tokens) == (2, 0)
        rig.assert_empty()


async def test_calls_end_when_the_engine_that_they_wait_for_is_given_up(
    rig: Rig, record: Callable[[], RequestRecord]
) -> None:
    life = Life(rig, {"seqs_max": 1}, {"start_s": 60}, restart=RestartSection(starts_max=1))
    async with life.running() as first:
        running = rig.collect(rig.work(50), ran := record())
        await asyncio.sleep(0.105)
        waiting = rig.collect(rig.work(), waited := record())
        await asyncio.sleep(0)
        first.kill()
        await asyncio.wait([running, waiting])

        assert life.status.state is S.FAILED
        assert isinstance(running.exception(), EngineDied)
        assert isinstance(waiting.exception(), PoolLost)
        assert (ran.calls_open, waited.calls_open) == (0, 0)
        rig.assert_empty()


async def test_deaths_in_a_row_are_followed_by_longer_and_longer_pauses(rig: Rig) -> None:
    life = Life(rig, {"step_ms": 1})
    pauses_s = []
    async with life.running(1):
        for _ in range(4):
            life.engines[-1].kill()
            before_s, number = asyncio.get_running_loop().time(), len(life.engines)
            while len(life.engines) == number:
                await asyncio.sleep(0.01)
            pauses_s.append(asyncio.get_running_loop().time() - before_s)
            await asyncio.sleep(1)

    assert pauses_s == pytest.approx([0.5, 1, 2, 4], abs=0.02)


async def test_an_engine_that_hangs_is_killed_and_started_again_and_goes_on_with_its_calls(
    rig: Rig, record: Callable[[], RequestRecord]
) -> None:
    life = Life(rig, {"hang_after_tokens": 5}, {})
    async with life.running(1) as hung:
        begun_s = asyncio.get_running_loop().time()
        assert len(await rig.collect(rig.work(100), record())) == 100

        assert asyncio.get_running_loop().time() - begun_s <= 5 + 0.5 + 1 + 0.5
        assert hung.is_killed
        assert life.status.last_end.startswith("no step for 5.")
        assert life.status.last_end.endswith("s (stall_timeout_s) with 1 call in flight")
        assert await rig.collect(rig.work(), record()) == ["w0", "w1", "w2"]


async def test_an_engine_that_has_nothing_to_do_or_works_slowly_is_left_alone(
    rig: Rig, record: Callable[[], RequestRecord]
) -> None:
    life = Life(rig, {"step_ms": 4000})
    async with life.running(1000):
        assert len(await rig.collect(rig.work(20), record())) == 20
        assert life.states == LIFE


async def test_a_death_costs_nobody_anything_while_there_is_another_replica(
    rig: Rig, record: Callable[[], RequestRecord]
) -> None:
    lives = [Life(rig, {"seqs_max": 2}, name=name) for name in ("a", "b")]
    async with lives[0].running() as first, lives[1].running():
        running = [rig.collect(rig.work(1000), record()) for _ in range(4)]
        waiting = [rig.collect(rig.work(), record()) for _ in range(3)]
        await asyncio.sleep(1)
        first.kill()
        answers = await asyncio.gather(*running)
        served = await asyncio.gather(*waiting, return_exceptions=True)

        assert [len(answer) for answer in answers] == [1000] * 4
        assert served == [["w0", "w1", "w2"]] * 3
        rig.assert_empty()


async def test_a_drained_engine_ends_what_it_has_and_is_given_no_more(
    rig: Rig, record: Callable[[], RequestRecord]
) -> None:
    lives = [Life(rig, {"seqs_max": 1}, name=name) for name in ("a", "b")]
    async with lives[0].running(), lives[1].running():
        running = [rig.collect(rig.work(50), record()) for _ in range(2)]
        await asyncio.sleep(0.1)
        waiting = [rig.collect(rig.work(50), record()) for _ in range(4)]
        for _ in range(2):
            lives[0].supervisor.drain()
        assert lives[0].status.state is S.DRAINING
        assert not lives[0].is_open
        ends = await asyncio.gather(*running, *waiting)

        assert [len(words) for words in ends] == [50] * 6
        assert [life.engines[0].steps for life in lives] == [50, 5 * 50]
        rig.assert_empty()


async def test_an_engine_that_is_no_longer_drained_is_given_work_again(
    rig: Rig, record: Callable[[], RequestRecord]
) -> None:
    life = Life(rig)
    async with life.running():
        life.supervisor.drain()
        for _ in range(2):
            life.supervisor.undrain()

        assert life.states == [*LIFE, S.DRAINING, S.READY]
        assert await rig.collect(rig.work(), record()) == ["w0", "w1", "w2"]


async def test_an_engine_that_is_drained_stays_so_when_it_is_started_again(rig: Rig) -> None:
    life = Life(rig, {"start_s": 3})
    async with life.running(1):
        life.supervisor.drain()
        await asyncio.sleep(3)
        assert life.status.state is S.DRAINING
        life.engines[-1].kill()
        await asyncio.sleep(4)

        assert life.status.restarts == 1
        assert life.status.state is S.DRAINING
        assert not life.is_open
        life.supervisor.undrain()
        assert life.is_open


async def test_a_drained_engine_that_hangs_is_a_death_too_and_its_calls_wait_for_its_return(
    rig: Rig, record: Callable[[], RequestRecord]
) -> None:
    life = Life(rig, {"hang_after_tokens": 5}, {})
    async with life.running() as hung:
        running = rig.collect(rig.work(50), record())
        await asyncio.sleep(0.1)
        life.supervisor.drain()
        await asyncio.sleep(10)
        assert hung.is_killed
        assert life.status.state is S.DRAINING
        assert not running.done()
        life.supervisor.undrain()

        assert len(await running) == 50


async def test_an_engine_that_has_failed_can_be_neither_drained_nor_the_opposite(rig: Rig) -> None:
    life = Life(rig, {"fail_start": "no such model"})
    await life.supervisor.run()

    for act in (life.supervisor.drain, life.supervisor.undrain):
        with pytest.raises(ClientError, match="engine a is failed: no such model"):
            act()


@pytest.mark.parametrize("after_s", [0.0, 1.0, 5.0, 6.2, 6.7])
async def test_stopping_is_idempotent_at_any_moment(rig: Rig, after_s: float) -> None:
    life = Life(rig, {"start_s": 3})
    task = asyncio.create_task(life.supervisor.run())
    dying = asyncio.get_running_loop().call_later(6, lambda: life.engines[0].kill())
    await asyncio.sleep(after_s)
    dying.cancel()
    task.cancel()
    await asyncio.wait([task])
    for _ in range(2):
        await life.supervisor.stop()

    assert life.status.state is S.STOPPED
    assert life.states[-2] in (S.STOPPING, S.DEAD)
    assert not life.is_open
