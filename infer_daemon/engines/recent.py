"""What was counted lately: a sliding window of a fixed number of buckets. Pure.

The memory that it takes does not depend on how much is counted, and the time that it takes does not
depend on how long nothing was.
"""

from collections import Counter, deque

BUCKETS = 16
"""The window moves on by a bucket at a time: what was counted is forgotten when it is between 15/16
of the window and the whole of it old."""


class Recent:
    """Counts by name over the last `window_s` seconds of a monotonic clock."""

    def __init__(self, window_s: float) -> None:
        assert window_s > 0, "a window of no time"
        self._bucket_s = window_s / BUCKETS
        #: Number of the bucket and what was counted in it, oldest first; at most BUCKETS.
        self._buckets: deque[tuple[int, Counter[str]]] = deque()
        #: The sum of all buckets; has no zeros.
        self._totals: Counter[str] = Counter()

    def add(self, name: str, now_s: float) -> None:
        """Count one. A time before the last one given is taken as that."""
        number = self._forget(now_s)
        if not self._buckets or self._buckets[-1][0] < number:
            self._buckets.append((number, Counter()))
        self._buckets[-1][1][name] += 1
        self._totals[name] += 1

    def counts(self, now_s: float) -> Counter[str]:
        """By name, without those that have none. To be read, not to be kept."""
        self._forget(now_s)
        return self._totals

    def total(self, now_s: float) -> int:
        """Of all names."""
        return self.counts(now_s).total()

    def clear(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        self._totals.clear()

    def _forget(self, now_s: float) -> int:
        """Drop what is too old; returns the number of the bucket that is filled now."""
        number = int(now_s // self._bucket_s)
        while self._buckets and self._buckets[0][0] <= number - BUCKETS:
            for name, count in self._buckets.popleft()[1].items():
                self._totals[name] -= count
                if not self._totals[name]:
                    del self._totals[name]
        return number
