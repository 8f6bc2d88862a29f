"""When engines are up and calls are in them, by the clock: what that comes to for each request, and
for each device and hour.

The shell around the compute meter. All of it happens on the event loop; only `totals` may be read
by other threads.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.domain.money import nano_usd
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.states import EngineState
from infer_daemon.domain.steps import Step
from infer_daemon.ledger.compute import ComputeMeter, Used
from infer_daemon.ledger.devices import Device, DeviceHour, Line, Phase
from infer_daemon.ledger.weights import Weights, weights_from
from infer_daemon.settings.schema import Settings

_PHASES = {
    EngineState.STARTING: Phase.LOADING,
    EngineState.READY: Phase.READY,
    EngineState.DRAINING: Phase.READY,
}
"""In all other states an engine is down, also while it waits for its turn to load."""

Placement = Mapping[EngineName, Sequence[Device]]


class Stopwatch:
    """Implements `engines.contract.Timing`."""

    def __init__(
        self,
        placement: Placement,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        epoch_ns: int | None = None,
    ) -> None:
        """
        Args:
            clock_ns: a monotonic clock.
            epoch_ns: what to add to it for nanoseconds since the Unix epoch.
        """
        self._placement = placement
        self._clock_ns = clock_ns
        self._epoch_ns = time.time_ns() - clock_ns() if epoch_ns is None else epoch_ns
        self._meter = ComputeMeter(placement, epoch_ns=self._epoch_ns, now_ns=clock_ns())
        #: Of requests that have not settled: what their calls used that have left.
        self._used: dict[str, list[Used]] = {}
        self.weights: dict[EngineName, Weights] = {}
        """What was measured of each engine."""
        self.totals: dict[tuple[Device, EngineName], dict[Line, int]] = {
            (device, engine): dict.fromkeys(Line, 0)
            for engine, devices in placement.items()
            for device in devices
        }
        """Nanoseconds on each line, as of the last `refresh`."""
        #: By device, hour and engine: what nobody has taken yet.
        self._untold: dict[tuple[str, int, EngineName], DeviceHour] = {}

    def resume(self, told_until_ns: Mapping[str, int]) -> dict[str, tuple[int, int]]:
        """Earlier runs have told the hours of these devices up to a moment since the epoch: from
        then on they were down, which `totals` of this run have no part in. To be called before
        anything is timed.

        Returns:
            The devices of which a moment later than now was told, by a clock that has been set back
            since: from now until then they have each hour's time twice.
        """
        now_ns = self._clock_ns()
        down_ns = {name: min(now_ns, ns - self._epoch_ns) for name, ns in told_until_ns.items()}
        self._meter = ComputeMeter(
            self._placement, epoch_ns=self._epoch_ns, now_ns=now_ns, down_ns=down_ns
        )
        self.give_back(self._meter.hours(now_ns))
        at_ns = self._epoch_ns + now_ns
        own = {device.name for device, _ in self.totals}
        later = {name: ns for name, ns in told_until_ns.items() if name in own and ns > at_ns}
        return {name: (at_ns, until_ns) for name, until_ns in later.items()}

    def change(self, engine: EngineName, state: EngineState) -> None:
        """The engine is in this state from now on."""
        self._meter.phase(engine, _PHASES.get(state, Phase.DOWN), self._clock_ns())

    def weigh(
        self, engine: EngineName, steps: Sequence[Step], step_tokens: int | None = None
    ) -> None:
        """These of its steps were timed.

        Args: step_tokens: the most prompt tokens of a step, where that is known.
        """
        most = Weights().step_tokens if step_tokens is None else step_tokens
        self.weights[engine] = weights_from(steps, most)
        self._meter.weigh(engine, self.weights[engine])

    def enter(self, engine: EngineName, call: JobId, *, prompt_tokens: int, seqs: int) -> None:
        """See `engines.contract.Timing`."""
        now_ns = self._clock_ns()
        self._meter.enter(engine, call, prompt_tokens=prompt_tokens, seqs=seqs, now_ns=now_ns)

    def first_output(self, call: JobId) -> None:
        """See `engines.contract.Timing`."""
        self._meter.first_token(call, self._clock_ns())

    def leave(self, record: RequestRecord, call: JobId) -> None:
        """See `engines.contract.Timing`."""
        used = self._meter.leave(call, self._clock_ns())
        if record.outcome is not None:
            self._meter.waste(used)  # its row is written: nobody else pays for this
        elif used.ns:
            self._used.setdefault(record.id, []).append(used)

    def settle(self, record: RequestRecord) -> None:
        """The request has ended: its record gets what all its calls used. If its client did not
        wait for the answer, that was for nothing."""
        for used in self._used.pop(record.id, ()):
            record.compute_ns += used.ns
            record.compute_nano_usd += used.nano_usd
            if record.outcome is Outcome.CANCELLED:
                self._meter.waste(used)
                record.waste_ns += used.ns

    def refresh(self) -> int:
        """Bring `totals` up to date; returns to which moment, in nanoseconds since the epoch."""
        now_ns = self._clock_ns()
        rows = self._meter.hours(now_ns)
        for row in rows:
            totals = self.totals[row.device, row.engine]
            for line, ns in row.ns.items():
                totals[line] += ns
        self.give_back(rows)
        return self._epoch_ns + now_ns

    def take(self) -> tuple[list[DeviceHour], int]:
        """What has come to the rows of each hour since the last time, and up to which moment, in
        nanoseconds since the epoch. Whoever cannot write it down gives it back."""
        until_ns = self.refresh()
        rows, self._untold = list(self._untold.values()), {}
        return rows, until_ns

    def give_back(self, rows: Iterable[DeviceHour]) -> None:
        """These are not told yet."""
        for row in rows:
            key = (row.device.name, row.hour_at_us, row.engine)
            if (untold := self._untold.setdefault(key, row)) is not row:
                untold.ns = {line: ns + row.ns[line] for line, ns in untold.ns.items()}

    @property
    def hour_left_s(self) -> float:
        """Until the hour is over."""
        return 3600.0 - (self._epoch_ns + self._clock_ns()) / 1e9 % 3600.0

    def check(self) -> None:
        """Raises AssertionError unless every nanosecond is on one line."""
        self._meter.check()


def placement(settings: Settings) -> dict[EngineName, list[Device]]:
    """What each engine runs on. What has no price costs nothing."""
    prices = {
        name: nano_usd(device.usd_per_hour, "a price of")
        for name, device in settings.devices.items()
    }
    return {
        EngineName(name): [Device(one, prices.get(one, 0)) for one in engine.device_names]
        for name, engine in settings.engines.items()
    }
