"""What virtual time cannot show: uvloop's own timers."""

import asyncio

import uvloop

from infer_daemon.domain.errors import WaitedTooLong
from infer_daemon.domain.jobs import EngineName, JobId, WindowLimits
from infer_daemon.scheduling.policy import Policy
from infer_daemon.scheduling.scheduler import Scheduler
from tests.conftest import MakeJob


def test_no_deadline_is_missed_although_uvloop_runs_timers_early(job: MakeJob) -> None:
    """Forty deadlines at odd fractions of a millisecond; a missed one would wait for ever."""

    async def main() -> None:
        scheduler = Scheduler(Policy(queue_len_max=100))
        scheduler.resize(EngineName("a"), WindowLimits(seqs=1))
        await scheduler.turn(job("holder", deadline_s=0))
        now_s = asyncio.get_running_loop().time()
        waits = (
            scheduler.turn(job(f"j{n}", deadline_s=now_s + 0.01 + n * 0.00037)) for n in range(40)
        )
        async with asyncio.timeout(10):
            ends = await asyncio.gather(*waits, return_exceptions=True)

        assert [type(end) for end in ends] == [WaitedTooLong] * 40
        scheduler.finish(JobId("holder"))
        scheduler.check()
        assert (scheduler.waiting, scheduler.running) == (0, 0)

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
