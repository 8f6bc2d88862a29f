"""What each stage of a call may take: first the rule, then in a pool, on virtual time."""

import asyncio
from collections.abc import Callable
from math import inf

import pytest

from infer_daemon.domain.errors import (
    DaemonError,
    FirstTokenTimeout,
    TokenTimeout,
    TotalTimeout,
)
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.supervisor import Status
from infer_daemon.engines.timeouts import Stage, StageLimits, due
from tests.unit.engines.conftest import Rig, clock

pytestmark = pytest.mark.looptime

Record = Callable[[], RequestRecord]
A = EngineName("a")
LIMITS = StageLimits(first_token_s=3.0, token_gap_s=1.0, total_s=20.0)
HANGS = {"hang_after_tokens": 4}


def words(count: int) -> list[str]:
    return [f"w{n}" for n in range(count)]


@pytest.mark.parametrize(
    ("stage", "end_s", "error"),
    [
        pytest.param(Stage(5, None, has_output=False), 25, TotalTimeout, id="waiting"),
        pytest.param(Stage(5, 10, has_output=False), 13, FirstTokenTimeout, id="reading"),
        pytest.param(Stage(5, 10, has_output=True), 11, TokenTimeout, id="answering"),
        pytest.param(Stage(5, 24.5, has_output=True), 25, TotalTimeout, id="soon too long"),
    ],
)
def test_a_call_is_due_with_the_stage_that_it_is_in(
    stage: Stage, end_s: float, error: type[DaemonError]
) -> None:
    found_s, found = due(LIMITS, stage)

    assert (found_s, type(found)) == (end_s, error)
    assert found.should_retry is (False if error is TotalTimeout else None)


def test_without_limits_nothing_is_ever_due() -> None:
    assert due(StageLimits(), Stage(0, 5, has_output=True))[0] == inf


async def test_a_first_token_that_does_not_come_ends_the_call(rig: Rig, record: Record) -> None:
    engine = await rig.add(prefill_tokens_per_step=1, step_ms=1000.0)
    rig.pool.gate.limit_stages(LIMITS)
    one = record()
    reading = rig.collect(rig.work(wants="final", prompt_tokens=100), one)

    with pytest.raises(FirstTokenTimeout):
        await reading
    assert clock() == pytest.approx(3.0)
    assert isinstance(one.refusal, FirstTokenTimeout)
    assert engine.in_flight == 0
    rig.assert_empty()


@pytest.mark.parametrize("wants", ["deltas", "final"])
async def test_a_next_token_that_does_not_come_ends_the_call(
    rig: Rig, record: Record, wants: str
) -> None:
    await rig.add(**HANGS)
    rig.pool.gate.limit_stages(LIMITS)
    reading = rig.collect(rig.work(wants=wants, count=9), record())

    with pytest.raises(TokenTimeout):
        await reading
    assert clock() == pytest.approx(0.04 + 1.0)
    rig.assert_empty()


async def test_a_call_that_ends_is_out_of_its_engine_before_its_reader_comes(
    rig: Rig, record: Record
) -> None:
    engine = await rig.add(step_ms=400.0)
    rig.pool.gate.limit_stages(StageLimits(total_s=5.0))
    outputs = rig.run(rig.work(100), record())
    await anext(outputs)
    await asyncio.sleep(10)

    assert (engine.in_flight, rig.scheduler.running) == (0, 0)
    assert len((await anext(outputs))[0].words) == 11, "what came before is read"
    with pytest.raises(TotalTimeout):
        await anext(outputs)
    rig.assert_empty()


async def test_a_request_that_waits_ends_in_time_too(rig: Rig, record: Record) -> None:
    await rig.add(seqs_max=1, step_ms=1000.0)
    rig.pool.gate.limit_stages(StageLimits(total_s=5.0))
    long = rig.collect(rig.work(100), record())
    await asyncio.sleep(2)
    waiting = rig.collect(rig.work(100), record())

    with pytest.raises(TotalTimeout):
        await long
    assert clock() == pytest.approx(5.0)
    with pytest.raises(TotalTimeout):
        await waiting
    assert clock() == pytest.approx(7.0)
    rig.assert_empty()


async def test_a_call_that_moves_is_left_alone(rig: Rig, record: Record) -> None:
    await rig.add(step_ms=900.0, prefill_tokens_per_step=1)
    rig.pool.gate.limit_stages(LIMITS)

    assert await rig.collect(rig.work(15), record()) == words(15)
    rig.assert_empty()


async def test_the_wait_for_another_engine_is_no_gap_between_tokens(
    rig: Rig, record: Record
) -> None:
    await rig.add("a")
    rig.pool.statuses[EngineName("a")] = Status(EngineState.WAITING)
    rig.pool.gate.limit_stages(LIMITS)
    one = record()
    reading = rig.collect(rig.work(20), one)
    await asyncio.sleep(0.055)
    rig.engines[0].kill()
    rig.pool.close(EngineName("a"))
    await asyncio.sleep(10)
    await rig.add("a")

    assert await reading == words(20)
    rig.assert_empty()


async def test_other_limits_hold_for_calls_that_are_under_way(rig: Rig, record: Record) -> None:
    await rig.add(**HANGS)
    reading = rig.collect(rig.work(9), record())
    await asyncio.sleep(50)
    rig.pool.gate.limit_stages(StageLimits(token_gap_s=60.0))

    with pytest.raises(TokenTimeout):
        await reading
    assert clock() == pytest.approx(60.04)
    rig.assert_empty()


async def test_each_of_many_calls_ends_in_its_own_time(rig: Rig, record: Record) -> None:
    await rig.add(seqs_max=50, hang_after_tokens=1)
    rig.pool.gate.limit_stages(StageLimits(token_gap_s=2.0, first_token_s=3.5))
    with pytest.raises(TokenTimeout):
        await rig.collect(rig.work(), record())
    begun_s = [clock() + 0.37 * number for number in range(8)]

    async def ask(begin_s: float) -> float:
        await asyncio.sleep(begin_s - clock())
        with pytest.raises(FirstTokenTimeout):
            await rig.collect(rig.work(9), record())
        return clock()

    ends_s = await asyncio.gather(*map(ask, begun_s))
    assert ends_s == pytest.approx([begin_s + 3.5 for begin_s in begun_s])
    rig.assert_empty()


async def test_an_engine_that_keeps_calls_waiting_again_and_again_is_left_alone(
    rig: Rig, record: Record
) -> None:
    await rig.add(seqs_max=20, hang_after_tokens=1)
    rig.pool.gate.limit_stages(StageLimits(token_gap_s=2.0))
    calls = [rig.collect(rig.work(), record()) for _ in range(10)]
    ends = await asyncio.gather(*calls, return_exceptions=True)

    assert {type(end) for end in ends} == {TokenTimeout}
    assert rig.pool.health.endings(A) == {"timeout": 10}
    assert rig.pool.is_broken
    rig.assert_empty()


async def test_a_request_that_takes_too_long_altogether_says_nothing_of_its_engine(
    rig: Rig, record: Record
) -> None:
    await rig.add()
    rig.pool.gate.limit_stages(StageLimits(total_s=1.0))
    with pytest.raises(TotalTimeout):
        await rig.collect(rig.work(1000), record())

    assert rig.pool.health.endings(A) == {"client": 1}
    rig.assert_empty()
