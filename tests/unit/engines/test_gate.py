"""The gate with simulated engines behind it and a real scheduler, on virtual time."""

import asyncio
import itertools
from collections.abc import Callable

import pytest

from infer_daemon.domain.errors import (
    CutShort,
    DaemonError,
    EngineDied,
    FanoutTooLarge,
    ModelNotReady,
    PoolLost,
    WaitedTooLong,
)
from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.domain.record import CURRENT, RequestRecord
from infer_daemon.engines.contract import EngineFacts, Sink, Work
from infer_daemon.engines.pacing import BEGUN_AT_ONCE
from infer_daemon.engines.sim.engine import SimEngine
from tests.unit.engines.conftest import WAIT_TIMEOUT_S, Rig, clock

pytestmark = pytest.mark.looptime

Record = Callable[[], RequestRecord]
WORDS = ["w0", "w1", "w2"]


class SlowToTake:
    """An engine that needs a moment to take a call, as one in another process does."""

    def __init__(self, engine: SimEngine) -> None:
        self._engine = engine
        self.name = engine.name
        self.go = asyncio.Event()

    async def check(self, work: Work) -> None:
        """See `contract.Engine`."""

    async def submit(self, work: Work, sink: Sink) -> None:
        """See `contract.Engine`."""
        await self.go.wait()
        await self._engine.submit(work, sink)

    async def abort(self, work_id: JobId) -> None:
        """See `contract.Engine`."""
        await self._engine.abort(work_id)


async def test_a_call_gets_an_engine_and_leaves_nothing_behind(rig: Rig, record: Record) -> None:
    await rig.add("a")
    one = record()

    assert await rig.collect(rig.work(), one) == WORDS
    assert (one.engine, one.prompt_tokens, one.completion_tokens) == ("a", 2, 3)
    assert one.is_generated
    rig.assert_empty()


async def test_the_stages_of_a_call_are_written_on_the_record(rig: Rig, record: Record) -> None:
    await rig.add(seqs_max=1)
    first = rig.collect(rig.work(), record())
    await asyncio.sleep(0)
    second = record()
    await rig.collect(rig.work(), second)

    assert second.rendered_s == pytest.approx(0.0)
    assert second.granted_s == pytest.approx(0.03)
    assert second.first_token_s == pytest.approx(0.04)
    assert second.last_token_s == pytest.approx(0.06)
    assert first.done()


async def test_a_handler_that_wants_the_final_output_gets_one(rig: Rig, record: Record) -> None:
    await rig.add()
    outputs = [output async for output in rig.run(rig.work(wants="final"), record())]

    assert [output[0].words for output in outputs] == [WORDS]


async def test_a_reader_that_stops_reading_still_pays_and_still_frees_its_place(
    rig: Rig, record: Record
) -> None:
    await rig.add()
    one = record()
    outputs = rig.run(rig.work(50), one)
    await anext(outputs)
    await asyncio.sleep(10)

    assert (one.completion_tokens, rig.meter.total) == (50, 50)
    rig.assert_empty()
    assert len((await anext(outputs))[0].words) == 49
    await outputs.aclose()


async def test_closing_the_generator_ends_the_work_in_the_engine(rig: Rig, record: Record) -> None:
    await rig.add(seqs_max=1)
    one = record()
    outputs = rig.run(rig.work(1000), one)
    await anext(outputs)
    next_one = rig.collect(rig.work(), record())
    await outputs.aclose()

    assert rig.engines[0].stats.running == 0
    assert await next_one == WORDS
    assert one.completion_tokens == 1
    rig.assert_empty()


async def test_a_generator_that_was_never_started_holds_nothing(rig: Rig, record: Record) -> None:
    await rig.add()
    one = record()
    await rig.run(rig.work(), one).aclose()

    assert one.calls_started == 0
    rig.assert_empty()


@pytest.mark.parametrize("after_s", [0.0, 0.015, 0.035], ids=["waiting", "granted", "reading"])
async def test_a_call_that_is_closed_by_another_task_ends_for_its_reader_too(
    rig: Rig, record: Record, after_s: float
) -> None:
    """As the request path does with what a handler has left open."""
    await rig.add(seqs_max=1)
    holder = rig.collect(rig.work(2), record())
    await asyncio.sleep(0)
    one = record()
    reader = rig.collect(rig.work(1000, wants="final"), one)
    await asyncio.sleep(after_s)
    await one.close_calls()
    await asyncio.wait([reader], timeout=60)

    assert reader.done()
    assert one.calls_open == 0
    await holder
    rig.assert_empty()


