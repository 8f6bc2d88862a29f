"""The shell around the core: waiters and the timer, on virtual time."""

import asyncio
import math
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from infer_daemon.domain.errors import (
    DaemonError,
    FanoutTooLarge,
    ModelNotReady,
    PoolLost,
    QueueFull,
    WaitedTooLong,
)
from infer_daemon.domain.jobs import EngineName, JobId, Tier, WindowLimits
from infer_daemon.scheduling.policy import Policy
from infer_daemon.scheduling.scheduler import Scheduler
from tests.conftest import MakeJob

pytestmark = pytest.mark.looptime

A = EngineName("a")


@pytest.fixture
async def scheduler() -> Scheduler:
    """One engine with one place, and a queue of two."""
    scheduler = Scheduler(Policy(queue_len_max=2))
    scheduler.resize(A, WindowLimits(seqs=1))
    return scheduler


async def begin(coroutine: Coroutine[Any, Any, EngineName]) -> asyncio.Task[EngineName]:
    """Start waiting, and return once it waits."""
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(0)
    return task


def assert_empty(scheduler: Scheduler) -> None:
    """Nothing of any job is left."""
    scheduler.check()
    assert (scheduler.waiting, scheduler.running) == (0, 0)


async def test_a_turn_comes_when_the_one_before_ends(scheduler: Scheduler, job: MakeJob) -> None:
    assert await scheduler.turn(job("j1")) == A
    second = await begin(scheduler.turn(job("j2")))
    assert not second.done()

    scheduler.finish(JobId("j1"))

    assert await second == A
    scheduler.finish(JobId("j2"))
    assert_empty(scheduler)


async def test_a_job_that_is_cancelled_while_waiting_leaves_nothing(
    scheduler: Scheduler, job: MakeJob
) -> None:
    await scheduler.turn(job("j1"))
    waiting = await begin(scheduler.turn(job("j2")))
    waiting.cancel()
    await asyncio.wait([waiting])

    assert waiting.cancelled()
    scheduler.check()
    assert (scheduler.waiting, scheduler.running) == (0, 1)
    scheduler.finish(JobId("j1"))
    assert_empty(scheduler)


@pytest.mark.parametrize("first", ["grant", "cancel"])
async def test_a_job_that_is_cancelled_while_granted_gives_its_place_back(
    scheduler: Scheduler, job: MakeJob, first: str
) -> None:
    await scheduler.turn(job("j1"))
    unlucky = await begin(scheduler.turn(job("j2")))
    third = await begin(scheduler.turn(job("j3")))

    # Both in the same turn of the loop, so that neither is told of the other.
    if first == "grant":
        scheduler.finish(JobId("j1"))
        unlucky.cancel()
    else:
        unlucky.cancel()
        scheduler.finish(JobId("j1"))

    assert await third == A
    assert unlucky.cancelled()
    scheduler.finish(JobId("j3"))
    assert_empty(scheduler)


@pytest.mark.parametrize("first", ["evict", "cancel"])
async def test_a_job_that_is_cancelled_while_evicted_is_cancelled_quietly(
    scheduler: Scheduler, job: MakeJob, first: str
) -> None:
    await scheduler.turn(job("j1"))
    unlucky = await begin(scheduler.turn(job("j2")))
    if first == "evict":
        scheduler.resize(A, None)
        unlucky.cancel()
    else:
        unlucky.cancel()
        scheduler.resize(A, None)
    await asyncio.wait([unlucky])

    assert unlucky.cancelled()
    scheduler.finish(JobId("j1"))
    assert_empty(scheduler)


@pytest.mark.parametrize("leave", ["finish", "cancel"])
async def test_leaving_is_idempotent_and_safe_for_strangers(
    scheduler: Scheduler, job: MakeJob, leave: str
) -> None:
    await scheduler.turn(job("j1"))
    for name in ("j1", "j1", "nobody"):
        getattr(scheduler, leave)(JobId(name))

    assert_empty(scheduler)


async def test_whoever_waits_for_a_turn_is_cancelled_with_its_job(
    scheduler: Scheduler, job: MakeJob
) -> None:
    await scheduler.turn(job("j1"))
    waiting = await begin(scheduler.turn(job("j2")))
    scheduler.cancel(JobId("j2"))
    await asyncio.wait([waiting])

    assert waiting.cancelled()
    scheduler.finish(JobId("j1"))
    assert_empty(scheduler)


async def test_tokens_decide_whose_turn_comes_next(scheduler: Scheduler, job: MakeJob) -> None:
    scheduler.resize(A, WindowLimits(seqs=2))
    await scheduler.turn(job("a1", tenant="a"))
    await scheduler.turn(job("b1", tenant="b"))
    a2 = await begin(scheduler.turn(job("a2", tenant="a")))
    b2 = await begin(scheduler.turn(job("b2", tenant="b")))
    scheduler.token(JobId("a1"), 5)
    scheduler.finish(JobId("a1"))

    assert await b2 == A
    assert not a2.done()
    scheduler.check()
    scheduler.finish(JobId("b1"))
    assert await a2 == A


