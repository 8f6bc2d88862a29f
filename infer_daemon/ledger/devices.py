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

from infer_daemon.domain.jobs import EngineName
from infer_daemon.ledger.periods import HOUR_US
from infer_daemon.ledger.pricing import HOUR_NS
from infer_daemon.ledger.shares import Shares


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

_ATTRIBUTED = Line.ATTRIBUTED


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
        #: The one that was last given something.
        self._latest: DeviceHour | None = None
        clock.seats.append(self)
        clock.sort()

    def row(self, hour_at_us: int) -> DeviceHour:
        row = self.rows.get(hour_at_us)
        if row is None:
            row = DeviceHour(self.clock.device, self.engine, hour_at_us)
            self.rows[hour_at_us] = row
        return row

    def give(self, ns: int, hour_at_us: int) -> None:
        """So much of the device's time is this engine's."""
        row, line = self._latest, self.line
        if row is None or row.hour_at_us != hour_at_us:
            row = self._latest = self.row(hour_at_us)
        row.ns[line] += ns
        if line is _ATTRIBUTED:
            self.shares.take(ns)

    def take_rows(self) -> Iterable[DeviceHour]:
        """All of them; new ones begin."""
        rows, self.rows, self._latest = self.rows.values(), {}, None
        return rows

    def settle(self) -> None:
        """Its phase or its calls have changed."""
        line = Line(self.phase) if self.phase is not Phase.READY else Line.IDLE
        if line is Line.IDLE and self.shares.weight:
            line = Line.ATTRIBUTED
        if line is not self.line:
            self.line = line
            self.clock.sort()


class DeviceClock:
    """The time of one device."""

    def __init__(self, device: Device, epoch_ns: int, now_ns: int) -> None:
        self.device = device
        self.seats: list[Seat] = []
        #: Those whose time it is.
        self.users: list[Seat] = []
        self.at_ns = now_ns
        into_hour_ns = (epoch_ns + now_ns) % HOUR_NS
        self.hour_at_us = (epoch_ns + now_ns - into_hour_ns) // 1000
        self.hour_end_ns = now_ns - into_hour_ns + HOUR_NS
        #: By hour, since it was last asked for: what the rows must add up to.
        self.wall_ns: dict[int, int] = {}
        #: Who of the users is the first to get a nanosecond that cannot be divided.
        self._turn = 0

    def sort(self) -> None:
        first = min(_BEFORE[seat.line] for seat in self.seats)
        self.users = [seat for seat in self.seats if _BEFORE[seat.line] == first]

    def advance(self, now_ns: int) -> None:
        """Time has passed. A moment that is past already changes nothing."""
        if self.at_ns < now_ns < self.hour_end_ns:  # as good as always
            self._share(now_ns - self.at_ns)
            self.at_ns = now_ns
            return
        while self.at_ns < now_ns:
            until_ns = min(now_ns, self.hour_end_ns)
            self._share(until_ns - self.at_ns)
            self.at_ns = until_ns
            if until_ns == self.hour_end_ns:
                for seat in self.seats:
                    seat.shares.end_hour(self.hour_at_us)
                self.hour_at_us += HOUR_US
                self.hour_end_ns += HOUR_NS

    def _share(self, ns: int) -> None:
        hour_at_us, users = self.hour_at_us, len(self.users)
        self.wall_ns[hour_at_us] = self.wall_ns.get(hour_at_us, 0) + ns
        if users == 1:
            self.users[0].give(ns, hour_at_us)
            return
        each, more = divmod(ns, users)
        for index, seat in enumerate(self.users, -self._turn):
            seat.give(each + (index % users < more), hour_at_us)
        self._turn = (self._turn + more) % users

    def check(self) -> None:
        """Raises AssertionError unless all lines of all engines are the wall time, per hour."""
        for hour_at_us in {*self.wall_ns, *(hour for seat in self.seats for hour in seat.rows)}:
            rows = [seat.rows[hour_at_us] for seat in self.seats if hour_at_us in seat.rows]
            told_ns = sum(sum(row.ns.values()) for row in rows)
            assert told_ns == self.wall_ns.get(hour_at_us, 0), f"{self.device.name}: {hour_at_us}"
        for seat in self.seats:
            seat.shares.check()
