"""The time of one device, and the engines that share it. Pure: `now_ns` of a monotonic clock is
passed in.

Each moment is on one line: attributed to calls (of which a part may turn out to be waste), loading,
idle, sleeping or down. Each line is counted while it happens, none is what the others leave over,
so that `check` has something to find.

Engines that share a device share its time. It belongs, in equal parts, to those that use it: the
ones with calls inside and the ones that load, for both take turns on it and slow each other down.
Only when nobody uses it, it is idle, in equal parts for the engines that are ready; when none is
ready, for the sleeping ones; when all are down, for those.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.ledger.periods import HOUR_US
from infer_daemon.ledger.pricing import HOUR_NS
from infer_daemon.ledger.shares import Shares

DOWN_DAYS_MAX = 31
"""Whoever comes back after a longer time has not paid for the devices on this daemon's account."""


class Phase(StrEnum):
    """What an engine is able to do."""

    LOADING = "loading"
    READY = "ready"
    SLEEPING = "sleeping"
    DOWN = "down"


class Line(StrEnum):
    """What a device's time went into."""

    ATTRIBUTED = "attributed"
    WASTE = "waste"
    LOADING = "loading"
    IDLE = "idle"
    SLEEPING = "sleeping"
    DOWN = "down"

    __hash__ = str.__hash__


_BEFORE = {Line.ATTRIBUTED: 0, Line.LOADING: 0, Line.IDLE: 1, Line.SLEEPING: 2, Line.DOWN: 3}
"""Of engines that share a device, those with the smallest number have it."""

_READY, _ATTRIBUTED, _IDLE = Phase.READY, Line.ATTRIBUTED, Line.IDLE  # slow to come by


@dataclass(frozen=True, slots=True)
class Device:
    """Something that costs by the hour."""

    name: str
    price_nano_usd_per_hour: int


@dataclass(slots=True)
class DeviceHour:
    """Of one device and engine in an hour of UTC: what came to it since it was last asked for. To
    be added to the hour's row; `ATTRIBUTED` is less than nothing when more has become waste."""

    device: Device
    engine: EngineName
    hour_at_us: int
    ns: dict[Line, int] = field(default_factory=lambda: dict.fromkeys(Line, 0))


class Seat:
    """An engine on one of its devices."""

    def __init__(self, engine: EngineName, clock: "DeviceClock") -> None:
        self.engine = engine
        self.clock = clock
        self.shares = Shares()
        self.phase = Phase.DOWN
        self.line = Line.DOWN
        self.rows: dict[int, DeviceHour] = {}
        #: The one of the hour that is now.
        self._now: DeviceHour | None = None
        #: Whether the device's time, or a part of it, is that of the calls inside.
        self.is_shared = False
        #: Up to where on the device's virtual clock that time is on its line.
        self.told_ns = 0
        #: The same of the calls' shares, which are needed more often.
        self.shared_ns = 0
        clock.seats.append(self)
        clock.sort()

    def row(self, hour_at_us: int) -> DeviceHour:
        row = self.rows.get(hour_at_us)
        if row is None:
            row = DeviceHour(self.clock.device, self.engine, hour_at_us)
            self.rows[hour_at_us] = row
        return row

    def advance(self, now_ns: int) -> None:
        """Time has passed: what its part has come to since the last time is shared by the calls
        inside. To be called before anything changes here."""
        each_ns = self.clock.advance(now_ns)
        if self.is_shared and each_ns != self.shared_ns:
            self.shares.take(each_ns - self.shared_ns)
            self.shared_ns = each_ns

    def enter(self, call: JobId, weight: int, now_ns: int) -> None:
        """A call is inside from now on."""
        self.advance(now_ns)
        self.shares.enter(call, weight)
        if not self.is_shared:
            self.settle()

    def reweigh(self, call: JobId, weight: int, now_ns: int) -> None:
        """It weighs so much from now on."""
        self.advance(now_ns)
        self.shares.reweigh(call, weight)

    def leave(self, call: JobId, now_ns: int) -> list[tuple[int, int]]:
        """It is not inside any more. Returns its share, as hours and nanoseconds."""
        self.advance(now_ns)
        used = self.shares.leave(call, self.clock.hour_at_us)
        if not self.shares.weight:
            self.settle()
        return used

    def tell(self) -> None:
        """What its part of the device's time has come to since the last time goes on its line, in
        the hour that is now."""
        each_ns = self.clock.each_ns
        if each_ns == self.told_ns:
            return
        if self._now is None:
            self._now = self.row(self.clock.hour_at_us)
        self._now.ns[self.line] += each_ns - self.told_ns
        self.told_ns = each_ns
        self.advance(self.clock.at_ns)

    def end_hour(self) -> None:
        """The hour that was now is over."""
        self.shares.end_hour(self.clock.hour_at_us)
        self._now = None

    def take_rows(self) -> Iterable[DeviceHour]:
        """All of them; new ones begin."""
        rows, self.rows, self._now = self.rows.values(), {}, None
        return rows

    def settle(self) -> None:
        """Its phase or its calls have changed."""
        if self.phase is _READY:
            line = _ATTRIBUTED if self.shares.weight else _IDLE
        else:
            line = Line(self.phase)
        if line is not self.line:
            self.clock.tell()
            self.line = line
            self.clock.sort()


