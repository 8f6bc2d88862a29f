"""Who goes next: a bounded queue in order of arrival, granted up to each engine's window.

Pure: events go in (`submit`, `leave`, `resize`, `expire`), decisions come out (`Grant`, `Evict`).
It never awaits, reads a clock, logs or calls back; the caller carries the decisions out before the
next event. One object per pool, used from one thread, so it needs no lock.
"""

import heapq
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from infer_daemon.domain.jobs import EngineName, Job, JobId


class EvictReason(StrEnum):
    """Why a waiting job lost its place."""

    DEADLINE = "deadline"
    NO_ENGINE = "no_engine"


class RejectReason(StrEnum):
    """Why a job was not even queued."""

    QUEUE_FULL = "queue_full"
    NO_ENGINE = "no_engine"
    NEVER_FITS = "never_fits"


@dataclass(frozen=True, slots=True)
class Grant:
    """The job may enter that engine now; its sequences are counted from here on."""

    job: JobId
    engine: EngineName


@dataclass(frozen=True, slots=True)
class Evict:
    """The job waits no longer and must be refused."""

    job: JobId
    reason: EvictReason


@dataclass(frozen=True, slots=True)
class Reject:
    """The job was not queued and must be refused."""

    job: JobId
    reason: RejectReason


Decision = Grant | Evict | Reject


@dataclass(slots=True)
class _Window:
    seqs_max: int
    seqs: int = 0

    @property
    def room(self) -> int:
        return self.seqs_max - self.seqs


class Core:
    """The queue and the windows of one pool."""

    def __init__(self, *, queue_len_max: int) -> None:
        self._queue_len_max = queue_len_max
        #: Waiting jobs in order of arrival. Disjoint from `_running`.
        self._queue: OrderedDict[JobId, Job] = OrderedDict()
        #: Granted jobs and where. A job is in no other place of this object.
        self._running: dict[JobId, tuple[Job, EngineName]] = {}
        #: Engines that take work. `seqs` is the sum over `_running` there, never above `seqs_max`
        #: unless the window was made smaller under running jobs.
        self._windows: dict[EngineName, _Window] = {}
        #: Heap of deadlines. May hold jobs that wait no longer; each waiting job is in it.
        self._deadlines: list[tuple[float, JobId]] = []

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Jobs in engines."""
        return len(self._running)

    @property
    def next_deadline_s(self) -> float | None:
        """The earliest moment at which `expire` would have something to do."""
        while self._deadlines and self._deadlines[0][1] not in self._queue:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def submit(self, job: Job) -> list[Decision]:
        """A job arrives. It is queued or rejected; either way every grant now due is returned."""
        assert job.id not in self._queue, f"job {job.id} is already waiting"
        assert job.id not in self._running, f"job {job.id} is already running"
        if not self._windows:
            return [Reject(job.id, RejectReason.NO_ENGINE)]
        if job.seqs > max(window.seqs_max for window in self._windows.values()):
            return [Reject(job.id, RejectReason.NEVER_FITS)]
        if len(self._queue) >= self._queue_len_max:
            return [Reject(job.id, RejectReason.QUEUE_FULL)]
        self._queue[job.id] = job
        self._note_deadline(job)
        return self._fill()

    def leave(self, job_id: JobId) -> list[Decision]:
        """A job ends: finished, failed or cancelled, waiting or running. Unknown ids are fine."""
        if self._queue.pop(job_id, None) is None:
            entry = self._running.pop(job_id, None)
            if entry is None:
                return []
            job, engine = entry
            if engine in self._windows:
                self._windows[engine].seqs -= job.seqs
        return self._fill()

    def resize(self, engine: EngineName, seqs_max: int) -> list[Decision]:
        """An engine opens, changes or (with 0) closes its window.

        Jobs running in a closed engine stay known until they `leave`. Waiting jobs that no window
        is large enough for any more are evicted: nobody can say when a larger one opens.
        """
        assert seqs_max >= 0, "a window cannot be negative"
        if seqs_max == 0:
            self._windows.pop(engine, None)
        elif engine in self._windows:
            self._windows[engine].seqs_max = seqs_max
        else:
            seqs = sum(job.seqs for job, where in self._running.values() if where == engine)
            self._windows[engine] = _Window(seqs_max, seqs)
        largest = max((window.seqs_max for window in self._windows.values()), default=0)
        stranded = [job_id for job_id, job in self._queue.items() if job.seqs > largest]
        for job_id in stranded:
            del self._queue[job_id]
        return [*(Evict(job_id, EvictReason.NO_ENGINE) for job_id in stranded), *self._fill()]

    def expire(self, now_s: float) -> list[Decision]:
        """Time has passed: evict whoever is at or past its deadline."""
        late: list[JobId] = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            job_id = heapq.heappop(self._deadlines)[1]
            if self._queue.pop(job_id, None) is not None:
                late.append(job_id)
        # A large job at the head may have been what kept the others waiting.
        return [*(Evict(job_id, EvictReason.DEADLINE) for job_id in late), *self._fill()]

    def _fill(self) -> list[Decision]:
        """Grant from the head while it fits. The one place where a job is given an engine."""
        grants: list[Decision] = []
        while self._queue:
            job_id, job = next(iter(self._queue.items()))
            engine = self._emptiest()
            if engine is None or self._windows[engine].room < job.seqs:
                break
            del self._queue[job_id]
            self._windows[engine].seqs += job.seqs
            self._running[job_id] = (job, engine)
            grants.append(Grant(job_id, engine))
        return grants

    def _note_deadline(self, job: Job) -> None:
        heapq.heappush(self._deadlines, (job.deadline_s, job.id))
        if len(self._deadlines) > 2 * len(self._queue) + 64:
            self._deadlines = [(waiting.deadline_s, waiting.id) for waiting in self._queue.values()]
            heapq.heapify(self._deadlines)

    def _emptiest(self) -> EngineName | None:
        return max(self._windows, key=lambda name: self._windows[name].room, default=None)

    def snapshot(self) -> dict[str, object]:
        """Plain values for `infer-daemon state` and metrics."""
        return {
            "waiting": len(self._queue),
            "running": len(self._running),
            "windows": {
                name: {"seqs": window.seqs, "seqs_max": window.seqs_max}
                for name, window in self._windows.items()
            },
        }

    def check(self) -> None:
        """Assert every invariant of this object; tests call it after each event."""
        assert not self._queue.keys() & self._running.keys(), "a job both waits and runs"
        assert len(self._queue) <= self._queue_len_max, "the queue is over its bound"
        for name, window in self._windows.items():
            used = sum(job.seqs for job, where in self._running.values() if where == name)
            assert used == window.seqs, f"engine {name} counts {window.seqs}, runs {used}"
        noted = {job_id for _, job_id in self._deadlines}
        assert self._queue.keys() <= noted, "a waiting job has no deadline in the heap"
        if self._queue:
            head = next(iter(self._queue.values()))
            room = max((window.room for window in self._windows.values()), default=0)
            assert room < head.seqs, "the head of the queue fits and was not granted"
