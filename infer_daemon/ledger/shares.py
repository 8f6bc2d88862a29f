"""Who of the calls in an engine has used how much of its time on one device. Pure.

The time is shared in proportion to the calls' weights by a virtual clock that runs at one over
their sum: a call's share is its weight times what the clock went on while it was inside, so an
event costs the same however many are inside. All is whole numbers and what a division leaves over
is carried on, so that the shares of all calls are the time, to the nanosecond.
"""

import msgspec

from infer_daemon.domain.jobs import JobId

SCALE_BITS = 32
SCALE = 1 << SCALE_BITS
"""Parts of a nanosecond that shares are counted in."""


class _Stay(msgspec.Struct, gc=False):
    """A call that is inside."""

    weight: int
    since: int
    """Where the virtual clock stood when it was given this weight."""
    parts: int = 0
    """What it had used until then, of this hour."""
    hours: tuple[tuple[int, int], ...] = ()
    """Of hours that are over."""

    def used(self, clock: int) -> int:
        """In parts of a nanosecond, of this hour."""
        return self.parts + self.weight * (clock - self.since)


class Shares:
    """The calls in one engine, and its time on one device."""

    def __init__(self) -> None:
        self._stays: dict[JobId, _Stay] = {}
        #: Sum of the weights of all who are inside.
        self.weight = 0
        self._clock = 0
        #: What the clock has not told yet and what rounding kept back, in parts of a nanosecond.
        self._carry = 0
        #: Time that was taken and is not the finished share of anybody yet.
        self._open_ns = 0

    def enter(self, call: JobId, weight: int) -> None:
        """A call is inside from now on; its weight is at least 1."""
        assert call not in self._stays, f"call {call} is already inside"
        self._stays[call] = _Stay(weight, self._clock)
        self.weight += weight

    def reweigh(self, call: JobId, weight: int) -> None:
        """It weighs so much from now on."""
        stay, clock = self._stays[call], self._clock
        stay.parts += stay.weight * (clock - stay.since)
        stay.since = clock
        self.weight += weight - stay.weight
        stay.weight = weight

    def leave(self, call: JobId, hour_at_us: int) -> list[tuple[int, int]]:
        """It is not inside any more.

        Returns: its share, as hours and nanoseconds; none of an hour in which it had nothing.
        """
        stay = self._stays.pop(call)
        ns = self._finish(stay)
        self.weight -= stay.weight
        return [*stay.hours, (hour_at_us, ns)] if ns else [*stay.hours]

    def take(self, ns: int) -> None:
        """So much time was used by those who are inside, of whom there is at least one."""
        self._open_ns += ns
        ticks, self._carry = divmod((ns << SCALE_BITS) + self._carry, self.weight)
        self._clock += ticks

    def end_hour(self, hour_at_us: int) -> None:
        """The hour that began then is over. The only event that looks at everybody inside."""
        for stay in self._stays.values():
            if ns := self._finish(stay):
                stay.hours += ((hour_at_us, ns),)
            stay.parts, stay.since = 0, self._clock
        assert not self._open_ns, "time is left of an hour that is over"

    def _finish(self, stay: _Stay) -> int:
        """Its nanoseconds of this hour. What rounding keeps back is the next one's, and the last
        one has it all."""
        parts = stay.parts + stay.weight * (self._clock - stay.since) + self._carry
        ns = parts >> SCALE_BITS
        self._carry = parts - (ns << SCALE_BITS)
        self._open_ns -= ns
        return ns

    def check(self) -> None:
        """Raises AssertionError unless everybody's shares are the time that was taken."""
        used = sum(stay.used(self._clock) for stay in self._stays.values())
        assert used + self._carry == self._open_ns * SCALE, "time was lost or made"
        assert self.weight == sum(stay.weight for stay in self._stays.values())
