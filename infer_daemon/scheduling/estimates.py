"""How long an answer is likely to be: learned per tenant and model from those that ended.

A reservation of `max_tokens` for everybody would leave most of a KV cache empty, since most answers
are much shorter; one that is too small is made larger as the answer grows. Learned apart for each
magnitude of `max_tokens`: many answers of one token would otherwise foretell that an essay has one.
Pure.
"""

import math
from bisect import bisect_left, insort

SAMPLES = 64
SAMPLES_MIN = 8
"""Below this, an answer is expected to be as long as it may be."""
QUANTILE = 0.9


class _Lengths:
    """The last lengths of one tenant's answers from one model."""

    __slots__ = ("_oldest", "_ordered", "_recent", "expected")

    def __init__(self) -> None:
        #: A ring once it is full: a list, since a deque begins with room for as many at once.
        self._recent: list[int] = []
        self._oldest = 0
        self._ordered: list[int] = []
        self.expected: int | None = None
        """What nine of ten do not exceed; None until enough are known."""

    def add(self, output_tokens: int) -> None:
        recent, ordered = self._recent, self._ordered
        if len(recent) < SAMPLES:
            recent.append(output_tokens)
        else:
            oldest = self._oldest
            del ordered[bisect_left(ordered, recent[oldest])]
            recent[oldest] = output_tokens
            self._oldest = (oldest + 1) % SAMPLES
        insort(ordered, output_tokens)
        if len(ordered) >= SAMPLES_MIN:
            self.expected = ordered[math.ceil(QUANTILE * len(ordered)) - 1]


class Estimates:
    """Of every tenant and model."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str, int], _Lengths] = {}

    def learn(self, tenant: str, model: str, output_tokens_max: int, output_tokens: int) -> None:
        """An answer that might have had `output_tokens_max` has ended by itself."""
        key = (tenant, model, output_tokens_max.bit_length())
        lengths = self._by_key.get(key)
        if lengths is None:
            lengths = self._by_key[key] = _Lengths()
        lengths.add(output_tokens)

    def expected(self, tenant: str, model: str, output_tokens_max: int) -> int:
        """Output tokens that nine of ten answers do not exceed, at most `output_tokens_max`."""
        lengths = self._by_key.get((tenant, model, output_tokens_max.bit_length()))
        if lengths is None or lengths.expected is None:
            return output_tokens_max
        expected = lengths.expected
        return expected if expected < output_tokens_max else output_tokens_max
