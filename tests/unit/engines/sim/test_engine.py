"""The simulated engine by itself: its scripts, its steps and its memory."""

import asyncio

import pytest

from infer_daemon.domain.errors import EngineDied
from infer_daemon.domain.jobs import JobId
from infer_daemon.engines.contract import EngineStartError, Work
from infer_daemon.engines.sim.engine import SimEngine
from tests.unit.engines.conftest import Rig, clock

pytestmark = pytest.mark.looptime


class Output:
    """A sink that remembers when what came."""

    def __init__(self) -> None:
        self.tokens_s: list[float] = []
        self.ended_s: float | None = None
        self.error: Exception | None = None

    def deliver(
        self, output: object, *, new_tokens: int, cached_tokens: int, finished: bool
    ) -> None:
        """See `contract.Sink`."""
        assert self.ended_s is None, "an output after the end"
        self.tokens_s += [round(clock(), 3)] * new_tokens
        self.ended_s = clock() if finished else None

    def fail(self, error: Exception) -> None:
        """See `contract.Sink`."""
        self.error, self.ended_s = error, clock()


async def started(rig: Rig, **script: float) -> SimEngine:
    """An engine outside of the pool."""
    engine = rig.make("a", **script)
    await engine.start(lambda _: None)
    return engine


async def submit(engine: SimEngine, *works: Work) -> list[Output]:
    """Give the engine these calls at once."""
    outputs = []
    for work in works:
        outputs.append(Output())
        await engine.submit(work, outputs[-1])
    return outputs


async def test_every_running_call_gets_one_token_a_step(rig: Rig) -> None:
    engine = await started(rig)
    outputs = await submit(engine, rig.work(3), rig.work(2), rig.work(1, seqs=2))
    await asyncio.sleep(1)

    assert [output.tokens_s for output in outputs] == [
        [0.01, 0.02, 0.03],
        [0.01, 0.02],
        [0.01, 0.01],
    ]
    assert engine.stats.running == 0


async def test_a_long_prompt_takes_steps_before_its_first_token(rig: Rig) -> None:
    engine = await started(rig, prefill_tokens_per_step=10)
    (output,) = await submit(engine, rig.work(1, prompt_tokens=25))
    await asyncio.sleep(1)

    assert output.tokens_s == [0.03]


async def test_calls_that_do_not_fit_into_memory_wait_inside_in_order(rig: Rig) -> None:
    engine = await started(rig, kv_tokens=20)
    works = [rig.work(8), rig.work(8), rig.work(2)]
    outputs = await submit(engine, *works)
    await asyncio.sleep(0.015)
    assert (engine.stats.running, engine.stats.waiting) == (2, 1)
    assert 0 < engine.stats.kv_usage <= 1
    await asyncio.sleep(1)

    assert [output.tokens_s[0] for output in outputs] == [0.01, 0.01, 0.09]


async def test_a_call_larger_than_the_memory_runs_alone(rig: Rig) -> None:
    engine = await started(rig, kv_tokens=20)
    large, small = await submit(engine, rig.work(50), rig.work(1))
    await asyncio.sleep(1)

    assert (large.tokens_s[-1], small.tokens_s) == (0.5, [0.51])


async def test_an_engine_dies_after_as_many_tokens_as_it_was_told(rig: Rig) -> None:
    engine = await started(rig, die_after_tokens=5)
    outputs = await submit(engine, rig.work(100), rig.work(100))

    assert "die_after_tokens" in await engine.died()
    assert [len(output.tokens_s) for output in outputs] == [3, 3]
    assert all(isinstance(output.error, EngineDied) for output in outputs)
    with pytest.raises(EngineDied):
        await submit(engine, rig.work())


async def test_an_engine_that_hangs_keeps_its_calls_and_says_nothing(rig: Rig) -> None:
    engine = await started(rig, hang_after_tokens=3)
    (output,) = await submit(engine, rig.work(100))
    await asyncio.sleep(1000)

    assert len(output.tokens_s) == 3
    assert output.ended_s is None
    assert engine.stats.running == 1
    await engine.stop()
    assert isinstance(output.error, EngineDied)


async def test_an_aborted_call_gets_nothing_more_running_or_waiting(rig: Rig) -> None:
    engine = await started(rig, kv_tokens=20)
    works = [rig.work(15), rig.work(15)]
    outputs = await submit(engine, *works)
    await asyncio.sleep(0.025)
    for work in works:
        await engine.abort(work.id)
    await engine.abort(JobId("nobody"))
    await asyncio.sleep(1)

    assert [len(output.tokens_s) for output in outputs] == [2, 0]
    assert (engine.stats.running, engine.stats.waiting) == (0, 0)


async def test_a_start_takes_its_time_and_can_fail(rig: Rig) -> None:
    steps: list[str] = []
    with pytest.raises(EngineStartError, match="no such model"):
        await rig.make("a", start_s=7, fail_start="no such model").start(steps.append)

    assert clock() == pytest.approx(7)
    assert steps == ["pretending to load"]


async def test_an_engine_can_be_stopped_before_and_after_its_start_and_twice(rig: Rig) -> None:
    await rig.make("never-started").stop()
    engine = await started(rig)
    (output,) = await submit(engine, rig.work(100))
    for _ in range(2):
        await engine.stop()

    assert isinstance(output.error, EngineDied)
