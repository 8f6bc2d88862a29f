"""The asyncio shell around the core: owns the waiters and the one timer of a pool."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from math import inf

from infer_daemon.domain.errors import (
    DaemonError,
    FanoutTooLarge,
    ModelNotReady,
    PoolLost,
    QueueFull,
    WaitedTooLong,
)
from infer_daemon.domain.jobs import EngineName, Job, JobId, Tier, WindowLimits
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.decisions import (
    Decision,
    Evict,
    EvictReason,
    Grant,
    Preempt,
    Reject,
    RejectReason,
)
from infer_daemon.scheduling.outlook import Outlook, Prospect, snapshot
from infer_daemon.scheduling.policy import Policy


class Scheduler:
    """Lets jobs wait for their turn. All methods belong to one event loop."""

    def __init__(self, policy: Policy) -> None:
        self._core = Core(policy)
        self._waiters: dict[JobId, tuple[Job, asyncio.Future[EngineName]]] = {}
        #: Granted, but not told yet; and whether the place was taken back in that moment.
        self._waking: dict[JobId, bool] = {}
        self._tell: Callable[[JobId, Tier], None] = lambda _job_id, _tier: None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_deadline_s = 0.0

    def when_preempted(self, tell: Callable[[JobId, Tier], None]) -> None:
        """Whom to tell of jobs that have given way, and to which class. Who has its turn already
        *must* be out of its engine as soon as it is told; its room is somebody else's."""
        self._tell = tell

    async def turn(self, job: Job) -> EngineName:
        """Wait until the job may enter an engine, and say which.

        After it returns you *must* call `finish` or `cancel` once the engine is done with the job.
        When it raises, also by cancellation, nothing of the job is left here.

        Raises:
            QueueFull, ModelNotReady, FanoutTooLarge: it was not queued.
            WaitedTooLong, PoolLost: it was queued and gave its place up.
        """
        while True:
            try:
                engine = await self._turn(job)
            finally:
                was_taken_back = self._waking.pop(job.id, False)
            if not was_taken_back:
                return engine
            job = replace(job, is_resumed=True, preemptions=job.preemptions + 1)

    async def _turn(self, job: Job) -> EngineName:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[EngineName] = loop.create_future()
        self._waiters[job.id] = (job, waiter)
        self._act(self._core.submit(job, loop.time()))
        if waiter.done():
            return waiter.result()
        try:
            return await waiter
        except asyncio.CancelledError:
            # It may have been granted in the same moment; cancelling covers waiting and running.
            self.cancel(job.id)
            raise

    def token(self, job_id: JobId, count: int) -> None:
        """A running job has generated that many tokens: they are charged as they stream."""
        self._act(self._core.token(job_id, count, asyncio.get_running_loop().time()))

    def finish(self, job_id: JobId) -> None:
        """A running job has ended by itself. Idempotent."""
        self._act(self._core.finish(job_id, asyncio.get_running_loop().time()))

    def cancel(self, job_id: JobId) -> None:
        """The job is given up. Idempotent, and safe for a job that never got a turn: whoever waits
        for that is cancelled."""
        if (found := self._waiters.pop(job_id, None)) is not None:
            found[1].cancel()
        if job_id in self._waking:
            self._waking[job_id] = False  # it is not to wait again
        self._act(self._core.cancel(job_id, asyncio.get_running_loop().time()))

    def resize(self, engine: EngineName, limits: WindowLimits | None) -> None:
        """Open, change or (None) close an engine's window."""
        self._act(self._core.resize(engine, limits, asyncio.get_running_loop().time()))

    def expect(self, is_engine_expected: bool) -> None:
        """Whether jobs may wait while no engine has a window, for one that is to come."""
        self._act(self._core.expect(is_engine_expected))

    def change(self, policy: Policy) -> None:
        """Another policy from now on, for those too who wait already."""
        self._act(self._core.change(policy, asyncio.get_running_loop().time()))

    def expected_wait_s(self, tenant: str, tier: Tier, due_s: float, *, coming: int = 0) -> float:
        """How long a job of that tenant and class would wait if it came now and were due then; see
        `Outlook`."""
        return Outlook(self._core).expected_wait_s(tenant, tier, due_s, coming=coming)

    def prospect(self, job_id: JobId) -> Prospect | None:
        """Place and expected wait of a waiting job; None for any other."""
        return Outlook(self._core).prospect(job_id)

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._core.waiting)

    @property
    def running(self) -> int:
        """Jobs in engines."""
        return len(self._core.running)

    def snapshot(self) -> dict[str, object]:
        """Plain values for `infer-daemon state`."""
        return snapshot(self._core)

    def check(self) -> None:
        """Assert the core's invariants and that each waiter waits for a job that it knows."""
        self._core.check()
        assert self._waiters.keys() == self._core.waiting.keys(), "a waiter without a job"

    def _act(self, decisions: list[Decision]) -> None:
        preempted = [decision for decision in decisions if isinstance(decision, Preempt)]
        for decision in decisions:
            job, waiter = self._waiters.pop(decision.job, (None, None))
            if job is None or waiter is None or waiter.done():
                # Cancelled but not yet told: its `turn` gives the place back when it wakes.
                continue
            match decision:
                case Grant(engine=engine):
                    self._waking[job.id] = False
                    waiter.set_result(engine)
                case Evict(reason=reason):
                    # As long as whoever comes now would wait: sooner would be in vain again.
                    wait_s = self.expected_wait_s(job.tenant, job.tier, inf)
                    waiter.set_exception(self._eviction(reason, job, wait_s))
                case Reject(reason=reason):
                    waiter.set_exception(self._rejection(reason, job))
        for decision in preempted:
            self._preempt(decision)
        self._arm()

    def _preempt(self, decision: Preempt) -> None:
        if decision.job in self._waking:
            self._waking[decision.job] = True
            self._tell(decision.job, decision.tier)
        else:
            # Not at once: this may be inside of what the engine tells of that very job.
            loop = asyncio.get_running_loop()
            loop.call_soon(self._tell, decision.job, decision.tier)

    def _arm(self) -> None:
        """Keep a timer at or before the earliest deadline; one that comes early only looks."""
        deadline_s = self._core.next_deadline_s
        if deadline_s is None:
            return
        if self._timer is not None:
            if self._timer_deadline_s <= deadline_s:
                return
            self._timer.cancel()
        self._timer_deadline_s = deadline_s
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(deadline_s, self._on_timer, deadline_s)

    def _on_timer(self, deadline_s: float) -> None:
        # uvloop runs timers up to half a millisecond early by its own clock, so the timer brings
        # its deadline along: asked the clock alone, nobody would be late and nobody ask again.
        self._timer = None
        self._act(self._core.expire(max(deadline_s, asyncio.get_running_loop().time())))

    def _eviction(self, reason: EvictReason, job: Job, wait_s: float) -> DaemonError:
        match reason:
            case EvictReason.DEADLINE:
                return WaitedTooLong(retry_after_s=max(1.0, wait_s))
            case EvictReason.NO_ENGINE:
                return PoolLost(retry_after_s=10)
            case EvictReason.NEVER_FITS:
                return self._never_fits(job)

    def _rejection(self, reason: RejectReason, job: Job) -> DaemonError:
        match reason:
            case RejectReason.QUEUE_FULL:
                return QueueFull(retry_after_s=1)
            case RejectReason.NO_ENGINE:
                return ModelNotReady(retry_after_s=10)
            case RejectReason.NEVER_FITS:
                return self._never_fits(job)

    def _never_fits(self, job: Job) -> DaemonError:
        return FanoutTooLarge(
            f"n is {job.seqs}; an engine of this model holds at most {self._core.seqs_max} "
            "sequences at once",
            param="n",
        )