class DeviceClock:
    """The time of one device. It is shared by a virtual clock that runs at one over the number of
    its users, which each of them reads when something happens to it; so an event costs the same
    however many engines there are, unless it changes who the users are."""

    def __init__(self, device: Device, epoch_ns: int, now_ns: int) -> None:
        self.device = device
        self.seats: list[Seat] = []
        #: Those whose time it is.
        self.users: list[Seat] = []
        self.at_ns = now_ns
        into_hour_ns = (epoch_ns + now_ns) % HOUR_NS
        self.hour_at_us = (epoch_ns + now_ns - into_hour_ns) // 1000
        self.hour_end_ns = now_ns - into_hour_ns + HOUR_NS
        #: The virtual clock, what each user has had of it, as of the moment that follows; how many
        #: users there are since then. That moment is late by what could not be divided before.
        self._each_ns, self._since_ns, self._user_count = 0, now_ns, 1
        #: From when on the rows have not been taken.
        self._from_ns = now_ns
        #: The same of hours that are over: what their rows must add up to.
        self._over_ns: dict[int, int] = {}

    @property
    def each_ns(self) -> int:
        """The virtual clock."""
        return self._each_ns + (self.at_ns - self._since_ns) // self._user_count

    @property
    def _left_ns(self) -> int:
        """What cannot be divided among the users yet."""
        return (self.at_ns - self._since_ns) % self._user_count

    def sort(self) -> None:
        """Somebody's line has changed; you *must* `tell` before."""
        self._each_ns, self._since_ns = self.each_ns, self.at_ns - self._left_ns
        first = min(_BEFORE[seat.line] for seat in self.seats)
        self.users = [seat for seat in self.seats if _BEFORE[seat.line] == first]
        self._user_count = len(self.users)
        for seat in self.seats:
            seat.is_shared = seat.line is _ATTRIBUTED  # which is before all others
            seat.told_ns = seat.shared_ns = self._each_ns

    def advance(self, now_ns: int) -> int:
        """Time has passed. A moment that is past already changes nothing. Returns `each_ns`."""
        if now_ns > self.at_ns:
            while now_ns >= self.hour_end_ns:
                self.at_ns = self.hour_end_ns
                self._end_hour()
            self.at_ns = now_ns
        return self._each_ns + (self.at_ns - self._since_ns) // self._user_count

    def tell(self) -> None:
        """All of its time is on somebody's line, but for what could not be divided yet."""
        for seat in self.users:
            seat.tell()

    def _tell_all(self) -> None:
        """What could not be divided is somebody's, too."""
        self.tell()
        first, left_ns = self.users[0], self._left_ns
        self._each_ns, self._since_ns = self.each_ns, self.at_ns
        first.told_ns -= left_ns
        first.shared_ns -= left_ns
        first.tell()

    def _end_hour(self) -> None:
        self._tell_all()
        for seat in self.seats:
            seat.end_hour()
        self._over_ns[self.hour_at_us] = self.at_ns - self._from_ns
        self._from_ns = self.at_ns
        self.hour_at_us += HOUR_US
        self.hour_end_ns += HOUR_NS

    def take_rows(self, now_ns: int) -> list[DeviceHour]:
        """What has come to the rows of all engines here since the last time."""
        self.advance(now_ns)
        self._tell_all()
        self._over_ns.clear()
        self._from_ns = self.at_ns
        return [row for seat in self.seats for row in seat.take_rows() if any(row.ns.values())]

    def check(self) -> None:
        """Raises AssertionError unless all lines of all engines are the wall time, per hour."""
        left_ns = self._left_ns + sum(self.each_ns - seat.told_ns for seat in self.users)
        wall_ns = {**self._over_ns, self.hour_at_us: self.at_ns - self._from_ns - left_ns}
        for hour_at_us in {*wall_ns, *(hour for seat in self.seats for hour in seat.rows)}:
            rows = [seat.rows[hour_at_us] for seat in self.seats if hour_at_us in seat.rows]
            told_ns = sum(sum(row.ns.values()) for row in rows)
            assert told_ns == wall_ns.get(hour_at_us, 0), f"{self.device.name}: {hour_at_us}"
        for seat in self.seats:
            seat.shares.check()
