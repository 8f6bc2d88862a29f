"""Who has waited longer than the jobs of their class should for work that can go on later. Pure."""

import heapq

from infer_daemon.domain.jobs import JobId


class Patience:
    """Of the waiting jobs of classes that batch work gives way to."""

    def __init__(self) -> None:
        #: When each one's patience ends, of those whose has not.
        self._ends: dict[JobId, float] = {}
        #: Heap of the same. May hold jobs that have left; each of `_ends` is in it.
        self._order: list[tuple[float, JobId]] = []
        #: Whose patience has ended.
        self.over: set[JobId] = set()

    def begin(self, job_id: JobId, end_s: float) -> None:
        """A job waits; it must `end`."""
        self._ends[job_id] = end_s
        heapq.heappush(self._order, (end_s, job_id))
        if len(self._order) > 2 * len(self._ends) + 64:
            self._order = [(end_s, job_id) for job_id, end_s in self._ends.items()]
            heapq.heapify(self._order)

    def end(self, job_id: JobId) -> None:
        """A job waits no longer. Unknown ones are fine."""
        self._ends.pop(job_id, None)
        self.over.discard(job_id)

    def expire(self, now_s: float) -> None:
        """Time has passed."""
        while (next_s := self.next_s) is not None and next_s <= now_s:
            _, job_id = heapq.heappop(self._order)
            del self._ends[job_id]
            self.over.add(job_id)

    @property
    def next_s(self) -> float | None:
        """The earliest end that is to come."""
        while self._order and self._ends.get(self._order[0][1]) != self._order[0][0]:
            heapq.heappop(self._order)
        return self._order[0][0] if self._order else None

    def check(self, waiting: set[JobId]) -> None:
        """Assert that only these jobs are known, each once."""
        assert self._ends.keys() | self.over <= waiting, "somebody is impatient who does not wait"
        assert not self._ends.keys() & self.over, "a patience has ended and has not"
        assert {(end_s, job_id) for job_id, end_s in self._ends.items()} <= set(self._order)
