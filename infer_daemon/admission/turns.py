"""Would its turn come in time? Pure: reads no clock."""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from infer_daemon.admission.rates import LEARN
from infer_daemon.domain.errors import WouldWaitTooLong
from infer_daemon.domain.jobs import Tier
from infer_daemon.domain.record import RequestRecord

CAUTION = 1.4
"""An expected wait is a guess, and an early no is better than a late one: of twenty waits, one is a
third longer than was expected, since the pace of an engine changes with what it is given."""


class Way(NamedTuple):
    """Of a request to its line."""

    line: tuple[str, Tier, str]
    """Pool, class, tenant."""
    due_s: float
    """By that it will have its place there."""


class Outlook(Protocol):
    """What is asked of a scheduler; see `scheduling.scheduler.Scheduler`."""

    def expected_wait_s(self, tenant: str, tier: Tier, due_s: float, *, coming: int) -> float:
        """How long a request of that tenant and class would wait if it came now and were due then,
        by the clock of the records.

        Args: coming: requests of theirs which the scheduler does not know yet, and which will be in
            line before it.
        """


class Turns:
    """Of every pool: who is on the way to its line, and how soon an answer begins."""

    def __init__(self, outlooks: Mapping[str, Outlook]) -> None:
        self._outlooks = outlooks
        #: A mean: from a request's turn to its first output.
        self._begin_s = dict.fromkeys(outlooks, 0.0)
        #: Of each line, when those are due who are on their way to it, in order.
        self._coming: defaultdict[tuple[str, Tier, str], list[float]] = defaultdict(list)

    def come(self, record: RequestRecord, pool: str, now_s: float) -> Way:
        """Let a request in that has yet to be rendered. For what it returns, `arrive` *must* be
        called once: when it stands in line, or is gone.

        While many are rendered at once the line grows by none of them. Whoever comes behind them
        has to hear now that it is too late, and not when it has been rendered, too.

        Raises:
            WouldWaitTooLong
        """
        way = Way((pool, record.tier, record.tenant), record.due_s)
        others = self._coming[way.line]
        self.refuse_late(record, pool, now_s, coming=bisect_right(others, way.due_s))
        insort(others, way.due_s)
        return way

    def arrive(self, way: Way) -> None:
        """One that was on that way is so no longer."""
        coming = self._coming[way.line]
        del coming[bisect_left(coming, way.due_s)]
        if not coming:
            del self._coming[way.line]

    def refuse_late(
        self, record: RequestRecord, pool: str, now_s: float, *, coming: int = 0
    ) -> None:
        """Look whether its answer would begin before its deadline.

        Raises:
            WouldWaitTooLong
        """
        wait_s = self._outlooks[pool].expected_wait_s(
            record.tenant, record.tier, record.due_s, coming=coming
        )
        # Whoever need not wait is let in however long others took: only so is that ever unlearned.
        begun_s = CAUTION * wait_s + self._begin_s[pool] if wait_s else 0.0
        left_s = record.deadline_s - now_s
        if begun_s > left_s:
            told = f"its deadline passed {_time(-left_s)} ago"
            if left_s > 0:
                told = f"it may wait {_time(left_s)} more"
            raise WouldWaitTooLong(
                f"{told}; its turn is expected in {_time(wait_s)}, "
                f"its answer may begin in {_time(begun_s)}",
                # When so many have gone that it would be in time; at once it would not.
                retry_after_s=max(1.0, begun_s - max(0.0, left_s)),
            )

    def learn(self, record: RequestRecord, pool: str) -> None:
        """How soon the answer of a request began that is over now."""
        granted_s, begun_s = record.granted_s, record.first_token_s
        # One whose engine died, or was somebody else's, may have waited before it began.
        was_delayed = record.waste_continuation_tokens + record.waste_preemption_tokens > 0
        if granted_s is not None and begun_s is not None and not was_delayed:
            self._begin_s[pool] += LEARN * (begun_s - granted_s - self._begin_s[pool])

    def check(self, ways: Iterable[Way]) -> None:
        """Assert that just these are on their ways; tests call it."""
        coming = [Way(line, due_s) for line, dues in self._coming.items() for due_s in dues]
        assert sorted(coming) == sorted(ways), f"{coming} are said to be on their way"


def _time(seconds: float) -> str:
    """As a message tells it."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{round(1e3 * seconds, 1):g} ms"
