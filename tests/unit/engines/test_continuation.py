"""Engines that die under calls, and what becomes of these: on simulated engines, virtual time."""

import asyncio
from collections.abc import Callable

import pytest

from infer_daemon.domain.errors import CutShort, EngineDied, KillsEngines, WaitedTooLong
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import Sink, Work
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.engines.sim.tokens import Piece
from infer_daemon.engines.supervisor import Status
from infer_daemon.settings.schema import SimSection
from tests.unit.engines.conftest import WAIT_TIMEOUT_S, Rig, clock

pytestmark = pytest.mark.looptime

Record = Callable[[], RequestRecord]


def words(count: int) -> list[str]:
    return [f"w{n}" for n in range(count)]


def of(rig: Rig, one: RequestRecord) -> str:
    """The engine that has the request, which dies."""
    engine = [engine for engine in rig.engines if engine.name == one.engine][-1]
    engine.kill()
    rig.pool.close(engine.name)
    return engine.name


@pytest.mark.parametrize("cut", range(1, 20))
async def test_a_stream_goes_on_in_another_engine_without_a_gap_or_a_repetition(
    rig: Rig, record: Record, cut: int
) -> None:
    await rig.add("a")
    await rig.add("b")
    one = record()
    reading = rig.collect(rig.work(20), one)
    await asyncio.sleep(0.01 * cut + 0.005)
    lost = of(rig, one)

    assert await reading == words(20)
    assert one.engine != lost
    assert (one.completion_tokens, one.prompt_tokens, rig.meter.total) == (20, 2, 20)
    assert one.waste_continuation_tokens == 2 + cut
    assert one.refusal is None
    ((_, (judged,)),) = rig.judge.shown
    assert judged.text == " ".join(words(20))
    rig.assert_empty()


async def test_what_nobody_has_read_begins_again_and_counts_once(rig: Rig, record: Record) -> None:
    await rig.add("a")
    await rig.add("b")
    one = record()
    reading = rig.collect(rig.work(20, wants="final"), one)
    await asyncio.sleep(0.105)
    of(rig, one)

    assert await reading == words(20)
    assert one.completion_tokens == 20
    assert one.waste_continuation_tokens == 2 + 10
    assert one.first_token_s == pytest.approx(0.115, abs=0.011)
    rig.assert_empty()


async def test_what_a_slow_reader_has_not_fetched_comes_before_what_follows(
    rig: Rig, record: Record
) -> None:
    await rig.add("a")
    await rig.add("b")
    one = record()
    outputs = rig.run(rig.work(20), one)
    first = await anext(outputs)
    await asyncio.sleep(0.055)
    of(rig, one)

    assert [first[0].words, (await anext(outputs))[0].words] == [["w0"], words(6)[1:]]
    assert [word async for pieces in outputs for word in pieces[0].words] == words(20)[6:]
    rig.assert_empty()


async def test_it_goes_on_as_often_as_engines_die(rig: Rig, record: Record) -> None:
    for name in "abcd":
        await rig.add(name)
    one = record()
    reading = rig.collect(rig.work(20), one)
    await asyncio.sleep(0.055)
    lost = {of(rig, one)}
    await asyncio.sleep(0.05)
    lost.add(of(rig, one))

    assert await reading == words(20)
    assert len({*lost, one.engine}) == 3
    assert (one.completion_tokens, one.prompt_tokens) == (20, 2)
    rig.assert_empty()


async def test_several_sequences_go_on_each_from_where_it_was(rig: Rig, record: Record) -> None:
    await rig.add("a", seqs_max=3)
    await rig.add("b", seqs_max=3)
    one = record()
    outputs = rig.run(rig.work(9, seqs=3), one)
    got: dict[int, list[str]] = {0: [], 1: [], 2: []}

    def take(pieces: list[Piece]) -> None:
        for piece in pieces:
            got[piece.index] += piece.words

    for _ in range(4):
        take(await anext(outputs))
    of(rig, one)
    async for pieces in outputs:
        take(pieces)

    assert got == {index: words(9) for index in range(3)}
    assert one.completion_tokens == 27
    rig.assert_empty()


