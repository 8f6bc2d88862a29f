"""When an engine that is alive counts as dead: it has work and takes no step. Pure.

Only time with work counts, since an engine without work takes no steps; but it adds up until the
next step: clients that give up on a hung engine one after the other do not keep it alive. Whoever
stops an engine on purpose (sleep, pause) *must* take its work away before.
"""

LOOK_S = 0.25
"""How often to look. What is said of the time between two looks is what the first of them saw."""
LOOK_MAX_S = 1.0
"""No more than this counts between two looks: where the looks come late it was the daemon that
stood still, and the engine's steps may lie there unread."""


class StallWatch:
    """Of one engine, from when it is ready."""

    def __init__(self, stall_timeout_s: float, now_s: float) -> None:
        assert stall_timeout_s > 0, "an engine cannot step all the time"
        self._timeout_s = stall_timeout_s
        self._looked_s = now_s
        self._in_flight = 0
        self._steps = -1
        self._without_step_s = 0.0

    def look(self, now_s: float, *, in_flight: int, steps: int) -> bool:
        """See how it is doing; returns whether it counts as dead.

        Args:
            in_flight: calls that are in the engine.
            steps: that it has taken since it started.
        """
        if steps != self._steps:
            self._without_step_s = 0.0
        elif self._in_flight:
            self._without_step_s += min(now_s - self._looked_s, LOOK_MAX_S)
        self._looked_s, self._in_flight, self._steps = now_s, in_flight, steps
        return in_flight > 0 and self._without_step_s >= self._timeout_s

    @property
    def reason(self) -> str:
        """For the log and `/ready`."""
        calls = "1 call" if self._in_flight == 1 else f"{self._in_flight} calls"
        return f"no step for {self._without_step_s:.1f} s (stall_timeout_s) with {calls} in flight"
