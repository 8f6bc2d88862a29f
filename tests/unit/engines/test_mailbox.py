"""The mailbox without an engine: what is put in, what is metered, what comes out."""

import asyncio
from collections.abc import Callable
from typing import Any, Literal

import pytest

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import EngineDied, EngineFault
from infer_daemon.domain.jobs import EngineName, Job, JobId, Tier, WindowLimits
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.contract import Work
from infer_daemon.engines.mailbox import Lost, Mailbox
from tests.unit.engines.conftest import Jury, Presence, TokenLog


class Box:
    """A mailbox whose outputs are lists of words, on a clock that is set by hand."""

    def __init__(self, wants: Literal["deltas", "final"]) -> None:
        self.now_s = 0.0
        self.meter = TokenLog()
        self.timing = Presence()
        self.released = self.finished = self.charged = 0
        self.record = RequestRecord(
            id="r", endpoint=Endpoint.CHAT, accepted_s=0.0, clock=lambda: self.now_s, calls_open=1
        )
        self.work = Work(
            id=JobId("w"),
            payload=None,
            wants=wants,
            merge=list.extend,
            prompt_tokens=1,
            output_tokens_max=9,
        )
        self.mailbox = Mailbox(self.work, self.record, self.meter, self, self.timing, Jury())

    async def turn(self, job: Job) -> EngineName:
        """See `contract.Turns`; the box is its own scheduler and counts what it is told."""
        raise AssertionError("a mailbox waits for no turn")

    def when_preempted(self, tell: Callable[[JobId, Tier], None]) -> None:
        """See `contract.Turns`."""
        raise AssertionError("a mailbox is told by its call")

    def token(self, job_id: JobId, count: int) -> None:
        """See `contract.Turns`."""
        self.charged += count

    def finish(self, job_id: JobId) -> None:
        """See `contract.Turns`."""
        self.released += 1
        self.finished += 1

    def cancel(self, job_id: JobId) -> None:
        """See `contract.Turns`."""
        self.released += 1

    def resize(self, engine: EngineName, limits: WindowLimits | None) -> None:
        """See `contract.Turns`."""
        raise AssertionError("a mailbox has no window")

    def expect(self, is_engine_expected: bool) -> None:
        """See `contract.Turns`."""
        raise AssertionError("a mailbox expects no engine")

    def put(self, *words: str, finished: bool = False, cached: int = 0) -> None:
        """Deliver an output with these new words."""
        self.mailbox.deliver(
            list(words), new_tokens=len(words), cached_tokens=cached, finished=finished
        )

    async def read_all(self) -> list[Any]:
        """Every output up to the end."""
        outputs = []
        while (output := await self.mailbox.next()) is not None:
            outputs.append(output)
        return outputs


@pytest.fixture
def deltas() -> Box:
    return Box("deltas")


@pytest.fixture
def final() -> Box:
    return Box("final")


@pytest.mark.parametrize("wants", ["deltas", "final"])
def test_tokens_are_metered_as_they_arrive_although_nobody_reads(
    wants: Literal["deltas", "final"],
) -> None:
    box = Box(wants)
    for now_s, words in [(1.0, ["a"]), (1.5, ["b", "c"]), (4.0, ["d"])]:
        box.now_s = now_s
        box.put(*words, finished=words == ["d"])

    assert box.meter.told == [(1, None), (2, 0.5), (1, 2.5)]
    assert box.record.completion_tokens == 4
    assert (box.record.first_token_s, box.record.last_token_s) == (1.0, 4.0)
    assert box.released == 1


async def test_a_reader_that_keeps_up_gets_every_delta(deltas: Box) -> None:
    outputs = []
    for word in ("a", "b"):
        deltas.put(word)
        outputs.append(await deltas.mailbox.next())
    deltas.put("c", finished=True)

    assert [*outputs, *await deltas.read_all()] == [["a"], ["b"], ["c"]]


async def test_outputs_for_a_slow_reader_are_merged_and_do_not_queue(deltas: Box) -> None:
    for number in range(1000):
        deltas.put(str(number), finished=number == 999)

    assert await deltas.read_all() == [[str(number) for number in range(1000)]]


async def test_what_was_read_is_not_merged_into_afterwards(deltas: Box) -> None:
    deltas.put("a")
    first = await deltas.mailbox.next()
    deltas.put("b", finished=True)

    assert await deltas.mailbox.next() == ["b"]
    assert first == ["a"]


async def test_a_reader_of_the_final_output_gets_it_whole_and_not_before(final: Box) -> None:
    reader = asyncio.create_task(final.read_all())
    for word in ("a", "b"):
        final.put(word)
        await asyncio.sleep(0)
        assert not reader.done()
    final.put("c", finished=True)

    assert await reader == [["a", "b", "c"]]


async def test_deltas_before_a_failure_are_read_before_it(deltas: Box) -> None:
    deltas.put("a")
    deltas.mailbox.fail(RuntimeError("boom"))

    assert await deltas.mailbox.next() == ["a"]
    with pytest.raises(RuntimeError, match="boom"):
        await deltas.mailbox.next()


async def test_a_final_output_that_is_not_whole_is_never_handed_out(final: Box) -> None:
    final.put("a")
    final.mailbox.fail(RuntimeError("boom"))

    with pytest.raises(RuntimeError, match="boom"):
        await final.mailbox.next()


async def test_a_failure_wakes_a_reader_and_gives_the_room_back(deltas: Box) -> None:
    reader = asyncio.create_task(deltas.mailbox.next())
    await asyncio.sleep(0)
    deltas.mailbox.fail(RuntimeError("boom"))

    with pytest.raises(RuntimeError, match="boom"):
        await reader
    assert (deltas.released, deltas.record.calls_open) == (1, 0)


