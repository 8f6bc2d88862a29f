"""When an engine that died is started again, and when no more. Pure: time and chance are passed in.

The first restart comes at once, or nearly; each that follows soon waits twice as long. An engine
that was ready for `healthy_s` begins anew. One that dies too often within a window, or cannot be
started several times in a row, is given up: what it costs to load it again and again is taken from
the engines beside it.
"""

from collections import deque
from dataclasses import dataclass

from infer_daemon.settings.schema import RestartSection


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

    def __init__(self, policy: RestartSection) -> None:
        self._policy = policy
        self._in_a_row = 0
        self._starts_in_a_row = 0
        """That failed."""
        #: When it died, oldest first.
        self._deaths_s: deque[float] = deque()

    def died(self, now_s: float, *, ready_s: float | None, chance: float) -> Restart | GiveUp:
        """The engine died, or its start failed.

        Args:
            ready_s: for how long it had been ready; None if it never was.
            chance: from 0 to 1, at random: engines that died together do not load together.
        """
        policy = self._policy
        while self._deaths_s and now_s - self._deaths_s[0] > policy.window_s:
            self._deaths_s.popleft()
        if len(self._deaths_s) >= policy.deaths_max:
            times = _times(len(self._deaths_s) + 1)
            return GiveUp(f"died {times} within {policy.window_s:g} s (restart.deaths_max)")
        # Starts that fail slowly would never be too many within any window.
        self._starts_in_a_row = self._starts_in_a_row + 1 if ready_s is None else 0
        if self._starts_in_a_row >= policy.starts_max:
            return GiveUp(f"could not be started {_times(policy.starts_max)} (restart.starts_max)")
        self._deaths_s.append(now_s)
        is_healthy = ready_s is not None and ready_s >= policy.healthy_s
        self._in_a_row = 1 if is_healthy else self._in_a_row + 1
        # Never much above the number of deaths in a window: no float overflows.
        delay_s = min(policy.delay_s_max, policy.delay_s * 2.0 ** min(self._in_a_row - 1, 64))
        return Restart(delay_s * (0.5 + 0.5 * chance), self._in_a_row)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