async def test_a_call_that_is_closed_while_the_engine_takes_it_is_taken_back(
    rig: Rig, record: Record
) -> None:
    engine = SlowToTake(await rig.add())
    rig.pool.open(engine, EngineFacts(max_model_len=100, seqs_max=2))
    one = record()
    reader = rig.collect(rig.work(1000), one)
    await asyncio.sleep(1)
    await one.close_calls()
    engine.go.set()
    await asyncio.wait([reader], timeout=60)

    assert reader.done()
    rig.assert_empty()


class SlowToEnd(SlowToTake):
    """An engine that needs a moment to be told that a call is over."""

    async def submit(self, work: Work, sink: Sink) -> None:
        """See `contract.Engine`."""
        await self._engine.submit(work, sink)

    async def abort(self, work_id: JobId) -> None:
        """See `contract.Engine`."""
        await self.go.wait()
        await self._engine.abort(work_id)


async def test_who_closes_the_calls_of_a_request_waits_for_those_that_others_are_closing(
    rig: Rig, record: Record
) -> None:
    engine = SlowToEnd(await rig.add())
    rig.pool.open(engine, EngineFacts(max_model_len=100, seqs_max=2))
    one = record()
    reader = rig.collect(rig.work(1000), one)
    await asyncio.sleep(1)
    reader.cancel()
    await asyncio.sleep(1)
    closing = asyncio.create_task(one.close_calls())
    await asyncio.sleep(1)
    assert not closing.done()
    assert len(rig.timing.inside) == 1

    engine.go.set()
    await closing

    assert rig.timing.inside == {}  # what it has used is known now
    await asyncio.wait([reader])
    rig.assert_empty()


async def test_a_call_that_is_cancelled_while_waiting_leaves_nothing(
    rig: Rig, record: Record
) -> None:
    await rig.add(seqs_max=1)
    running = rig.collect(rig.work(), record())
    await asyncio.sleep(0.001)
    one = record()
    waiting = rig.collect(rig.work(), one)
    await asyncio.sleep(0.001)
    waiting.cancel()
    await asyncio.wait([waiting])

    assert (rig.scheduler.waiting, rig.scheduler.running) == (0, 1)
    assert one.calls_open == 0
    await running
    rig.assert_empty()


async def test_prompts_that_no_engine_came_to_read_are_not_used(rig: Rig, record: Record) -> None:
    """Of a list of prompts, when its client goes before the last has had its turn."""
    await rig.add(seqs_max=1)
    one = record()
    calls = [rig.collect(rig.work(1000), one) for _ in range(3)]
    await asyncio.sleep(0.05)
    await one.close_calls()
    await asyncio.wait(calls, timeout=60)

    assert (one.rendered_tokens, one.prompt_tokens) == (6, 2)
    rig.assert_empty()


@pytest.mark.parametrize("steps", range(5))
async def test_a_call_that_is_cancelled_around_its_grant_leaves_nothing(
    rig: Rig, record: Record, steps: int
) -> None:
    """Cancelled so many turns of the loop after the place before it came free."""
    await rig.add(seqs_max=1)
    outputs = rig.run(rig.work(1000), record())
    await anext(outputs)
    one = record()
    unlucky = rig.collect(rig.work(), one)
    await asyncio.sleep(0)
    assert rig.scheduler.waiting == 1
    await outputs.aclose()
    for _ in range(steps):
        await asyncio.sleep(0)
    unlucky.cancel()
    await asyncio.wait([unlucky])

    assert unlucky.cancelled()
    assert one.calls_open == 0
    rig.assert_empty()


async def test_a_call_that_is_cancelled_while_it_generates_is_aborted(
    rig: Rig, record: Record
) -> None:
    await rig.add()
    one = record()
    task = rig.collect(rig.work(1000), one)
    await asyncio.sleep(0.095)
    task.cancel()
    await asyncio.wait([task])
    rig.assert_empty()

    await asyncio.sleep(10)
    assert (one.completion_tokens, rig.meter.total) == (9, 9)


