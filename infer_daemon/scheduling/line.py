"""The jobs of one tenant that wait in one class: earliest due first, then in order of arrival."""

import heapq
from dataclasses import dataclass

from infer_daemon.domain.jobs import Job, JobId


@dataclass(slots=True)
class Waiting:
    """A job in a line."""

    job: Job
    output_tokens: int
    """Expected, per sequence."""
    service: float
    """What it is expected to cost."""
    number: int
    """How many came to this line before it."""
    passed_by: int = 0
    """Jobs that took room which this one, first in its line, did not fit into."""


class Line:
    """Leaving from the middle is cheap: what has left is skipped when it comes up."""

    def __init__(self) -> None:
        self._jobs: dict[JobId, Waiting] = {}
        self._heap: list[tuple[float, int, JobId]] = []
        self._came = 0
        #: Expected cost of all jobs in the line.
        self.service = 0.0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def first(self) -> Waiting:
        """Who is next; there must be somebody."""
        while True:
            _, number, job_id = self._heap[0]
            waiting = self._jobs.get(job_id)
            if waiting is not None and waiting.number == number:
                return waiting
            heapq.heappop(self._heap)

    def join(self, job: Job, output_tokens: int, service: float) -> Waiting:
        """A job comes."""
        waiting = Waiting(job, output_tokens, service, self._came)
        self._came += 1
        self._jobs[job.id] = waiting
        self.service += service
        heapq.heappush(self._heap, (job.due_s, waiting.number, job.id))
        if len(self._heap) > 2 * len(self._jobs) + 64:
            self._heap = [(w.job.due_s, w.number, w.job.id) for w in self._jobs.values()]
            heapq.heapify(self._heap)
        return waiting

    def leave(self, job_id: JobId) -> None:
        """A job goes, from wherever it stands."""
        self.service -= self._jobs.pop(job_id).service
        if not self._jobs:
            self.service = 0.0  # without the rounding of many sums
            self._heap.clear()

    def position(self, waiting: Waiting) -> int:
        """1 for the next. As if nobody overtook, which is right where due times keep the order of
        arrival, and close where they do not."""
        gone = self._came - len(self._jobs)
        return max(1, waiting.number - gone + 1)

    @property
    def jobs(self) -> list[Job]:
        """Everybody in it, in order of arrival."""
        return [waiting.job for waiting in self._jobs.values()]
