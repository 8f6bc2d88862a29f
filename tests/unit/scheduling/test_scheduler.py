"""The shell around the core: waiters and the timer, on virtual time."""

import asyncio
from collections.abc import Coroutine
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
from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.scheduling.scheduler import Scheduler
from tests.conftest import MakeJob

pytestmark = pytest.mark.looptime

A = EngineName("a")


@pytest.fixture
def scheduler() -> Scheduler:
    """One engine with one place, and a queue of two."""
    scheduler = Scheduler(queue_len_max=2)
    scheduler.resize(A, 1)
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


async def test_a_turn_comes_when_the_one_before_leaves(scheduler: Scheduler, job: MakeJob) -> None:
    assert await scheduler.turn(job("j1")) == A
    second = await begin(scheduler.turn(job("j2")))
    assert not second.done()

    scheduler.leave(JobId("j1"))

    assert await second == A
    scheduler.leave(JobId("j2"))
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
    scheduler.leave(JobId("j1"))
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
        scheduler.leave(JobId("j1"))
        unlucky.cancel()
    else:
        unlucky.cancel()
        scheduler.leave(JobId("j1"))

    assert await third == A
    assert unlucky.cancelled()
    scheduler.leave(JobId("j3"))
    assert_empty(scheduler)


@pytest.mark.parametrize("first", ["evict", "cancel"])
async def test_a_job_that_is_cancelled_while_evicted_is_cancelled_quietly(
    scheduler: Scheduler, job: MakeJob, first: str
) -> None:
    await scheduler.turn(job("j1"))
    unlucky = await begin(scheduler.turn(job("j2")))
    if first == "evict":
        scheduler.resize(A, 0)
        unlucky.cancel()
    else:
        unlucky.cancel()
        scheduler.resize(A, 0)
    await asyncio.wait([unlucky])

    assert unlucky.cancelled()
    scheduler.leave(JobId("j1"))
    assert_empty(scheduler)


async def test_leaving_is_idempotent_and_safe_for_strangers(
    scheduler: Scheduler, job: MakeJob
) -> None:
    await scheduler.turn(job("j1"))
    for _ in range(2):
        scheduler.leave(JobId("j1"))
        scheduler.leave(JobId("nobody"))

    assert_empty(scheduler)


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
    scheduler.leave(JobId("j1"))
    assert_empty(scheduler)


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
    scheduler.resize(A, 0)

    for task in waiting:
        with pytest.raises(PoolLost):
            await task
    scheduler.leave(JobId("j1"))
    assert_empty(scheduler)


@pytest.mark.parametrize(
    ("window", "seqs", "queued", "refusal"),
    [(1, 1, 2, QueueFull), (0, 1, 0, ModelNotReady), (1, 2, 0, FanoutTooLarge)],
)
async def test_a_job_that_is_not_queued_is_told_why(
    scheduler: Scheduler,
    job: MakeJob,
    window: int,
    seqs: int,
    queued: int,
    refusal: type[DaemonError],
) -> None:
    await scheduler.turn(job("j1"))
    tasks = [await begin(scheduler.turn(job(f"q{n}"))) for n in range(queued)]
    scheduler.resize(A, window)

    with pytest.raises(refusal):
        await scheduler.turn(job("late", seqs=seqs))

    scheduler.check()
    assert scheduler.waiting == queued
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
