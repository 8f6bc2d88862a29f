"""The asyncio shell around the core: owns the waiters and the one timer of a pool."""

import asyncio

from infer_daemon.domain.errors import (
    DaemonError,
    FanoutTooLarge,
    ModelNotReady,
    PoolLost,
    QueueFull,
    WaitedTooLong,
)
from infer_daemon.domain.jobs import EngineName, Job, JobId
from infer_daemon.scheduling.core import (
    Core,
    Decision,
    Evict,
    EvictReason,
    Grant,
    Reject,
    RejectReason,
)


class Scheduler:
    """Lets jobs wait for their turn. All methods belong to one event loop."""

    def __init__(self, *, queue_len_max: int) -> None:
        self._core = Core(queue_len_max=queue_len_max)
        self._waiters: dict[JobId, asyncio.Future[EngineName]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_deadline_s = 0.0

    async def turn(self, job: Job) -> EngineName:
        """Wait until the job may enter an engine, and say which.

        After it returns you *must* call `leave(job.id)` once the engine is done with the job. When
        it raises, also by cancellation, nothing of the job is left here.

        Raises:
            QueueFull, ModelNotReady, FanoutTooLarge: it was not queued.
            WaitedTooLong, PoolLost: it was queued and gave its place up.
        """
        waiter: asyncio.Future[EngineName] = asyncio.get_running_loop().create_future()
        self._waiters[job.id] = waiter
        self._act(self._core.submit(job))
        if waiter.done():
            return waiter.result()
        try:
            return await waiter
        except asyncio.CancelledError:
            # It may have been granted in the same moment; leaving covers waiting and running.
            self.leave(job.id)
            raise

    def leave(self, job_id: JobId) -> None:
        """The job is over. Idempotent, and safe for a job that never got a turn: whoever waits for
        that is cancelled."""
        waiter = self._waiters.pop(job_id, None)
        if waiter is not None:
            waiter.cancel()
        self._act(self._core.leave(job_id))

    def resize(self, engine: EngineName, seqs_max: int) -> None:
        """Open, change or (0) close an engine's window."""
        self._act(self._core.resize(engine, seqs_max))

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return self._core.waiting

    @property
    def running(self) -> int:
        """Jobs in engines."""
        return self._core.running

    def snapshot(self) -> dict[str, object]:
        """Plain values for `infer-daemon state`."""
        return self._core.snapshot()

    def check(self) -> None:
        """Assert the core's invariants and that each waiter waits for a job that it knows."""
        self._core.check()
        assert len(self._waiters) == self._core.waiting, "a waiter without a job, or the reverse"

    def _act(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            waiter = self._waiters.pop(decision.job, None)
            if waiter is None or waiter.done():
                # Cancelled but not yet told: its `turn` gives the place back when it wakes.
                continue
            match decision:
                case Grant(engine=engine):
                    waiter.set_result(engine)
                case Evict(reason=reason):
                    waiter.set_exception(_eviction(reason))
                case Reject(reason=reason):
                    waiter.set_exception(_rejection(reason))
        self._arm()

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


def _eviction(reason: EvictReason) -> DaemonError:
    match reason:
        case EvictReason.DEADLINE:
            return WaitedTooLong(retry_after_s=1)
        case EvictReason.NO_ENGINE:
            return PoolLost(retry_after_s=10)


def _rejection(reason: RejectReason) -> DaemonError:
    match reason:
        case RejectReason.QUEUE_FULL:
            return QueueFull(retry_after_s=1)
        case RejectReason.NO_ENGINE:
            return ModelNotReady(retry_after_s=10)
        case RejectReason.NEVER_FITS:
            return FanoutTooLarge(
                "n is larger than the number of sequences that an engine of this model may hold"
            )