async def test_a_stream_under_a_grammar_ends_with_the_reason(rig: Rig, record: Record) -> None:
    await rig.add("a")
    await rig.add("b")
    one = record()
    outputs = rig.run(rig.work(20, has_grammar=True), one)
    await anext(outputs)
    of(rig, one)

    with pytest.raises(EngineDied, match="grammar"):
        await anext(outputs)
    assert one.is_generated
    rig.assert_empty()


async def test_an_answer_under_a_grammar_begins_again(rig: Rig, record: Record) -> None:
    await rig.add("a")
    await rig.add("b")
    one = record()
    reading = rig.collect(rig.work(20, has_grammar=True, wants="final"), one)
    await asyncio.sleep(0.105)
    of(rig, one)

    assert await reading == words(20)


async def test_pooling_begins_again(rig: Rig, record: Record) -> None:
    await rig.add("a")
    await rig.add("b")
    one = record()
    outputs = rig.run(rig.work(0, wants="final", progress=None), one)
    reading = asyncio.create_task(anext(outputs))  # type: ignore[arg-type]
    await asyncio.sleep(0.005)
    lost = of(rig, one)
    await reading
    await outputs.aclose()

    assert one.engine != lost
    assert one.waste_continuation_tokens == 2
    rig.assert_empty()


async def restart(rig: Rig, name: str, after_s: float) -> None:
    await asyncio.sleep(after_s)
    engine = await rig.add(name)
    rig.pool.statuses[engine.name].state = EngineState.READY
    rig.pool.look_ahead()


async def test_with_one_engine_calls_wait_until_it_is_back(rig: Rig, record: Record) -> None:
    await rig.add("a", seqs_max=1)
    rig.pool.statuses[EngineName("a")] = Status(EngineState.WAITING)
    one = record()
    reading = rig.collect(rig.work(20), one)
    waiting = rig.collect(rig.work(), record())
    await asyncio.sleep(0.055)
    of(rig, one)
    await restart(rig, "a", 30)

    assert await reading == words(20)
    assert await waiting == words(3)
    rig.assert_empty()


async def test_what_was_running_goes_before_what_waited_although_the_queue_is_full(
    rig: Rig, record: Record
) -> None:
    await rig.add("a", seqs_max=1)
    rig.pool.statuses[EngineName("a")] = Status(EngineState.WAITING)
    one = record()
    one.due_s = 0.0
    reading = rig.collect(rig.work(20), one)
    await asyncio.sleep(0.055)
    waiting = [rig.collect(rig.work(1), record()) for _ in range(100)]
    await asyncio.sleep(0.01)
    assert sum(task.done() for task in waiting) > 0, "the queue is full"
    of(rig, one)
    await restart(rig, "a", 30)

    assert await reading == words(20)
    await asyncio.gather(*waiting, return_exceptions=True)
    rig.assert_empty()


async def test_it_waits_no_longer_than_it_would_have_waited_for_its_first_turn(
    rig: Rig, record: Record
) -> None:
    await rig.add("a")
    rig.pool.statuses[EngineName("a")] = Status(EngineState.WAITING)
    one = record()
    outputs = rig.run(rig.work(100_000), one)
    await anext(outputs)
    await asyncio.sleep(2 * WAIT_TIMEOUT_S)
    of(rig, one)
    await anext(outputs)

    with pytest.raises(WaitedTooLong):
        await anext(outputs)
    assert clock() == pytest.approx(3 * WAIT_TIMEOUT_S, abs=0.1)
    rig.assert_empty()


