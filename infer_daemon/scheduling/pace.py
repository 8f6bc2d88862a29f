"""How fast work is done while more of it waits. Pure."""

MEMORY_S = 10.0
OUTPUT_MEMORY_S = 2.0
"""Shorter: steps tell it many times a second, and how long they take changes at once with what else
the machine does."""
KNOWN_AFTER_S = 1.0
"""Less says nothing: the first moments of a backlog are all prefill."""


class Pace:
    """A mean over the last seconds in which jobs waited; older ones count less and less."""

    def __init__(self) -> None:
        self._service = 0.0
        self._time_s = 0.0
        self._last_s: float | None = None
        self._tokens = 0.0
        self._gaps_s = 0.0

    def note(self, service: float, now_s: float, *, is_backlogged: bool) -> None:
        """That much was done. What is done while nobody waits says nothing of the engine's pace."""
        last_s, self._last_s = self._last_s, now_s if is_backlogged else None
        if not is_backlogged or last_s is None:
            return
        if now_s > last_s:
            # A pause is soon forgotten, and so is a clock that jumped.
            spent_s = min(MEMORY_S, now_s - last_s)
            decay = MEMORY_S / (MEMORY_S + spent_s)
            self._service *= decay
            self._time_s = self._time_s * decay + spent_s
            decay = OUTPUT_MEMORY_S / (OUTPUT_MEMORY_S + spent_s)
            self._tokens *= decay
            self._gaps_s *= decay
        self._service += service

    def went_on(self, tokens: float, gap_s: float, *, is_backlogged: bool) -> None:
        """A sequence has so many output tokens more than that long before."""
        if is_backlogged and gap_s >= 0:
            self._tokens += tokens
            self._gaps_s += min(MEMORY_S, gap_s)

    @property
    def service_per_s(self) -> float | None:
        """None while nothing is known."""
        return self._service / self._time_s if self._time_s > KNOWN_AFTER_S else None

    @property
    def output_token_s(self) -> float | None:
        """What a sequence needs for one; None while nothing is known, or nothing is generated."""
        return self._gaps_s / self._tokens if self._tokens >= 1 else None
