"""When an engine that died is started again, and when no more. Pure: time and chance are passed in.

The first restart comes at once, or nearly; each that follows soon waits twice as long. An engine
that was ready for `healthy_s` begins anew. One that dies too often within a window is given up:
what it costs to load it again and again is taken from the engines beside it.
"""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How patient to be."""

    delay_s: float = 0.5
    """Before the first restart, at most."""
    delay_s_max: float = 60.0
    healthy_s: float = 10.0
    deaths_max: int = 10
    """More of them within `window_s` are a crash loop."""
    window_s: float = 900.0


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again."""

    delay_s: float
    number: int
    """Of the restarts in a row, from 1."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Leave it."""

    reason: str


class Restarts:
    """What is remembered of one engine's deaths, which is at most `deaths_max` times."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._in_a_row = 0
        #: When it died, oldest first.
        self._deaths_s: deque[float] = deque()

    def died(self, now_s: float, *, ready_s: float, chance: float) -> Restart | GiveUp:
        """The engine died, or its start failed.

        Args:
            ready_s: for how long it had been ready; 0 if it never was.
            chance: from 0 to 1, at random: engines that died together do not load together.
        """
        policy = self._policy
        while self._deaths_s and now_s - self._deaths_s[0] > policy.window_s:
            self._deaths_s.popleft()
        if len(self._deaths_s) >= policy.deaths_max:
            deaths = len(self._deaths_s) + 1
            return GiveUp(f"died {deaths} times within {policy.window_s:g} s")
        self._deaths_s.append(now_s)
        self._in_a_row = 1 if ready_s >= policy.healthy_s else self._in_a_row + 1
        # Never much above the number of deaths in a window: no float overflows.
        delay_s = min(policy.delay_s_max, policy.delay_s * 2.0 ** min(self._in_a_row - 1, 64))
        return Restart(delay_s * (0.5 + 0.5 * chance), self._in_a_row)

    def forgive(self) -> None:
        """Begin anew: an operator has changed something."""
        self._in_a_row = 0
        self._deaths_s.clear()
