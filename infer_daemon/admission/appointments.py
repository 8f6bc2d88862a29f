"""When whoever is refused should come back, so that it pays to believe `Retry-After`.

Told the same time, a hundred clients would come back together and ninety-nine be refused again.
So each is given a time of its own, a little after the last one's, and what becomes free by then is
kept for it, for a short while, from those who come later. Pure.
"""

from collections import deque
from dataclasses import dataclass

EARLY_S = 0.02
"""Clocks and timers differ by that much: nobody is turned away for it."""
GRACE_S = 2.5
"""How late somebody may be: `Retry-After` is told in whole seconds."""
OTHER_CONNECTION_S = 0.1
"""A client that retries on another connection than before is known by being a little late."""
BOOKED_MAX = 4096


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever asks to be let in."""

    tenant: str
    connection: int
    is_retry: bool | None = None
    """Whether it says that it was refused before; None if it does not say."""


class Appointments:
    """Times that were promised and not kept yet, in order."""

    def __init__(self) -> None:
        self._booked: deque[tuple[float, Visitor]] = deque()
        self._last_s = 0.0

    def book(self, visitor: Visitor, now_s: float, *, first_s: float, spacing_s: float) -> float:
        """Promise a time: at least `first_s` from now, and `spacing_s` after the one before.
        Returns seconds from now. Whoever comes before its time is told it again; one that could not
        be let in at its time gets another."""
        for index, (due_s, booked) in enumerate(self._booked):
            if booked.connection == visitor.connection and booked.tenant == visitor.tenant:
                if due_s > now_s + EARLY_S:
                    return due_s - now_s
                del self._booked[index]
                break
        # A timer that is a little early must not find that the time has not come.
        self._last_s = max(now_s + first_s + EARLY_S, self._last_s + spacing_s)
        if len(self._booked) < BOOKED_MAX:
            self._booked.append((self._last_s, visitor))
        return self._last_s - now_s

    def claim(self, visitor: Visitor, now_s: float) -> bool:
        """Whether the visitor has come for an appointment that is due, which is then used up."""
        if visitor.is_retry is False:
            return False
        for index, (due_s, booked) in enumerate(self._booked):
            if due_s > now_s + EARLY_S:
                break
            if booked.tenant == visitor.tenant and (
                booked.connection == visitor.connection
                or visitor.is_retry
                or due_s + OTHER_CONNECTION_S < now_s
            ):
                del self._booked[index]
                return True
        return False

    def due(self, now_s: float, within_s: float = 0.0) -> int:
        """Appointments whose time has come, or comes within so many seconds, and who may come."""
        while self._booked and self._booked[0][0] + GRACE_S < now_s:
            self._booked.popleft()
        if not self._booked:
            self._last_s = min(self._last_s, now_s)
        due = 0
        for due_s, _ in self._booked:
            if due_s > now_s + max(EARLY_S, within_s):
                break
            due += 1
        return due