async def test_an_engine_that_dies_hands_over_what_it_made_and_then_the_reason(
    rig: Rig, record: Record
) -> None:
    engine = await rig.add()
    one = record()
    outputs = rig.run(rig.work(1000), one)
    await anext(outputs)
    engine.kill()

    with pytest.raises(EngineDied) as caught:
        await anext(outputs)
    assert one.refusal is caught.value
    assert one.is_generated
    rig.assert_empty()


async def test_calls_that_are_cut_short_are_told_so_and_end_in_the_engine(
    rig: Rig, record: Record
) -> None:
    engine = await rig.add(seqs_max=1)
    one = record()
    outputs = rig.run(rig.work(1000), one)
    await anext(outputs)
    waiting = rig.collect(rig.work(), record())
    await asyncio.sleep(0.015)
    rig.pool.gate.end_all(CutShort())

    assert [piece.words for pieces in [await anext(outputs)] for piece in pieces] == [["w1"]]
    for reading in (anext(outputs), waiting):
        with pytest.raises(CutShort):
            await reading
    assert engine.stats.running == 0
    rig.assert_empty()


async def test_a_call_given_to_a_dead_engine_fails_and_frees_its_place(
    rig: Rig, record: Record
) -> None:
    (await rig.add()).kill()
    one = record()

    with pytest.raises((EngineDied, ModelNotReady)):
        await rig.collect(rig.work(), one)
    assert one.prompt_tokens == 0
    rig.assert_empty()


async def test_an_engine_that_goes_in_the_moment_of_the_grant_is_not_used(
    rig: Rig, record: Record
) -> None:
    await rig.add(seqs_max=1)
    outputs = rig.run(rig.work(1000), record())
    await anext(outputs)
    unlucky = rig.collect(rig.work(), record())
    await asyncio.sleep(0)
    await outputs.aclose()
    rig.pool.close(EngineName("a"))

    with pytest.raises((EngineDied, ModelNotReady)):
        await unlucky
    rig.assert_empty()


async def test_who_waits_when_the_last_engine_goes_is_told_so(rig: Rig, record: Record) -> None:
    engine = await rig.add(seqs_max=1)
    running = rig.collect(rig.work(1000), record())
    waiting = rig.collect(rig.work(), record())
    await asyncio.sleep(0.05)
    rig.pool.close(engine.name)

    with pytest.raises(PoolLost):
        await waiting
    engine.kill()
    with pytest.raises(EngineDied):
        await running
    rig.assert_empty()


async def test_without_an_engine_a_call_is_refused(rig: Rig, record: Record) -> None:
    one = record()
    with pytest.raises(ModelNotReady) as caught:
        await rig.collect(rig.work(), one)

    assert one.refusal is caught.value
    assert one.granted_s is None
    rig.assert_empty()


async def test_a_call_waits_no_longer_than_it_may(rig: Rig, record: Record) -> None:
    await rig.add(seqs_max=1)
    running = rig.collect(rig.work(100_000), record())
    await asyncio.sleep(5)

    with pytest.raises(WaitedTooLong):
        await rig.collect(rig.work(), record())
    assert clock() == pytest.approx(5 + WAIT_TIMEOUT_S)
    running.cancel()
    await asyncio.wait([running])
    rig.assert_empty()


async def test_one_request_gets_no_more_generations_than_the_fanout_and_none_begins(
    rig: Rig, record: Record
) -> None:
    await rig.add(seqs_max=Rig.FANOUT_MAX)
    one = record()
    half = Rig.FANOUT_MAX // 2
    calls = [rig.run(rig.work(seqs=half), one) for _ in range(2)]

    with pytest.raises(FanoutTooLarge, match=f"at most {Rig.FANOUT_MAX}$"):
        rig.run(rig.work(), one)
    await one.close_calls()
    assert [await anext(call, None) for call in calls] == [None, None]
    assert (one.calls_started, one.refusal is not None) == (0, True)
    rig.assert_empty()


async def test_one_call_gets_no_more_sequences_than_the_fanout(rig: Rig, record: Record) -> None:
    await rig.add(seqs_max=100)

    with pytest.raises(FanoutTooLarge):
        await rig.collect(rig.work(seqs=Rig.FANOUT_MAX + 1), record())
    rig.assert_empty()