async def test_it_ends_as_soon_as_no_engine_is_to_be_expected_any_more(
    rig: Rig, record: Record
) -> None:
    await rig.add("a")
    rig.pool.statuses[EngineName("a")] = Status(EngineState.WAITING)
    one = record()
    reading = rig.collect(rig.work(20), one)
    await asyncio.sleep(0.055)
    of(rig, one)
    await asyncio.sleep(5)
    rig.pool.statuses[EngineName("a")].state = EngineState.FAILED
    rig.pool.look_ahead()

    with pytest.raises(EngineDied):
        await reading
    assert clock() == pytest.approx(5.055)
    rig.assert_empty()


@pytest.mark.parametrize("how", ["closed", "cancelled", "cut short"])
async def test_a_call_that_waits_for_another_engine_can_be_ended(
    rig: Rig, record: Record, how: str
) -> None:
    await rig.add("a")
    rig.pool.statuses[EngineName("a")] = Status(EngineState.WAITING)
    one = record()
    reading = rig.collect(rig.work(20), one)
    await asyncio.sleep(0.055)
    of(rig, one)
    await asyncio.sleep(1)
    assert rig.scheduler.waiting == 1
    match how:
        case "closed":
            await one.close_calls()
        case "cancelled":
            reading.cancel()
        case _:
            rig.pool.gate.end_all(CutShort())
    await asyncio.wait([reading], timeout=5)

    assert reading.done()
    assert one.calls_open == 0
    assert isinstance(one.refusal, CutShort) == (how == "cut short")
    rig.assert_empty()


class DiesAmid(SimEngine):
    """Dies while it takes a call, with a part of it taken."""

    async def submit(self, work: Work, sink: Sink) -> None:
        """See `contract.Engine.submit`."""
        await super().submit(work, sink)
        self.kill()
        raise EngineDied(retry_after_s=10)


async def test_an_engine_that_dies_while_it_takes_a_call_has_lost_it_once(
    rig: Rig, record: Record
) -> None:
    dying = DiesAmid(EngineName("a"), SimSection(), rig.pool.gate, seqs_max=2)
    rig.pool.open(dying, await dying.start(lambda _: None))
    await rig.add("b", seqs_max=1)
    one = record()

    assert await rig.collect(rig.work(), one) == words(3)
    assert one.engine == "b"
    assert "b" in rig.pool.facts
    assert [event for _, event in one.story if "lost" in event] == ["lost a"]
    assert (one.prompt_tokens, one.completion_tokens, rig.meter.total) == (2, 3, 3)
    rig.assert_empty()


async def test_what_still_comes_from_an_engine_that_was_given_up_is_not_taken(
    rig: Rig, record: Record
) -> None:
    await rig.add("a", step_ms=10.0)
    one = record()
    outputs = rig.run(rig.work(5), one)
    await anext(outputs)
    stale = next(iter(rig.engines[0]._running.values())).sink
    await rig.add("b")
    of(rig, one)
    reading = asyncio.create_task(anext(outputs))  # type: ignore[arg-type]
    await asyncio.sleep(0.001)
    stale.deliver([Piece(0, ["stale"], None)], new_tokens=1, cached_tokens=0, finished=False)

    assert (await reading)[0].words == ["w1"]
    assert [word async for pieces in outputs for word in pieces[0].words] == words(5)[2:]


# The query of death.


async def start(rig: Rig, count: int) -> None:
    for name in "abcd"[:count]:
        await rig.add(name)
        rig.pool.statuses[EngineName(name)] = Status(EngineState.READY)


async def test_a_request_that_kills_every_engine_is_stopped_and_others_see_nothing(
    rig: Rig, record: Record
) -> None:
    await start(rig, 4)
    bad = record()
    bad.id = "bad"
    killing = rig.collect(rig.work(1000), bad)
    reading = []
    for death in range(3):
        good = [record() for _ in range(4)]
        for number, one in enumerate(good):
            one.id = f"good {death}.{number}"
            reading.append(rig.collect(rig.work(200), one))
        await asyncio.sleep(0.5 if death < 2 else 5)
        of(rig, bad)
        await rig.add(f"new {death}")

    with pytest.raises(KillsEngines, match="died 3 times"):
        await killing
    assert [await answer for answer in reading] == [words(200)] * 12
    assert await rig.collect(rig.work(), record()) == words(3)
    rig.assert_empty()


