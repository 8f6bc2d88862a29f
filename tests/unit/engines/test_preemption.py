"""Calls that give way to more urgent ones and go on later: on simulated engines, virtual time."""

import asyncio
import itertools
from collections.abc import Callable

import pytest

from infer_daemon.domain.errors import EngineFault
from infer_daemon.domain.jobs import EngineName, JobId, Tier
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import EngineFacts, Sink, Work
from infer_daemon.engines.health import Health
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.engines.supervisor import Status
from infer_daemon.scheduling.policy import Policy
from tests.unit.engines.conftest import WAIT_TIMEOUT_S, Rig, clock

pytestmark = pytest.mark.looptime

Record = Callable[[], RequestRecord]
AFTER_S = 0.1


def words(count: int) -> list[str]:
    return [f"w{n}" for n in range(count)]


async def one_place(rig: Rig) -> SimEngine:
    """An engine for one call, whose batch work gives way after a tenth of a second."""
    rig.scheduler.change(Policy(queue_len_max=100, preempt_after_s={Tier.CRITICAL: AFTER_S}))
    return await rig.add("a", seqs_max=1)


def of(tier: Tier, record: RequestRecord) -> RequestRecord:
    record.tier = tier
    return record


def told(record: RequestRecord) -> list[str]:
    return [event for _, event in record.story]


@pytest.mark.parametrize("wants", ["deltas", "final"])
async def test_a_call_gives_way_and_goes_on_from_where_it_was(
    rig: Rig, record: Record, wants: str
) -> None:
    engine = await one_place(rig)
    batch, urgent = of(Tier.BATCH, record()), of(Tier.CRITICAL, record())
    reading = rig.collect(rig.work(50, wants=wants), batch)
    await asyncio.sleep(0.105)
    asked_s = clock()
    assert await rig.collect(rig.work(3), urgent) == words(3)

    assert clock() - asked_s == pytest.approx(AFTER_S + 0.03, abs=0.011)
    assert await reading == words(50)
    assert (batch.completion_tokens, batch.prompt_tokens, rig.meter.total) == (50, 2, 53)
    assert batch.waste_preemption_tokens == pytest.approx(2 + 20, abs=1)
    assert batch.waste_continuation_tokens == 0
    assert told(batch) == ["granted a", "preempted for a critical request", "granted a"]
    assert rig.meter.preempted_for == [Tier.CRITICAL]
    assert engine._tokens_made == pytest.approx(53, abs=1), "nothing is made twice"
    rig.assert_empty()


async def test_a_stream_that_gave_way_only_pauses(rig: Rig, record: Record) -> None:
    await one_place(rig)
    outputs = rig.run(rig.work(30), of(Tier.BATCH, record()))
    got, arrived_s = [], []
    urgent = None
    async for pieces in outputs:
        got += pieces[0].words
        arrived_s.append(clock())
        urgent = urgent or rig.collect(rig.work(20), of(Tier.CRITICAL, record()))
    await outputs.aclose()

    assert got == words(30)
    pauses = [b - a for a, b in itertools.pairwise(arrived_s) if b - a > 0.05]
    assert len(pauses) == 1, "while the other one runs"
    assert pauses[0] == pytest.approx(0.2, abs=0.03)
    rig.assert_empty()


async def test_a_call_whose_reader_is_slow_is_out_of_the_engine_at_once(
    rig: Rig, record: Record
) -> None:
    engine = await one_place(rig)
    outputs = rig.run(rig.work(1000), of(Tier.BATCH, record()))
    first = await anext(outputs)
    urgent = rig.collect(rig.work(1000), of(Tier.CRITICAL, record()))
    await asyncio.sleep(1.0)

    assert (engine.stats.running, rig.scheduler.running) == (1, 1)
    unread = await anext(outputs)
    got = [*first[0].words, *unread[0].words]
    assert got == words(len(got))
    urgent.cancel()
    await asyncio.wait([urgent])
    got += (await anext(outputs))[0].words
    assert got == words(len(got))
    await outputs.aclose()
    rig.assert_empty()


async def test_no_call_gives_way_more_than_twice(rig: Rig, record: Record) -> None:
    await one_place(rig)
    batch = of(Tier.BATCH, record())
    reading = rig.collect(rig.work(100), batch)
    for _ in range(4):
        await asyncio.sleep(0.105)
        await rig.collect(rig.work(3), of(Tier.CRITICAL, record()))

    assert await reading == words(100)
    assert told(batch).count("preempted for a critical request") == 2
    rig.assert_empty()


