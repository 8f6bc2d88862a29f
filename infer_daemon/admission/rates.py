"""Limits per minute, and places that are free or taken. Pure: `now_s` is passed in."""

from infer_daemon.admission.appointments import Appointments, Visitor

MINUTE_S = 60.0
UNKNOWN_STAY_S = 2.0
"""How long a place is taken, before anybody has left one."""
LEARN = 0.1
"""Weight of the newest in a mean."""
FORGET = 0.98
"""What is left of an old sum with each new part."""
SLACK = 1.3
"""Appointments are that much further apart than places become free: a mean has as many later as
earlier ones."""

KEPT_SHARE = 0.75
"""Of a limit: so much may be kept for appointments."""


class Rate:
    """A token bucket: a whole minute's worth at once, then as it flows back, without steps.

    What is reserved is gone at once, so whoever comes at the same moment cannot be let in by it
    too; what was not used is put back at the end. Who needs more than a minute's worth is let in
    when all of it is there, and what is missing is owed until it has flowed back.
    """

    def __init__(self, per_minute: float, now_s: float) -> None:
        self.per_minute = per_minute
        self._left = per_minute
        self._at_s = now_s
        self._appointments = Appointments()

    def change(self, per_minute: float, now_s: float) -> None:
        """Another limit; what was used stays used, but nobody is locked out for what was in order
        when it was used."""
        left = self.left(now_s)
        self._left = max(min(0.0, left), left + per_minute - self.per_minute)
        self.per_minute = per_minute

    def left(self, now_s: float) -> float:
        """What may be used now."""
        spent_s = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        self._left = min(self.per_minute, self._left + spent_s * self.per_minute / MINUTE_S)
        return self._left

    def needed(self, amount: float, already: float = 0.0) -> float:
        """How much must be left to take that much; see `reserve`."""
        return max(0.0, min(amount, self.per_minute - already))

    def reserve(
        self, amount: float, visitor: Visitor, now_s: float, *, already: float = 0.0
    ) -> float | None:
        """Take that much. Returns None, or after how many seconds to come again if there is not
        enough.

        Args:
            already: what the same request has taken before: in parts it is let in like one that is
                as large. Who has a minute's worth has all that can be waited for.
        """
        left, needed = self.left(now_s), self.needed(amount, already)
        held = 0.0
        if not already and not self._appointments.claim(visitor, now_s):
            most = max(1.0, KEPT_SHARE * self.per_minute / needed)
            held = self._appointments.held(now_s, most) * needed
        if left >= needed + held or already >= self.per_minute:
            self._appointments.forget(visitor)
            self._left -= amount
            return None
        return self._appointments.book(
            visitor,
            now_s,
            first_s=max(0.0, needed - left) * MINUTE_S / self.per_minute,
            spacing_s=amount * MINUTE_S / self.per_minute,
        )

    def put_back(self, amount: float, now_s: float) -> None:
        """That much of what was reserved was not used."""
        self._left = min(self.per_minute, self.left(now_s) + amount)

    def full_after_s(self, now_s: float) -> float:
        """Until all of it may be used again."""
        return (self.per_minute - self.left(now_s)) * MINUTE_S / self.per_minute


class Places:
    """So many at the same time: of those who are served side by side, or who wait in one queue.

    What is free when somebody is due must be free then, and not now: so whoever comes without an
    appointment gets a place that would be free again by then, and only that.
    """

    def __init__(self, limit: float, *, is_queue: bool = False) -> None:
        """Args: is_queue: whether places become free one after the other, however many are taken;
        else each by itself."""
        self.limit = limit
        """May be infinite, and may be changed while places are taken; nobody is put out."""
        self.taken = 0
        self._is_queue = is_queue
        self._appointments = Appointments()
        #: Mean of the last ones: how long a place was taken.
        self._stay_s = UNKNOWN_STAY_S
        #: Of the last places that were left while others were taken: how many, in how many seconds.
        self._left, self._left_in_s = 0.0, 0.0
        self._left_at_s: float | None = None

    def take(self, visitor: Visitor, now_s: float, *, kept: int = 0) -> float | None:
        """Take a place. Returns None, or after how many seconds to come again if all are taken.

        Args: kept: places that are not for this visitor.
        """
        held = 0
        if not self._appointments.claim(visitor, now_s):
            most = max(1.0, KEPT_SHARE * self.limit)
            held = self._appointments.held(now_s, most, within_s=self._stay_s)
        if self.limit - self.taken - kept > held:
            self._appointments.forget(visitor)
            self.taken += 1
            return None
        interval_s = self._interval_s
        return self._appointments.book(visitor, now_s, first_s=interval_s, spacing_s=interval_s)

    @property
    def _interval_s(self) -> float:
        """From one place that becomes free to the next, when all are taken."""
        if self._is_queue and self._left_in_s:
            return SLACK * self._left_in_s / self._left
        return SLACK * self._stay_s / self.limit

    def give_back(self) -> None:
        """A place is free again of somebody who was refused elsewhere. That tells nothing about how
        long those stay who are let in."""
        assert self.taken > 0, "a place was given back twice"
        self.taken -= 1
        if not self.taken:
            self._left_at_s = None

    def leave(self, now_s: float, taken_s: float) -> None:
        """A place is free again that was taken at `taken_s`."""
        assert self.taken > 0, "a place was given back twice"
        self.taken -= 1
        self._stay_s += LEARN * (now_s - taken_s - self._stay_s)
        if self._left_at_s is not None:
            # Sums, since several may leave at once: a mean of gaps would forget all but the last.
            self._left = FORGET * self._left + 1
            self._left_in_s = FORGET * self._left_in_s + now_s - self._left_at_s
        self._left_at_s = now_s if self.taken else None