async def test_a_suspect_has_an_engine_of_its_own_which_is_open_again_afterwards(
    rig: Rig, record: Record
) -> None:
    await start(rig, 4)
    bad = record()
    bad.id = "bad"
    reading = rig.collect(rig.work(300), bad)
    for _ in range(2):
        await asyncio.sleep(0.5)
        of(rig, bad)
    await asyncio.sleep(0.1)
    others = [record() for _ in range(4)]
    busy = [rig.collect(rig.work(100), one) for one in others]
    await asyncio.sleep(0.1)
    assert bad.engine not in {one.engine for one in others}

    assert await reading == words(300)
    await asyncio.gather(*busy)
    rig.assert_empty()
    last = [record() for _ in range(4)]
    await asyncio.gather(*(rig.collect(rig.work(), one) for one in last))
    assert bad.engine in {one.engine for one in last}


async def test_a_suspect_waits_for_a_second_engine(rig: Rig, record: Record) -> None:
    await start(rig, 3)
    bad = record()
    bad.id = "bad"
    reading = rig.collect(rig.work(300), bad)
    for _ in range(2):
        await asyncio.sleep(0.5)
        of(rig, bad)
    await asyncio.sleep(10)
    assert bad.completion_tokens < 150, "it waits"
    assert await rig.collect(rig.work(), record()) == words(3)
    await rig.add("e")

    assert await reading == words(300)
    rig.assert_empty()


async def test_a_suspect_is_taken_back_from_the_last_engine(rig: Rig, record: Record) -> None:
    await start(rig, 4)
    bad = record()
    bad.id = "bad"
    reading = rig.collect(rig.work(1000), bad)
    for _ in range(2):
        await asyncio.sleep(0.5)
        of(rig, bad)
    await asyncio.sleep(0.5)
    (other,) = [
        engine
        for engine in rig.engines
        if engine.name != bad.engine and engine.name in rig.pool.facts
    ]
    other.kill()
    rig.pool.close(other.name)
    await asyncio.sleep(0.1)
    made = bad.completion_tokens
    await asyncio.sleep(10)
    assert bad.completion_tokens == made, "it waits"
    assert await rig.collect(rig.work(), record()) == words(3)
    await rig.add("e")

    assert await reading == words(1000)
    rig.assert_empty()


@pytest.mark.parametrize("how", ["closed", "cancelled", "cut short", "too late"])
async def test_a_suspect_that_waits_can_be_ended(rig: Rig, record: Record, how: str) -> None:
    await start(rig, 3)
    bad = record()
    bad.id = "bad"
    reading = rig.collect(rig.work(300), bad)
    for _ in range(2):
        await asyncio.sleep(0.5)
        of(rig, bad)
    await asyncio.sleep(1)
    match how:
        case "closed":
            await bad.close_calls()
        case "cancelled":
            reading.cancel()
        case "cut short":
            rig.pool.gate.end_all(CutShort())
    await asyncio.wait([reading], timeout=5 if how != "too late" else 100)

    assert reading.done()
    if how == "too late":
        assert isinstance(reading.exception(), WaitedTooLong)
    assert bad.calls_open == 0
    rig.assert_empty()


async def test_the_only_engine_of_a_pool_dies_twice_at_most(rig: Rig, record: Record) -> None:
    await start(rig, 1)
    bad = record()
    bad.id = "bad"
    reading = rig.collect(rig.work(300), bad)
    for _ in range(2):
        await asyncio.sleep(0.5)
        of(rig, bad)
        await restart(rig, "a", 1)

    with pytest.raises(KillsEngines, match="died 2 times"):
        await reading
    rig.assert_empty()