@pytest.mark.parametrize("steps", range(12))
async def test_a_call_gives_way_around_its_own_grant(rig: Rig, record: Record, steps: int) -> None:
    """The place comes free for batch work so many turns of the loop before the other's patience
    ends."""
    await one_place(rig)
    holder = rig.run(rig.work(1000), of(Tier.INTERACTIVE, record()))
    await anext(holder)
    batch = rig.collect(rig.work(9), of(Tier.BATCH, record()))
    await asyncio.sleep(0.001)
    rig.scheduler.change(Policy(queue_len_max=100, preempt_after_s={Tier.CRITICAL: 0.0}))
    await holder.aclose()
    for _ in range(steps):
        await asyncio.sleep(0)
    urgent = rig.collect(rig.work(3), of(Tier.CRITICAL, record()))

    assert await urgent == words(3)
    assert await batch == words(9)
    rig.assert_empty()


@pytest.mark.parametrize("how", ["closed", "cancelled"])
@pytest.mark.parametrize("after_s", [0.1999, 0.2001, 0.25])
async def test_a_call_that_gave_way_can_be_ended(
    rig: Rig, record: Record, how: str, after_s: float
) -> None:
    await one_place(rig)
    batch = of(Tier.BATCH, record())
    reading = rig.collect(rig.work(100), batch)
    await asyncio.sleep(0.1)
    urgent = rig.collect(rig.work(30), of(Tier.CRITICAL, record()))
    await asyncio.sleep(after_s - 0.1)
    if how == "closed":
        await batch.close_calls()
    else:
        reading.cancel()
    await asyncio.wait([reading], timeout=5)

    assert reading.done()
    assert batch.calls_open == 0
    assert await urgent == words(30)
    rig.assert_empty()


class SlowToTake(SimEngine):
    """Needs a moment to take a call, as an engine in another process does."""

    async def submit(self, work: Work, sink: Sink) -> None:
        """See `contract.Engine.submit`."""
        await asyncio.sleep(0.15)
        await super().submit(work, sink)


async def test_a_call_gives_way_while_the_engine_takes_it(rig: Rig, record: Record) -> None:
    engine = await one_place(rig)
    engine.__class__ = SlowToTake
    rig.pool.open(engine, EngineFacts(max_model_len=1000, seqs_max=1))
    batch = of(Tier.BATCH, record())
    reading = rig.collect(rig.work(9), batch)
    await asyncio.sleep(0.01)
    urgent = rig.collect(rig.work(30), of(Tier.CRITICAL, record()))

    assert await urgent == words(30)
    assert await reading == words(9)
    assert (batch.completion_tokens, batch.prompt_tokens) == (9, 2)
    assert batch.waste_preemption_tokens == 2
    rig.assert_empty()


class SlowToLetGo(SimEngine):
    """Needs a moment to take a call back, as an engine in another process does."""

    async def abort(self, work_id: JobId) -> None:
        """See `contract.Engine.abort`."""
        await asyncio.sleep(0.5)
        await super().abort(work_id)


async def test_a_call_goes_on_when_its_engine_has_let_go_of_it(rig: Rig, record: Record) -> None:
    """Else what is to end there would be what has just been begun again."""
    engine = await one_place(rig)
    engine.__class__ = SlowToLetGo
    reading = rig.collect(rig.work(100), of(Tier.BATCH, record()))
    await asyncio.sleep(0.1)
    await rig.collect(rig.work(3), of(Tier.CRITICAL, record()))

    async with asyncio.timeout(5):
        assert await reading == words(100)
    rig.assert_empty()


@pytest.mark.parametrize("how", ["ended", "closed", "lost"])
async def test_who_has_left_by_itself_in_that_moment_gives_nothing(
    rig: Rig, record: Record, how: str
) -> None:
    engine = await one_place(rig)
    batch = of(Tier.BATCH, record())
    call = rig.run(rig.work(3), batch)
    await anext(call)
    match how:
        case "ended":
            await asyncio.sleep(1)
        case "closed":
            await call.aclose()
        case "lost":
            engine.kill()

    rig.pool.gate._preempted(call.id, Tier.CRITICAL)
    assert not call.give_way(Tier.CRITICAL)
    assert (told(batch), rig.meter.preempted_for) == (["granted a"], [])
    await call.aclose()


async def test_its_engine_may_die_while_it_waits(rig: Rig, record: Record) -> None:
    engine = await one_place(rig)
    batch = of(Tier.BATCH, record())
    reading = rig.collect(rig.work(50), batch)
    await asyncio.sleep(0.1)
    urgent = rig.collect(rig.work(1000), of(Tier.CRITICAL, record()))
    await asyncio.sleep(0.15)
    await rig.add("b", seqs_max=1)
    engine.kill()
    rig.pool.close(engine.name)
    urgent.cancel()
    await asyncio.wait([urgent])

    assert await reading == words(50)
    assert batch.waste_continuation_tokens == 0
    rig.assert_empty()


