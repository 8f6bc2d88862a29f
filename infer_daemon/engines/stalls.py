"""When an engine that is alive counts as dead: it has work and takes no step. Pure.

An engine without work takes no steps, so the time without work never counts; an engine that gets
its first work has the whole time from then on. Whoever stops an engine on purpose (sleep, pause)
*must* take its work away before.
"""


class StallWatch:
    """Of one engine, from when it is ready."""

    def __init__(self, stall_timeout_s: float) -> None:
        assert stall_timeout_s > 0, "an engine cannot step all the time"
        self._timeout_s = stall_timeout_s
        self._in_flight = 0
        #: The last step or the beginning of work, whichever came later; of no meaning without work.
        self._alive_s = 0.0

    def began(self, now_s: float) -> None:
        """A call went into the engine."""
        if not self._in_flight:
            self._alive_s = now_s
        self._in_flight += 1

    def ended(self) -> None:
        """A call has left it, however."""
        assert self._in_flight > 0, "a call ended that had not begun"
        self._in_flight -= 1

    def stepped(self, now_s: float) -> None:
        """The engine has taken a step. A late word of an earlier one changes nothing."""
        self._alive_s = max(self._alive_s, now_s)

    @property
    def due_s(self) -> float | None:
        """When it is a stall if no step comes until then; None while there is no work. A timer
        that is set for it hands it to `is_stalled` as the time."""
        return self._alive_s + self._timeout_s if self._in_flight else None

    def is_stalled(self, now_s: float) -> bool:
        """Whether it counts as dead."""
        return self.due_s is not None and now_s >= self.due_s

    def reason(self, now_s: float) -> str:
        """For the log and `/ready`."""
        calls = "1 call" if self._in_flight == 1 else f"{self._in_flight} calls"
        return f"no step for {now_s - self._alive_s:.1f} s with {calls} in flight"
