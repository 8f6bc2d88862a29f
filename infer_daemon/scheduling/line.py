"""The jobs of one tenant that wait in one class: whoever gave a place up, then earliest due first,
then in order of arrival."""

from bisect import bisect_left, bisect_right, insort
from math import inf

import msgspec

from infer_daemon.domain.jobs import Job


class Waiting(msgspec.Struct, eq=False, gc=False):
    """A job in a line."""

    job: Job
    output_tokens: int
    """Expected, per sequence."""
    service: float
    """What it is expected to cost."""
    number: int
    """How many came to this line before it."""
    since_s: float
    """When it came."""
    passed_by: int = 0
    """Jobs that took room which this one, first in its line, did not fit into."""

    @property
    def due_s(self) -> float:
        """Its place in the line: who gave a place in an engine up goes first."""
        return -inf if self.job.preemptions else self.job.due_s


class Line:
    """A sorted list: moving the pointers of thousands costs less than a call."""

    def __init__(self) -> None:
        #: By due time and number. The first `_gone` have left.
        self._order: list[tuple[float, int, Waiting]] = []
        self._gone = 0
        self._came = 0
        #: Expected cost of all jobs in the line.
        self.service = 0.0

    def __len__(self) -> int:
        return len(self._order) - self._gone

    @property
    def first(self) -> Waiting:
        """Who is next; there must be somebody."""
        return self._order[self._gone][2]

    def join(self, job: Job, output_tokens: int, service: float, now_s: float) -> Waiting:
        """A job comes."""
        waiting = Waiting(job, output_tokens, service, self._came, now_s)
        self._came += 1
        self.service += service
        insort(self._order, (waiting.due_s, waiting.number, waiting), self._gone)
        return waiting

    def leave(self, waiting: Waiting) -> None:
        """A job goes, from wherever it stands. It must be in the line."""
        self.service -= waiting.service
        order = self._order
        if waiting is not order[self._gone][2]:
            del order[self._place(waiting)]
            return
        # Whoever goes first leaves its place behind: the others are not moved each time.
        self._gone += 1
        if 2 * self._gone >= len(order):
            del order[: self._gone]
            self._gone = 0
            if not order:
                self.service = 0.0  # without the rounding of many sums

    def position(self, waiting: Waiting) -> int:
        """1 for the next. It must be in the line."""
        return self._place(waiting) - self._gone + 1

    def service_before(self, due_s: float) -> float:
        """About what those cost who go before a job that comes now and is due then: each is counted
        as one like the others."""
        before = bisect_right(self._order, (due_s, inf), self._gone) - self._gone
        return self.service * before / len(self) if before else 0.0

    def _place(self, waiting: Waiting) -> int:
        return bisect_left(self._order, (waiting.due_s, waiting.number), self._gone)

    @property
    def jobs(self) -> list[Job]:
        """Everybody in it, in the order of their turns."""
        return [waiting.job for _, _, waiting in self._order[self._gone :]]
