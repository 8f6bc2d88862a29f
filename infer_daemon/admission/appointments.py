"""When whoever is refused should come back, so that it pays to believe `Retry-After`.

Told the same time, a hundred clients would come back together and ninety-nine be refused again.
So each is given a time of its own, a little after the last one's, and what becomes free by then is
kept for it, for a short while, from those who come later.

Many never come back. So what is kept is bounded, and shrinks with each one in a row of a tenant's
that does not come; one that comes restores it. Pure.
"""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

EARLY_S = 0.02
"""Clocks and timers differ by that much: nobody is turned away for it."""
GRACE_S = 2.5
"""How late somebody may be: `Retry-After` is told in whole seconds."""
OTHER_CONNECTION_S = 0.1
"""A client that retries on another connection than before is known by being a little late."""
AHEAD_S = 240.0
"""How long the line may become by appointments. A tenant may have half of what the others leave."""
BOOKED_MAX = 4096
"""Of one tenant."""
MISSED_MAX = 8
"""After so many in a row that did not come, the rest of that tenant's are not waited for."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whoever asks to be let in."""

    tenant: str
    connection: int
    is_retry: bool | None = None
    """Whether it says that it was refused before; None if it does not say."""


class Appointments:
    """Times that were promised and not kept yet."""

    def __init__(self) -> None:
        #: Of each tenant that has any.
        self._lines: dict[str, _Line] = {}
        #: Of each tenant that had any: how many of the last ones in a row did not come.
        self._missed: dict[str, int] = {}
        self._last_s = 0.0
        #: No appointment is earlier.
        self._oldest_s = math.inf

    def book(self, visitor: Visitor, now_s: float, *, first_s: float, spacing_s: float) -> float:
        """Promise a time: at least `first_s` from now, and `spacing_s` after the one before.
        Returns seconds from now. Whoever comes before its time is told it again; one that could not
        be let in at its time gets another. Where too many are promised already, the time after the
        last one is told, and nothing kept."""
        self._expire(now_s)
        line = self._lines.get(visitor.tenant)
        own_s = line.due_s(visitor.connection) if line else None
        if own_s is not None and own_s > now_s + EARLY_S:
            return own_s - now_s
        self.forget(visitor)
        # A timer that is a little early must not find that the time has not come.
        last_s = self._last_s if self._lines else min(self._last_s, now_s)
        due_s = max(now_s + first_s + EARLY_S, last_s + spacing_s)
        line = self._lines.setdefault(visitor.tenant, _Line())
        room_s = (now_s + first_s + AHEAD_S - due_s) / 2.0 ** self._missed.get(visitor.tenant, 0)
        # One may always show that it comes.
        if not len(line) or (len(line) < BOOKED_MAX and len(line) * spacing_s <= room_s):
            line.append(due_s, visitor.connection)
            self._last_s = due_s
            self._oldest_s = min(self._oldest_s, due_s)
        return due_s - now_s

    def claim(self, visitor: Visitor, now_s: float) -> bool:
        """Whether the visitor has come for an appointment that is due, which is then used up."""
        self._expire(now_s)
        line = self._lines.get(visitor.tenant)
        if line is None:
            return False
        first_s, own_s = line.times_s[0], line.due_s(visitor.connection)
        if own_s is not None and own_s <= now_s + EARLY_S:
            self._come(visitor.tenant, line, line.index(visitor.connection))
            return True
        if visitor.is_retry is False or first_s > now_s + EARLY_S:
            return False
        if visitor.is_retry or first_s + OTHER_CONNECTION_S < now_s:
            self._come(visitor.tenant, line, 0)
            return True
        return False

    def forget(self, visitor: Visitor) -> None:
        """The visitor has come and needs its appointment no more, if it has one."""
        line = self._lines.get(visitor.tenant)
        if line is not None and line.due_s(visitor.connection) is not None:
            self._come(visitor.tenant, line, line.index(visitor.connection))

    def held(self, now_s: float, most: float, within_s: float = 0.0) -> int:
        """How many are to be let in whose time has come, or comes within so many seconds, as far
        as they may be expected to come; at most `most`."""
        self._expire(now_s)
        until_s = now_s + max(EARLY_S, within_s)
        expected = sum(
            int(min(most, bisect_right(line.times_s, until_s))) >> self._missed.get(tenant, 0)
            for tenant, line in self._lines.items()
        )
        return int(min(most, expected))

    def _come(self, tenant: str, line: "_Line", index: int) -> None:
        self._missed.pop(tenant, None)
        line.drop(index, index + 1)
        if not len(line):
            del self._lines[tenant]

    def _expire(self, now_s: float) -> None:
        """Wait no longer for those who are too late."""
        if now_s - GRACE_S <= self._oldest_s:
            return
        for tenant, line in list(self._lines.items()):
            late = bisect_left(line.times_s, now_s - GRACE_S)
            if not late:
                continue
            missed = min(MISSED_MAX, self._missed.get(tenant, 0) + late)
            self._missed[tenant] = missed
            line.drop(0, len(line) if missed == MISSED_MAX else late)
            if not len(line):
                del self._lines[tenant]
        lines = self._lines.values()
        self._oldest_s = min((line.times_s[0] for line in lines), default=math.inf)
        self._last_s = min(
            self._last_s, max((line.times_s[-1] for line in lines), default=self._last_s)
        )


class _Line:
    """The appointments of one tenant, in order."""

    def __init__(self) -> None:
        self.times_s: list[float] = []
        #: Whose they are.
        self._connections: list[int] = []
        self._due_s: dict[int, float] = {}

    def __len__(self) -> int:
        return len(self.times_s)

    def due_s(self, connection: int) -> float | None:
        """When that one is due, if it has an appointment."""
        return self._due_s.get(connection)

    def index(self, connection: int) -> int:
        """The place of one that has an appointment."""
        return self._connections.index(
            connection, bisect_left(self.times_s, self._due_s[connection])
        )

    def append(self, due_s: float, connection: int) -> None:
        """The last in the line; who has none yet."""
        self.times_s.append(due_s)
        self._connections.append(connection)
        self._due_s[connection] = due_s

    def drop(self, start: int, end: int) -> None:
        """Those from one place to another."""
        for connection in self._connections[start:end]:
            del self._due_s[connection]
        del self.times_s[start:end], self._connections[start:end]