@pytest.mark.parametrize(
    "options", [{"has_grammar": True}, {"progress": None}, {"seqs": 2}], ids=str
)
async def test_what_could_not_go_on_exactly_stays(
    rig: Rig, record: Record, options: dict[str, object]
) -> None:
    await one_place(rig)
    await rig.add("b", seqs_max=2)
    rig.pool.close(rig.engines[0].name)
    first = of(Tier.BATCH, record())
    reading = rig.collect(rig.work(50, **options), first)
    if "seqs" not in options:
        other = rig.collect(rig.work(50, **options), of(Tier.BATCH, record()))
    await asyncio.sleep(0.005)
    urgent = rig.collect(rig.work(3), of(Tier.CRITICAL, record()))
    await reading

    assert not urgent.done()
    assert "preempted for a critical request" not in told(first)
    await urgent
    if "seqs" not in options:
        await other
    rig.assert_empty()


async def test_it_waits_no_longer_than_it_would_have_waited_for_its_first_turn(
    rig: Rig, record: Record
) -> None:
    """Anew, also where it has run for longer than that."""
    await one_place(rig)
    batch = of(Tier.BATCH, record())
    reading = rig.collect(rig.work(10_000), batch)
    await asyncio.sleep(1.5 * WAIT_TIMEOUT_S)
    urgent = rig.collect(rig.work(5000), of(Tier.CRITICAL, record()))
    await urgent

    assert JobId("work-0") not in rig.scheduler._core.waiting
    assert await reading == words(10_000)
    rig.assert_empty()


async def test_to_give_way_is_neither_a_death_nor_a_failure(
    rig: Rig, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_first_try: list[str] = []
    monkeypatch.setattr(Health, "succeeded", lambda _, *whose: at_first_try.extend(whose))
    await one_place(rig)
    batch = of(Tier.BATCH, record())
    batch.model = "m"
    reading = rig.collect(rig.work(50), batch)
    await asyncio.sleep(0.105)
    await rig.collect(rig.work(3), of(Tier.CRITICAL, record()))
    await reading

    assert not batch.died_under
    assert at_first_try == ["acme", "a"] * 2, "retries are a share of these"
    assert rig.pool.health.endings(EngineName("a")) == {"client": 1, "ok": 2}
    answers = [[e.text for e in endings] for model, endings in rig.judge.shown if model == "m"]
    assert answers == [[" ".join(words(50))]], "judged once, as a whole"
    rig.assert_empty()


async def test_what_gave_way_is_answered_by_no_other_model_while_its_own_is_away(
    rig: Rig, record: Record
) -> None:
    engine = await one_place(rig)
    rig.pool.statuses[engine.name] = Status(EngineState.WAITING)
    batch = of(Tier.BATCH, record())
    batch.can_fall_back = lambda: True
    reading = rig.collect(rig.work(50, wants="final"), batch)
    await asyncio.sleep(0.105)
    urgent = rig.collect(rig.work(1000), of(Tier.CRITICAL, record()))
    await asyncio.sleep(0.2)
    engine.kill()
    rig.pool.close(engine.name)
    await asyncio.sleep(5)
    assert not reading.done()
    urgent.cancel()
    await asyncio.wait([urgent])
    await rig.add("a", seqs_max=1)

    assert await reading == words(50)
    assert (len(batch.died_under), batch.waste_continuation_tokens) == (0, 0)
    rig.assert_empty()


class Failing(SimEngine):
    """Takes no call."""

    async def submit(self, work: Work, sink: Sink) -> None:
        """See `contract.Engine.submit`."""
        raise EngineFault


async def test_an_engine_may_fail_what_gave_way_and_another_begins_it_again(
    rig: Rig, record: Record
) -> None:
    engine = await one_place(rig)
    batch = of(Tier.BATCH, record())
    reading = rig.collect(rig.work(50, wants="final"), batch)
    await asyncio.sleep(0.105)
    urgent = rig.collect(rig.work(30), of(Tier.CRITICAL, record()))
    await asyncio.sleep(0.2)
    engine.__class__ = Failing
    other = rig.collect(rig.work(40), of(Tier.CRITICAL, record()))
    await asyncio.sleep(0.001)
    await rig.add("b", seqs_max=1)
    await urgent
    await other

    assert await reading == words(50)
    assert told(batch)[-3:] == ["granted a", "failed by a", "granted b"]
    assert (batch.completion_tokens, batch.prompt_tokens) == (50, 2)
    rig.assert_empty()