async def test_a_policy_counts_for_those_who_wait_already(
    scheduler: Scheduler, job: MakeJob
) -> None:
    scheduler.change(Policy(queue_len_max=9, kept_for_newcomers=0.5))
    scheduler.resize(A, WindowLimits(seqs=2))
    await scheduler.turn(job("j1"))
    waiting = await begin(scheduler.turn(job("j2")))
    assert not waiting.done()

    scheduler.change(Policy(queue_len_max=9))

    assert await waiting == A


async def test_who_waits_is_told_its_place_and_who_would_how_long(
    scheduler: Scheduler, job: MakeJob
) -> None:
    await scheduler.turn(job("j1"))
    tasks = [await begin(scheduler.turn(job(name, prompt_tokens=98))) for name in ("j2", "j3")]
    for _ in range(60):
        await asyncio.sleep(1)
        scheduler.token(JobId("j1"), 5)

    second = scheduler.prospect(JobId("j3"))
    assert second is not None
    assert (second.position, round(second.wait_s)) == (2, 10)
    assert round(scheduler.expected_wait_s("acme", Tier.INTERACTIVE, math.inf)) == 20
    assert scheduler.snapshot()["waiting"] == 2
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


@pytest.mark.parametrize("deadlines_s", [(10.0, 20.0), (20.0, 10.0)])
async def test_each_job_is_evicted_exactly_at_its_deadline(
    scheduler: Scheduler, job: MakeJob, deadlines_s: tuple[float, float]
) -> None:
    loop = asyncio.get_running_loop()
    evicted_s: dict[float, float] = {}
    await scheduler.turn(job("j1"))

    async def wait(deadline_s: float) -> None:
        with pytest.raises(WaitedTooLong):
            await scheduler.turn(job(f"until-{deadline_s}", deadline_s=deadline_s))
        evicted_s[deadline_s] = loop.time()

    await asyncio.gather(*map(wait, deadlines_s))

    assert evicted_s == {deadline_s: deadline_s for deadline_s in deadlines_s}
    scheduler.finish(JobId("j1"))
    assert_empty(scheduler)


async def test_who_is_evicted_is_told_how_long_whoever_comes_now_would_wait(
    scheduler: Scheduler, job: MakeJob
) -> None:
    await scheduler.turn(job("j1"))
    tasks = [
        await begin(scheduler.turn(job(name, prompt_tokens=98, deadline_s=deadline_s)))
        for name, deadline_s in (("j2", 60), ("j3", 70))
    ]
    for _ in range(59):
        await asyncio.sleep(1)
        scheduler.token(JobId("j1"), 5)

    with pytest.raises(WaitedTooLong) as first:
        await tasks[0]
    with pytest.raises(WaitedTooLong):
        await tasks[1]

    assert first.value.retry_after_s is not None
    assert first.value.retry_after_s > 5


async def test_a_job_that_left_before_its_deadline_is_not_missed_by_the_timer(
    scheduler: Scheduler, job: MakeJob
) -> None:
    await scheduler.turn(job("j1"))
    early = await begin(scheduler.turn(job("early", deadline_s=5)))
    late = await begin(scheduler.turn(job("late", deadline_s=50)))
    early.cancel()

    with pytest.raises(WaitedTooLong):
        await late

    assert asyncio.get_running_loop().time() == 50


async def test_a_deadline_in_the_past_is_evicted_at_once(
    scheduler: Scheduler, job: MakeJob
) -> None:
    await asyncio.sleep(10)
    await scheduler.turn(job("j1"))

    with pytest.raises(WaitedTooLong):
        await scheduler.turn(job("j2", deadline_s=3))

    assert asyncio.get_running_loop().time() == 10


async def test_a_smaller_window_evicts_nobody_and_a_closed_one_everybody(
    scheduler: Scheduler, job: MakeJob
) -> None:
    await scheduler.turn(job("j1"))
    waiting = [await begin(scheduler.turn(job(name))) for name in ("j2", "j3")]
    scheduler.resize(A, None)

    for task in waiting:
        with pytest.raises(PoolLost):
            await task
    scheduler.finish(JobId("j1"))
    assert_empty(scheduler)


@pytest.mark.parametrize(
    ("window", "seqs", "queued", "refusal"),
    [
        (WindowLimits(seqs=1), 1, 2, QueueFull),
        (None, 1, 0, ModelNotReady),
        (WindowLimits(seqs=3), 4, 0, FanoutTooLarge),
    ],
)
async def test_a_job_that_is_not_queued_is_told_why(
    scheduler: Scheduler,
    job: MakeJob,
    window: WindowLimits | None,
    seqs: int,
    queued: int,
    refusal: type[DaemonError],
) -> None:
    await scheduler.turn(job("j1"))
    tasks = [await begin(scheduler.turn(job(f"q{n}"))) for n in range(queued)]
    scheduler.resize(A, window)

    with pytest.raises(refusal) as caught:
        await scheduler.turn(job("late", seqs=seqs))
    if refusal is FanoutTooLarge:
        assert caught.value.param == "n"
        assert caught.value.message.startswith("n is 4; an engine of this model holds at most 3 ")

    scheduler.check()
    assert scheduler.waiting == queued
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# Giving way.

