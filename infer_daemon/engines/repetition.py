"""Whether an answer goes round in circles, token by token as it arrives. Pure.

A loop is the same tokens over and over, fewer than `PERIOD_MAX` of them. For each token it is one
look-up and one comparison: either the token is the one that was there a period ago, or another
period is tried, which is the distance to where the last few tokens came before.
"""

from collections import deque
from collections.abc import Iterable

GRAM = 4
"""Tokens by which an earlier place is recognised. A loop in which no four tokens in a row are
twice is always found; others nearly always."""
PERIOD_MAX = 512
REPEATS_MIN = 5
TOKENS_MIN = 64
"""A loop is told once it has gone round that often and is that long: tables, dashes and lists of
zeros repeat themselves too."""


class LoopWatch:
    """Of one sequence of tokens."""

    __slots__ = ("_at", "_last", "_period", "_places", "_run", "found_at")

    def __init__(self) -> None:
        #: The last tokens, as far back as a period may reach.
        self._last: deque[int] = deque(maxlen=PERIOD_MAX)
        #: The last GRAM tokens -> where they were last, for all that `_last` still has; in the
        #: order of these places, since a renewed one is put at the end.
        self._places: dict[tuple[int, ...], int] = {}
        self._at = 0
        self._period = 0
        #: Tokens in a row that are the same as those a period before.
        self._run = 0
        self.found_at: int | None = None
        """How many tokens there were when the loop was seen; None while there is none. Stays."""

    def add(self, tokens: Iterable[int]) -> bool:
        """More tokens; whether the answer is in a loop, or was."""
        if self.found_at is None:
            for token in tokens:
                if self._is_loop_with(token):
                    self.found_at = self._at
                    # Nothing is looked for any more.
                    self._last.clear()
                    self._places.clear()
                    break
        return self.found_at is not None

    def _is_loop_with(self, token: int) -> bool:
        last, period = self._last, self._period
        follows = period and last[-period] == token
        last.append(token)
        self._at += 1
        earlier_at = self._renew_place()
        if follows:
            self._run += 1
        else:
            self._period = self._at - earlier_at if earlier_at else 0
            # The tokens by which the place was recognised are the same as a period before.
            self._run = GRAM if self._period else 0
        if self._period >= PERIOD_MAX:
            self._period = self._run = 0
        repeats = self._run // self._period + 1 if self._period else 0
        return repeats >= REPEATS_MIN and self._run + self._period >= TOKENS_MIN

    def _renew_place(self) -> int:
        """Where the last GRAM tokens were before, 0 if nowhere; from now on they are here."""
        last, places = self._last, self._places
        if len(last) < GRAM:
            return 0
        gram = (last[-4], last[-3], last[-2], last[-1])
        earlier_at = places.pop(gram, 0)
        places[gram] = self._at
        if len(places) > PERIOD_MAX:
            del places[next(iter(places))]
        return earlier_at