def test_the_room_is_given_back_once_whatever_comes_after_the_end(deltas: Box) -> None:
    deltas.put("a", finished=True)
    deltas.put("late")
    deltas.mailbox.fail(RuntimeError("late"))
    deltas.mailbox.close()
    deltas.mailbox.close()

    assert (deltas.released, deltas.record.calls_open) == (1, 0)
    assert deltas.meter.total == 1


def test_closing_gives_the_room_back_and_takes_nothing_more(deltas: Box) -> None:
    deltas.put("a")
    deltas.mailbox.close()
    deltas.put("b", finished=True)

    assert deltas.mailbox.is_finished
    assert (deltas.released, deltas.record.calls_open) == (1, 0)
    assert deltas.record.completion_tokens == 1


async def test_an_output_without_tokens_is_delivered_and_costs_nothing(final: Box) -> None:
    final.now_s = 2.0
    final.put(finished=True)

    assert await final.read_all() == [[]]
    assert final.meter.told == []
    assert (final.record.first_token_s, final.record.last_token_s) == (2.0, None)


def test_cached_tokens_are_those_of_the_first_or_last_output(deltas: Box) -> None:
    deltas.put("a", cached=16)
    deltas.put("b", cached=0, finished=True)

    assert deltas.record.cached_tokens == 16


def test_cached_tokens_of_several_calls_add_up(deltas: Box) -> None:
    other = Box("final")
    other.mailbox._record = deltas.record
    deltas.put("a", cached=16, finished=True)
    other.put("b", cached=8, finished=True)

    assert deltas.record.cached_tokens == 24


async def test_tokens_are_charged_as_they_arrive_and_an_answer_that_ends_is_told_from_one_given_up(
    deltas: Box, final: Box
) -> None:
    deltas.put("a", "b")
    deltas.put("c", finished=True)
    final.put("a")
    final.mailbox.close()

    assert (deltas.charged, deltas.finished, deltas.released) == (3, 1, 1)
    assert (final.charged, final.finished, final.released) == (1, 0, 1)


def test_a_call_is_timed_from_the_engine_that_takes_it_to_its_last_output(deltas: Box) -> None:
    deltas.mailbox.enter(EngineName("a"))
    deltas.put("w0")
    deltas.put("w1")
    deltas.put("w2", finished=True)
    deltas.mailbox.close()

    assert deltas.timing.story == [("enters a", "w"), ("first output", "w"), ("leaves", "w")]


@pytest.mark.parametrize("end", ["fail", "close"])
def test_a_call_that_fails_or_is_closed_has_left(deltas: Box, end: str) -> None:
    deltas.mailbox.enter(EngineName("a"))
    deltas.mailbox.fail(RuntimeError()) if end == "fail" else deltas.mailbox.close()

    assert deltas.timing.story == [("enters a", "w"), ("leaves", "w")]


def test_a_call_that_was_closed_while_it_waited_enters_nothing(deltas: Box) -> None:
    deltas.mailbox.close()
    deltas.mailbox.enter(EngineName("a"))

    assert deltas.timing.story == []


async def test_a_call_that_its_engine_fails_is_lost_until_something_of_it_was_read() -> None:
    box = Box("deltas")
    box.mailbox.enter(EngineName("a"))
    box.put("one")
    box.mailbox.fail(EngineFault())

    with pytest.raises(Lost) as caught:
        await box.mailbox.next()
    assert isinstance(caught.value.why, EngineFault)


async def test_a_call_of_which_something_was_read_ends_with_its_engines_fault() -> None:
    box = Box("deltas")
    box.mailbox.enter(EngineName("a"))
    box.put("one")
    await box.mailbox.next()
    box.mailbox.fail(EngineFault())

    with pytest.raises(EngineFault):
        await box.mailbox.next()
    assert box.mailbox.is_finished


@pytest.mark.parametrize("ends", ["gave way", "was lost"])
async def test_a_call_that_gave_way_has_not_been_tried_in_vain(deltas: Box, ends: str) -> None:
    mailbox = deltas.mailbox
    mailbox.enter(EngineName("a"))
    deltas.put("a")
    await mailbox.next()
    if ends == "gave way":
        mailbox.give_way(Tier.CRITICAL)
    else:
        mailbox.fail(EngineDied())
    with pytest.raises(Lost):
        await mailbox.next()
    mailbox.go_on(deltas.work)

    assert mailbox.waits
    assert mailbox.was_resumed is (ends == "was lost")


async def test_a_call_that_gave_way_waits_for_its_own_model(deltas: Box) -> None:
    """Until an engine has it again: that one may be lost."""
    mailbox = deltas.mailbox
    mailbox.enter(EngineName("a"))
    assert mailbox.is_replaceable
    mailbox.give_way(Tier.CRITICAL)
    with pytest.raises(Lost):
        await mailbox.next()
    mailbox.go_on(deltas.work)

    assert not mailbox.is_replaceable
    mailbox.enter(EngineName("b"))
    assert mailbox.is_replaceable


async def test_each_engine_that_has_the_call_is_asked_when_it_began(deltas: Box) -> None:
    mailbox = deltas.mailbox
    for name in ("a", "b"):
        mailbox.enter(EngineName(name))
        deltas.put("a")
        await mailbox.next()
        mailbox.give_way(Tier.CRITICAL)
        with pytest.raises(Lost):
            await mailbox.next()
        mailbox.go_on(deltas.work)

    events = [event for event, _ in deltas.timing.story]
    assert events == ["enters a", "first output", "leaves", "enters b", "first output", "leaves"]
