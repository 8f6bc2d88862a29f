"""What each call has used of the devices, to the nanosecond. Pure: `now_ns` of a monotonic clock is
passed in.

An engine that has calls inside is taken to make steps: if it is stuck, the time is theirs, until
somebody says that it is down. An engine on several devices uses all of them at once.
"""

from collections.abc import Mapping, Sequence

import msgspec

from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.ledger.devices import Device, DeviceClock, DeviceHour, Line, Phase, Seat
from infer_daemon.ledger.pricing import compute_nano_usd
from infer_daemon.ledger.weights import Weights


class Used(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What one call has used, of all devices of its engine together."""

    ns: int = 0
    nano_usd: int = 0
    parts: Sequence[tuple[Seat, int, int]] = ()
    """`ns` by device and hour."""


_NOTHING = Used()


class ComputeMeter:
    """All devices that have engines. Events may tell of a moment that is a little past: they count
    from the latest moment that is known."""

    def __init__(
        self,
        placement: Mapping[EngineName, Sequence[Device]],
        *,
        epoch_ns: int,
        now_ns: int,
        down_ns: Mapping[str, int] | None = None,
    ) -> None:
        """Everything is down at first.

        Args:
            epoch_ns: what to add to `now_ns` for nanoseconds since the Unix epoch; hours begin by
                that, also when the machine's clock is set later.
            now_ns: from when on.
            down_ns: from when on for these devices: the moment up to which an earlier process has
                told a device's hours makes the time since then down. It may be before 0.
        """
        down_ns = down_ns or {}
        self._clocks: dict[str, DeviceClock] = {}
        self._seats: dict[EngineName, list[Seat]] = {}
        self._weights = dict.fromkeys(placement, Weights())
        #: Of each call: its engine, and how many sequences it generates.
        self._calls: dict[JobId, tuple[EngineName, int]] = {}
        for engine, devices in placement.items():
            for device in devices:
                if device.name not in self._clocks:
                    begun_ns = down_ns.get(device.name, now_ns)
                    self._clocks[device.name] = DeviceClock(device, epoch_ns, begun_ns)
            self._seats[engine] = [Seat(engine, self._clocks[one.name]) for one in devices]

    def weigh(self, engine: EngineName, weights: Weights) -> None:
        """What its calls weigh from now on; those inside keep theirs until their next event."""
        self._weights[engine] = weights

    def phase(self, engine: EngineName, phase: Phase, now_ns: int) -> None:
        """The engine changes. Calls inside stay until they leave, without using anything unless it
        is ready."""
        for seat in self._seats[engine]:
            seat.advance(now_ns)
            seat.phase = phase
            seat.settle()

    def enter(
        self, engine: EngineName, call: JobId, *, prompt_tokens: int, seqs: int, now_ns: int
    ) -> None:
        """A call is given to the engine, which begins to read its prompt."""
        assert call not in self._calls, f"call {call} is already in an engine"
        self._calls[call] = engine, seqs
        weight = self._weights[engine].reading(prompt_tokens)
        for seat in self._seats[engine]:
            seat.enter(call, weight, now_ns)

    def first_token(self, call: JobId, now_ns: int) -> None:
        """The prompt is read and it generates. Unknown calls are fine."""
        if (found := self._calls.get(call)) is not None:
            engine, seqs = found
            weight = self._weights[engine].writing(seqs)
            for seat in self._seats[engine]:
                seat.reweigh(call, weight, now_ns)

    def leave(self, call: JobId, now_ns: int) -> Used:
        """The engine is done with it. Unknown calls are fine and have used nothing."""
        if (found := self._calls.pop(call, None)) is None:
            return _NOTHING
        ns = nano_usd = 0
        parts: list[tuple[Seat, int, int]] = []
        for seat in self._seats[found[0]]:
            seat_ns = 0
            for hour_at_us, hour_ns in seat.leave(call, now_ns):
                seat_ns += hour_ns
                parts.append((seat, hour_at_us, hour_ns))
            ns += seat_ns
            nano_usd += compute_nano_usd(seat_ns, seat.clock.device.price_nano_usd_per_hour)
        return Used(ns, nano_usd, parts)

    def waste(self, used: Used) -> None:
        """What a call has used turns out to have been for nothing. Belongs to the hours in which it
        was used. To be told once of each."""
        for seat, hour_at_us, hour_ns in used.parts:
            seat.row(hour_at_us).ns[Line.ATTRIBUTED] -= hour_ns
            seat.row(hour_at_us).ns[Line.WASTE] += hour_ns

    def hours(self, now_ns: int) -> list[DeviceHour]:
        """What has come to the rows of each hour since the last time this was asked."""
        return [row for clock in self._clocks.values() for row in clock.take_rows(now_ns)]

    def check(self) -> None:
        """Raises AssertionError unless every nanosecond is on one line."""
        for clock in self._clocks.values():
            clock.check()
