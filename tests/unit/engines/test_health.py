"""Breakers and second tries of a pool: simulated engines that fail, a real scheduler, on virtual
time."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

import pytest
from structlog.types import EventDict

from infer_daemon.domain.errors import EngineFault
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.breaker import BreakerPolicy
from infer_daemon.engines.contract import Sink, Work
from infer_daemon.engines.health import Health
from infer_daemon.engines.retries import RetryPolicy
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.engines.supervisor import Status
from tests.unit.engines.conftest import Rig

pytestmark = pytest.mark.looptime

Record = Callable[[], RequestRecord]
A = EngineName("a")
POLICY = BreakerPolicy(calls_min=4, open_s=5.0, open_s_max=20.0, slow_s=10.0, probe_timeout_s=10.0)
WORDS = ["w0", "w1", "w2"]


@dataclass
class Told:
    """A witness that remembers."""

    changes: list[tuple[str, str, str]] = field(default_factory=list)
    retries: Counter[bool] = field(default_factory=Counter)

    def on_breaker(self, engine: str, to: str, cause: str) -> None:
        """See `health.Witness`."""
        self.changes.append((engine, to, cause))

    def on_retry(self, engine: str, *, granted: bool) -> None:
        """See `health.Witness`."""
        self.retries[granted] += 1


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def rig(told: Told) -> AsyncGenerator[Rig, None]:
    """A pool without engines that opens breakers after four calls."""
    rig = Rig(Health(POLICY, RetryPolicy(floor=0), told))
    yield rig
    for engine in rig.engines:
        await engine.stop()


async def add(rig: Rig, name: str, **options: float) -> SimEngine:
    """A ready engine that is expected back when it is lost."""
    rig.pool.statuses[EngineName(name)] = Status(state=EngineState.READY)
    rig.pool.look_ahead()
    return await rig.add(name, **options)


async def fail(rig: Rig, record: Record, count: int = 4) -> None:
    """Have engines fail so many calls, one after the other."""
    for _ in range(count):
        with pytest.raises(EngineFault):
            await rig.collect(rig.work(), record())


async def test_an_engine_that_fails_is_left_alone_and_its_replica_goes_on(
    rig: Rig, record: Record, told: Told, log_lines: list[EventDict]
) -> None:
    await add(rig, "a", fault_share=1.0)
    await fail(rig, record)
    await add(rig, "b")
    last = record()

    assert await rig.collect(rig.work(), last) == WORDS
    assert last.engine == "b"
    assert told.changes == [("a", "open", "fault")]
    assert [line["state"] for line in log_lines if line["event"] == "breaker"] == ["open"]
    assert rig.pool.health.endings(A) == {"fault": 4}
    rig.assert_empty()


async def test_where_there_is_no_replica_calls_wait_until_one_of_them_may_try(
    rig: Rig, record: Record, told: Told
) -> None:
    engine = await add(rig, "a", fault_share=1.0, seqs_max=4)
    await fail(rig, record)
    assert rig.pool.is_broken
    engine.fault_share = 0.0
    calls = [rig.collect(rig.work(), record()) for _ in range(3)]
    await asyncio.sleep(4.9)
    assert engine.in_flight == 0
    await asyncio.sleep(0.105)
    assert engine.in_flight == 1, "the probe"

    assert await asyncio.gather(*calls) == [WORDS] * 3
    assert told.changes[1:] == [("a", "half_open", "due"), ("a", "closed", "ok")]
    assert not rig.pool.is_broken
    rig.assert_empty()


async def test_a_call_of_several_sequences_may_be_the_probe(rig: Rig, record: Record) -> None:
    engine = await add(rig, "a", fault_share=1.0, seqs_max=4)
    await fail(rig, record)
    engine.fault_share = 0.0

    assert await rig.collect(rig.work(seqs=4), record()) == WORDS


async def test_a_probe_that_fails_leaves_the_engine_alone_for_twice_as_long(
    rig: Rig, record: Record, told: Told
) -> None:
    engine = await add(rig, "a", fault_share=1.0)
    await fail(rig, record)
    await fail(rig, record, 1)
    engine.fault_share = 0.0
    began_s = asyncio.get_running_loop().time()
    await rig.collect(rig.work(), record())

    assert asyncio.get_running_loop().time() - began_s == pytest.approx(10.0, abs=0.1)
    assert [to for _, to, _ in told.changes] == ["open", "half_open", "open", "half_open", "closed"]


async def test_a_probe_whose_client_goes_away_leaves_its_place_to_the_next(
    rig: Rig, record: Record
) -> None:
    engine = await add(rig, "a", fault_share=1.0)
    await fail(rig, record)
    engine.fault_share = 0.0
    first = rig.collect(rig.work(), record())
    await asyncio.sleep(5.005)
    assert engine.in_flight == 1
    second = rig.collect(rig.work(), record())
    await asyncio.sleep(0)
    first.cancel()

    assert await second == WORDS
    rig.assert_empty()


async def test_a_place_for_a_probe_that_was_granted_and_given_up_is_offered_again(
    rig: Rig, record: Record
) -> None:
    engine = await add(rig, "a", fault_share=1.0)
    await fail(rig, record)
    engine.fault_share = 0.0
    first = record()
    call = rig.collect(rig.work(), first)
    # Cancelled in the moment in which the window opens: granted, and never in the engine.
    asyncio.get_running_loop().call_later(5.0, call.cancel)
    await asyncio.sleep(5.5)

    assert await rig.collect(rig.work(), record()) == WORDS
    rig.assert_empty()


async def test_what_clients_give_up_says_nothing_of_the_engine(
    rig: Rig, record: Record, told: Told
) -> None:
    await add(rig, "a")
    for _ in range(20):
        call = rig.collect(rig.work(100), record())
        await asyncio.sleep(0.015)
        call.cancel()
        await asyncio.wait([call])

    assert told.changes == []
    assert rig.pool.health.endings(A) == {"client": 20}


async def test_an_engine_that_is_slow_to_begin_is_left_alone(
    rig: Rig, record: Record, told: Told
) -> None:
    await add(rig, "a", step_ms=11_000.0, seqs_max=4)
    await asyncio.gather(*(rig.collect(rig.work(1), record()) for _ in range(4)))

    assert told.changes == [("a", "open", "slow")]


async def test_an_engine_may_be_left_alone_for_what_calls_do_not_show(
    rig: Rig, record: Record, told: Told
) -> None:
    await add(rig, "a")
    rig.pool.health.trip(A, "anomaly", "too many answers are empty")
    rig.pool.health.trip(A, "anomaly", "too many answers are empty")
    rig.pool.health.trip(EngineName("nobody"), "anomaly", "")
    reading = rig.collect(rig.work(3), record())
    await asyncio.sleep(POLICY.open_s - 0.1)
    assert not reading.done()
    await asyncio.sleep(1)

    assert reading.done()
    assert told.changes == [
        ("a", "open", "anomaly"), ("a", "half_open", "due"), ("a", "closed", "ok"),
    ]  # fmt: skip


async def test_an_engine_that_was_started_again_has_a_clean_record(
    rig: Rig, record: Record
) -> None:
    engine = await add(rig, "a", fault_share=1.0)
    await fail(rig, record)
    engine.kill()
    rig.pool.close(A)
    await add(rig, "a")
    began_s = asyncio.get_running_loop().time()

    assert await rig.collect(rig.work(), record()) == WORDS
    assert asyncio.get_running_loop().time() - began_s < 1


class Picky:
    """An engine that takes no calls: each is its fault at once."""

    def __init__(self, engine: SimEngine) -> None:
        self._engine = engine
        self.name, self.frontend = engine.name, engine.frontend
        self.submitted = 0

    async def check(self, work: Work) -> None:
        """See `contract.Engine`."""

    async def submit(self, work: Work, sink: Sink) -> None:
        """See `contract.Engine`."""
        self.submitted += 1
        raise EngineFault

    async def abort(self, work_id: str) -> None:
        """See `contract.Engine`."""


async def pair(told: Told, **policy: float) -> Rig:
    """A pool that may try again, of an engine that fails and one that does not."""
    rig = Rig(Health(POLICY, RetryPolicy(**policy), told))  # type: ignore[arg-type]
    await add(rig, "a", fault_share=1.0)
    await add(rig, "b")
    return rig


@pytest.mark.parametrize("wants", ["deltas", "final"])
async def test_what_an_engine_fails_before_anything_was_sent_is_begun_again_in_another(
    told: Told, record: Record, wants: str
) -> None:
    rig = await pair(told)
    one = record()

    assert await rig.collect(rig.work(wants=wants), one) == WORDS
    assert [event for _, event in one.story] == ["granted a", "failed by a", "granted b"]
    assert (one.prompt_tokens, one.completion_tokens) == (2, 3)
    assert one.waste_continuation_tokens == 2
    assert told.retries == {True: 1}
    rig.assert_empty()


async def test_a_call_that_an_engine_does_not_take_is_begun_again_in_another(
    told: Told, record: Record
) -> None:
    rig = Rig(Health(POLICY, RetryPolicy(), told))
    picky = Picky(rig.make("a"))
    rig.pool.open(picky, await rig.engines[0].start(lambda _: None))  # type: ignore[arg-type]
    one = record()
    await add(rig, "b")

    assert await rig.collect(rig.work(), one) == WORDS
    assert (picky.submitted, one.engine) == (1, "b")
    rig.assert_empty()


async def test_without_another_engine_the_client_is_told_of_the_fault(
    rig: Rig, record: Record, told: Told
) -> None:
    await add(rig, "a", fault_share=1.0)
    await fail(rig, record, 1)

    assert told.retries == {}
    rig.assert_empty()


async def test_beyond_the_budget_the_client_is_told_of_the_fault(
    told: Told, record: Record
) -> None:
    rig = await pair(told, floor=1)
    results = await asyncio.gather(
        *(rig.collect(rig.work(), record()) for _ in range(4)), return_exceptions=True
    )

    assert sum(isinstance(result, EngineFault) for result in results) == 1
    assert told.retries == {True: 1, False: 1}
    rig.assert_empty()


async def test_an_engine_that_fails_half_of_its_calls_adds_at_most_a_tenth_to_the_load_of_the_rest(
    told: Told, record: Record
) -> None:
    rig = Rig(Health(BreakerPolicy(failure_share_max=1.0), RetryPolicy(), told))
    for name, share in (("a", 0.5), ("b", 0.0), ("c", 0.0)):
        await add(rig, name, fault_share=share, seqs_max=4)
    entered = Counter[str]()
    for _ in range(600):
        records = [record() for _ in range(3)]
        await asyncio.gather(
            *(rig.collect(rig.work(1), one) for one in records), return_exceptions=True
        )
        for one in records:
            grants = [event.split()[1] for _, event in one.story if event.startswith("granted")]
            entered["first"] += grants[0] != "a"
            entered["again"] += len(grants) - 1

    assert entered["again"] >= 20
    assert entered["again"] <= 0.1 * entered["first"] + 3
    assert told.retries[False] > 0
    rig.assert_empty()
