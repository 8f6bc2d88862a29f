"""How long an answer is likely to be: learned per tenant and model from those that ended.

A reservation of `max_tokens` for everybody would leave most of a KV cache empty, since most answers
are much shorter; one that is too small is made larger as the answer grows. Pure.
"""

import math
from bisect import bisect_left, insort
from collections import deque

SAMPLES = 64
SAMPLES_MIN = 8
"""Below this, an answer is expected to be as long as it may be."""
QUANTILE = 0.9


class Estimates:
    """The last lengths of each tenant's answers from each model."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], tuple[deque[int], list[int]]] = {}

    def learn(self, tenant: str, model: str, output_tokens: int) -> None:
        """An answer has ended by itself."""
        recent, ordered = self._by_key.setdefault((tenant, model), (deque(), []))
        if len(recent) == SAMPLES:
            del ordered[bisect_left(ordered, recent.popleft())]
        recent.append(output_tokens)
        insort(ordered, output_tokens)

    def expected(self, tenant: str, model: str, output_tokens_max: int) -> int:
        """Output tokens that nine of ten answers do not exceed, at most `output_tokens_max`."""
        found = self._by_key.get((tenant, model))
        if found is None or len(found[1]) < SAMPLES_MIN:
            return output_tokens_max
        ordered = found[1]
        return min(output_tokens_max, ordered[math.ceil(QUANTILE * len(ordered)) - 1])