async def test_inputs_of_an_embedding_are_no_generations(rig: Rig, record: Record) -> None:
    await rig.add(seqs_max=4)
    one = record()
    inputs = [rig.run(rig.work(0), one) for _ in range(2048)]

    with pytest.raises(FanoutTooLarge, match=r"2049 inputs or more, .* at most 2048"):
        rig.run(rig.work(0), one)
    assert len(inputs) == 2048
    await one.close_calls()


async def test_the_calls_of_a_request_begin_a_few_at_a_time(rig: Rig, record: Record) -> None:
    await rig.add(seqs_max=200)
    one = record()
    calls = [rig.run(rig.work(0), one) for _ in range(200)]
    reading = [asyncio.create_task(anext(call)) for call in calls]
    begun = [0]
    while begun[-1] < len(calls):
        await asyncio.sleep(0)
        begun.append(rig.scheduler.waiting + rig.scheduler.running)

    assert max(after - before for before, after in itertools.pairwise(begun)) <= BEGUN_AT_ONCE
    assert begun[1] > 0
    await asyncio.wait(reading)
    await one.close_calls()
    rig.assert_empty()


async def test_a_call_that_is_closed_before_its_turn_to_begin_takes_nothing(
    rig: Rig, record: Record
) -> None:
    await rig.add(seqs_max=200)
    one = record()
    calls = [rig.run(rig.work(0), one) for _ in range(200)]
    reading = [asyncio.create_task(anext(call)) for call in calls]
    await asyncio.sleep(0)
    await calls[-1].aclose()
    await asyncio.wait(reading)

    assert reading[-1].cancelled()
    assert not any(each.cancelled() for each in reading[:-1])
    await one.close_calls()
    rig.assert_empty()


async def test_a_call_larger_than_the_window_is_refused_and_not_queued(
    rig: Rig, record: Record
) -> None:
    await rig.add(seqs_max=2)

    with pytest.raises(FanoutTooLarge):
        await rig.collect(rig.work(seqs=3), record())
    rig.assert_empty()


async def test_the_handler_sees_a_refusal_in_its_own_form_and_the_record_keeps_the_first(
    rig: Rig, record: Record
) -> None:
    class VendorError(Exception):
        """What a handler knows."""

    def as_vendor(error: DaemonError) -> VendorError:
        return VendorError(error.message)

    one = record()
    for _ in range(2):
        with pytest.raises(VendorError) as caught:
            await rig.collect(rig.work(as_refusal=as_vendor), one)
        assert isinstance(caught.value.__cause__, ModelNotReady)
        first = one.refusal

    assert one.refusal is first


async def test_an_engine_is_never_asked_outside_of_a_request(rig: Rig) -> None:
    CURRENT.set(None)
    with pytest.raises(AssertionError, match="outside of a request"):
        rig.pool.gate.run(rig.work())


async def test_the_request_is_taken_when_the_call_is_made_and_not_when_it_is_read(
    rig: Rig, record: Record
) -> None:
    await rig.add()
    mine, other = record(), record()
    outputs = rig.run(rig.work(), mine)
    CURRENT.set(other)
    await asyncio.create_task(anext(outputs))  # type: ignore[arg-type]
    await outputs.aclose()

    assert (mine.completion_tokens, other.completion_tokens) == (1, 0)


async def test_a_call_that_is_given_to_a_second_engine_has_left_the_first(
    rig: Rig, record: Record
) -> None:
    (await rig.add("a")).kill()
    await rig.add("b")

    assert await rig.collect(rig.work(), record()) == WORDS
    events = [event for event, _ in rig.timing.story]
    assert events[-3:] == ["enters b", "first output", "leaves"]
    assert events[:-3] in ([], ["enters a", "leaves"])
    rig.assert_empty()


async def test_a_call_is_judged_when_it_has_ended_with_all_of_its_sequences(
    rig: Rig, record: Record
) -> None:
    await rig.add("a")
    one = record()
    one.model = "m"
    await rig.collect(rig.work(seqs=2), one)

    ((model, endings),) = rig.judge.shown
    assert model == "m"
    assert [(len(e.token_ids), e.finish_reason, e.text) for e in endings] == [
        (3, "stop", "w0 w1 w2")
    ] * 2


async def test_a_call_that_was_given_up_is_not_judged(rig: Rig, record: Record) -> None:
    await rig.add("a")
    call = rig.run(rig.work(100), record())
    await anext(call)
    await call.aclose()

    assert rig.judge.shown == []
