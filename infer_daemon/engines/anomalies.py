"""Answers that look wrong, of one model: counted, and told when there are too many. Pure.

An engine that works by all its own figures may still answer with nothing, go round in circles or
end its answers in another way than yesterday. No single answer proves that, so what counts is the
share of the last answers; a model is *flagged* for a kind when that share is reached, and no longer
when it has fallen to half of it.
"""

import math
from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

ANSWERS = 128
"""The last answers, of which shares are taken."""
ANSWERS_MIN = 32
"""Fewer say nothing."""
LENGTHS = 512
LENGTHS_MIN = 64
LONG_QUANTILE = 0.95
LONG_FACTOR = 4
"""An answer is too long if it is so many times as long as all but a twentieth of those before."""
LONG_MIN = 64
REMEMBERED = 2048
"""Older answers by which the mix of finish reasons is judged; older ones still count for half."""


class Anomaly(StrEnum):
    """What is wrong."""

    EMPTY = "empty"
    LOOP = "loop"
    LONG = "long"
    INVALID_JSON = "invalid_json"
    FINISH_MIX = "finish_mix"
    """Of the model alone: its answers end otherwise than they used to."""


SHARES_MAX: Mapping[Anomaly, float] = MappingProxyType(
    {
        Anomaly.EMPTY: 0.1,
        Anomaly.LOOP: 0.1,
        Anomaly.LONG: 0.2,
        Anomaly.INVALID_JSON: 0.2,
        Anomaly.FINISH_MIX: 0.3,
    }
)
"""By kind. Of the mix: the share of answers that end otherwise than they would have before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One sequence that has ended by itself; what was cancelled or failed is none."""

    tokens: int
    finish_reason: str
    """`stop`, `length`, `tool_calls` and the like."""
    is_empty: bool
    """No text, no reasoning, no tool call."""
    is_loop: bool
    """See `engines.repetition`."""
    is_json: bool | None = None
    """Whether it can be read as JSON; None if that was not asked for."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one answer was, and what it changed for its model: lines of the log."""

    found: frozenset[Anomaly]
    flagged: frozenset[Anomaly]
    cleared: frozenset[Anomaly]


class _Lengths:
    """The last lengths, and whether one more is out of all proportion to them."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._ordered: list[int] = []

    def is_long(self, tokens: int) -> bool:
        known = len(self._ordered)
        if known < LENGTHS_MIN or tokens < LONG_MIN:
            return False
        return tokens > LONG_FACTOR * self._ordered[math.ceil(LONG_QUANTILE * known) - 1]

    def add(self, tokens: int) -> None:
        if len(self._recent) == LENGTHS:
            del self._ordered[bisect_left(self._ordered, self._recent.popleft())]
        self._recent.append(tokens)
        insort(self._ordered, tokens)


class _Mix:
    """How the last answers ended, beside those before them."""

    def __init__(self) -> None:
        self._recent: deque[str] = deque()
        self._now: Counter[str] = Counter()
        self._before: Counter[str] = Counter()

    def add(self, finish_reason: str) -> None:
        self._recent.append(finish_reason)
        self._now[finish_reason] += 1
        if len(self._recent) <= ANSWERS:
            return
        oldest = self._recent.popleft()
        self._now[oldest] -= 1
        self._before[oldest] += 1
        if self._before.total() > REMEMBERED:
            self._before = Counter({why: count // 2 for why, count in self._before.items()})

    @property
    def shift(self) -> float:
        """Half the sum of the differences of all shares, 0 to 1; 0 while too little is known."""
        before, now = self._before.total(), self._now.total()
        if before < ANSWERS:
            return 0.0
        reasons = self._before.keys() | self._now.keys()
        return sum(abs(self._now[why] / now - self._before[why] / before) for why in reasons) / 2


@dataclass(slots=True)
class Anomalies:
    """Of one model. An answer costs microseconds and what is remembered is bounded."""

    flagged: set[Anomaly] = field(default_factory=set)
    """What the model is flagged for now."""
    totals: Counter[Anomaly] = field(default_factory=Counter)
    """Answers of each kind since the start, for metrics."""
    _recent: deque[frozenset[Anomaly]] = field(default_factory=deque)
    #: Of `_recent`.
    _counts: Counter[Anomaly] = field(default_factory=Counter)
    #: Of `_recent`, whether JSON was asked for.
    _asked: deque[bool] = field(default_factory=deque)
    _lengths: _Lengths = field(default_factory=_Lengths)
    _mix: _Mix = field(default_factory=_Mix)

    def judge(self, answer: Answer) -> Judgement:
        """An answer has ended."""
        found = self._found(answer)
        self._lengths.add(answer.tokens)
        self._mix.add(answer.finish_reason)
        self.totals.update(found)
        self._recent.append(found)
        self._counts.update(found)
        self._asked.append(answer.is_json is not None)
        if len(self._recent) > ANSWERS:
            self._counts.subtract(self._recent.popleft())
            self._asked.popleft()
        shares = {kind: self.share(kind) for kind in Anomaly}
        flagged = {k for k in Anomaly if k not in self.flagged and shares[k] >= SHARES_MAX[k]}
        cleared = {k for k in self.flagged if shares[k] <= SHARES_MAX[k] / 2}
        self.flagged = (self.flagged | flagged) - cleared
        return Judgement(found, frozenset(flagged), frozenset(cleared))

    def share(self, kind: Anomaly) -> float:
        """Of the last answers, 0 to 1; 0 while there are too few. Of invalid JSON: of those that
        were to be JSON."""
        if kind is Anomaly.FINISH_MIX:
            return self._mix.shift
        among = sum(self._asked) if kind is Anomaly.INVALID_JSON else len(self._recent)
        return self._counts[kind] / among if among >= ANSWERS_MIN else 0.0

    def _found(self, answer: Answer) -> frozenset[Anomaly]:
        # What was cut at its length limit could not be whole.
        is_whole = answer.finish_reason == "stop"
        marks = {
            Anomaly.EMPTY: answer.is_empty,
            Anomaly.LOOP: answer.is_loop,
            Anomaly.LONG: self._lengths.is_long(answer.tokens),
            Anomaly.INVALID_JSON: answer.is_json is False and is_whole,
        }
        return frozenset(kind for kind, is_marked in marks.items() if is_marked)