PREEMPTING = Policy(
    queue_len_max=9,
    kept_for_critical=0,
    kept_for_newcomers=0,
    kept_from_batch=0,
    preempt_after_s={Tier.CRITICAL: 1.0},
)


@pytest.fixture
async def preempted(scheduler: Scheduler) -> list[tuple[JobId, Tier]]:
    """Who is told to leave, and for whom."""
    told: list[tuple[JobId, Tier]] = []
    scheduler.change(PREEMPTING)
    scheduler.when_preempted(lambda job_id, tier: told.append((job_id, tier)))
    return told


async def test_batch_work_is_told_to_leave_when_the_others_patience_ends(
    scheduler: Scheduler, job: MakeJob, preempted: list[tuple[JobId, Tier]]
) -> None:
    await scheduler.turn(job("b", tier=Tier.BATCH, may_give_way=True))
    urgent = await begin(scheduler.turn(job("u", tier=Tier.CRITICAL)))
    await asyncio.sleep(0.99)
    assert not urgent.done()
    assert preempted == []

    assert await urgent == A
    assert asyncio.get_running_loop().time() == pytest.approx(1.0)
    assert preempted == [(JobId("b"), Tier.CRITICAL)]
    scheduler.cancel(JobId("b"))
    scheduler.finish(JobId("u"))
    assert_empty(scheduler)


@pytest.mark.parametrize("is_given_up", [False, True])
async def test_a_job_that_gives_way_before_it_knows_of_its_turn_waits_for_another(
    scheduler: Scheduler,
    job: MakeJob,
    preempted: list[tuple[JobId, Tier]],
    is_given_up: bool,
) -> None:
    scheduler.resize(A, WindowLimits(seqs=2))
    await scheduler.turn(job("i1"))
    await scheduler.turn(job("i2"))
    urgent = await begin(scheduler.turn(job("u", tier=Tier.CRITICAL, seqs=2)))
    batch = await begin(scheduler.turn(job("b", tier=Tier.BATCH, may_give_way=True)))
    await asyncio.sleep(2)
    scheduler.finish(JobId("i1"))  # the turn of the batch job, which is not told at once
    scheduler.finish(JobId("i2"))
    assert preempted == [(JobId("b"), Tier.CRITICAL)]
    if is_given_up:
        scheduler.cancel(JobId("b"))

    assert await urgent == A
    await asyncio.sleep(0)
    assert (scheduler.waiting, batch.done()) == (int(not is_given_up), is_given_up)
    scheduler.finish(JobId("u"))
    assert await batch == A
    scheduler.finish(JobId("b"))
    assert_empty(scheduler)


async def test_who_is_told_to_leave_is_not_told_inside_of_what_an_engine_tells(
    scheduler: Scheduler, job: MakeJob, preempted: list[tuple[JobId, Tier]]
) -> None:
    scheduler.resize(A, WindowLimits(seqs=2))
    await scheduler.turn(job("b", tier=Tier.BATCH, may_give_way=True))
    await scheduler.turn(job("i"))
    urgent = await begin(scheduler.turn(job("u", tier=Tier.CRITICAL, seqs=2)))
    await asyncio.sleep(2)
    scheduler.finish(JobId("i"))
    assert preempted == []

    assert await urgent == A
    assert preempted == [(JobId("b"), Tier.CRITICAL)]
    scheduler.cancel(JobId("b"))
    scheduler.finish(JobId("u"))
    assert_empty(scheduler)


async def test_a_job_that_gives_way_before_it_knows_of_its_turn_is_not_refused_a_place_in_the_queue(
    scheduler: Scheduler, job: MakeJob, preempted: list[tuple[JobId, Tier]]
) -> None:
    scheduler.resize(A, WindowLimits(seqs=2))
    for name in ("i1", "i2"):
        await scheduler.turn(job(name))
    urgent = await begin(scheduler.turn(job("u", tier=Tier.CRITICAL, seqs=2)))
    batch = await begin(scheduler.turn(job("b", tier=Tier.BATCH, may_give_way=True)))
    behind = await begin(scheduler.turn(job("behind", tier=Tier.BATCH)))
    await asyncio.sleep(2)
    for name in ("i1", "i2"):
        scheduler.finish(JobId(name))
    assert preempted == [(JobId("b"), Tier.CRITICAL)]
    scheduler.change(replace(PREEMPTING, queue_len_max=1))

    assert await urgent == A
    scheduler.finish(JobId("u"))
    assert (await batch, await behind) == (A, A)
    for name in ("b", "behind"):
        scheduler.finish(JobId(name))
    assert_empty(scheduler)
