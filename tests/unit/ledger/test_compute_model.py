"""Devices against a model in fractions that looks at everybody at every moment."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.ledger.compute import ComputeMeter, Used
from infer_daemon.ledger.devices import Device, DeviceHour, Line, Phase
from infer_daemon.ledger.pricing import HOUR_NS
from infer_daemon.ledger.weights import UNIT, Weights

GPU0, GPU1 = Device("gpu0", 2_000_000_000), Device("gpu1", 4_000_000_000)
TEN_NS = 1_771_668_000 * 10**9 // HOUR_NS * HOUR_NS
"""An hour of some day begins."""
WEIGHTS = Weights(prompt_token=UNIT // 4, step_tokens=100)

ENGINES = {
    EngineName("solo"): [GPU0],
    EngineName("wide"): [GPU0, GPU1],
    EngineName("other"): [GPU1],
    EngineName("third"): [GPU1],
}
CALLS = [JobId(str(number)) for number in range(6)]
EVENTS = st.lists(
    st.tuples(
        st.one_of(
            st.tuples(st.just("phase"), st.sampled_from([*ENGINES]), st.sampled_from(Phase)),
            st.tuples(st.just("enter"), st.sampled_from([*ENGINES]), st.sampled_from(CALLS)),
            st.tuples(st.just("token"), st.none(), st.sampled_from(CALLS)),
            st.tuples(st.just("leave"), st.sampled_from([0, 1, 3]), st.sampled_from(CALLS)),
            st.tuples(st.just("hours"), st.none(), st.none()),
        ),
        st.one_of(
            st.integers(0, 5), st.integers(0, 10**9), st.sampled_from([HOUR_NS, 3 * HOUR_NS - 7])
        ),
    ),
    max_size=50,
)


class Model:
    """Exact, and slow: at each event it goes through all devices and all calls."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.phases = dict.fromkeys(ENGINES, Phase.READY)
        self.inside: dict[JobId, tuple[EngineName, int]] = {}
        self.used: dict[JobId, Fraction] = {}
        self.lines: dict[tuple[str, int, str], Fraction] = {}

    def advance(self, now_ns: int) -> None:
        while self.now_ns < now_ns:
            until_ns = min(now_ns, (self.now_ns // HOUR_NS + 1) * HOUR_NS)
            for device in (GPU0, GPU1):
                self.share(device, until_ns - self.now_ns)
            self.now_ns = until_ns

    def share(self, device: Device, ns: int) -> None:
        here = [name for name, devices in ENGINES.items() if device in devices]
        on = {name: self.line(name) for name in here}
        for wanted in (("attributed", "loading"), ("idle",), ("sleeping",), ("down",)):
            users = [name for name in here if on[name] in wanted]
            if users:
                break
        for name in users:
            part = Fraction(ns, len(users))
            key = (device.name, self.now_ns // HOUR_NS, on[name])
            self.lines[key] = self.lines.get(key, Fraction(0)) + part
            if on[name] == "attributed":
                own = {call: w for call, (engine, w) in self.inside.items() if engine == name}
                for call, weight in own.items():
                    self.used[call] += part * weight / sum(own.values())

    def line(self, name: EngineName) -> str:
        if self.phases[name] is not Phase.READY:
            return self.phases[name].value
        return "attributed" if any(e == name for e, _ in self.inside.values()) else "idle"


def follow(
    events: list[tuple[tuple[str, object, object], int]],
) -> tuple[Model, list[DeviceHour], list[Used], list[Used]]:
    """The meter beside the model; each call's share is compared when it leaves. The last are those
    that were for nothing."""
    meter = ComputeMeter(ENGINES, epoch_ns=TEN_NS, now_ns=0)
    for name in ENGINES:
        meter.weigh(name, WEIGHTS)
        meter.phase(name, Phase.READY, 0)
    model, rows, used, wasted = Model(), list[DeviceHour](), list[Used](), list[Used]()
    for count, ((what, which, arg), after_ns) in enumerate(events, 1):
        now_ns = model.now_ns + after_ns
        model.advance(now_ns)
        if what == "phase":
            model.phases[which] = arg
            meter.phase(which, arg, now_ns)
        elif what == "enter" and arg not in model.inside:
            prompt, seqs = 7 * int(arg), 1 + int(arg) % 3
            meter.enter(which, arg, prompt_tokens=prompt, seqs=seqs, now_ns=now_ns)
            model.inside[arg] = which, max(1, prompt * UNIT // 4)
            model.used[arg] = Fraction(0)
        elif what == "token" and arg in model.inside:
            meter.first_token(arg, now_ns)
            model.inside[arg] = model.inside[arg][0], UNIT * (1 + int(arg) % 3)
        elif what == "leave" and arg in model.inside:
            used.append(meter.leave(arg, now_ns))
            if which == 3:
                meter.waste(used[-1])
                wasted.append(used[-1])
            del model.inside[arg]
            # A nanosecond for each division on the way: two devices, hours, events.
            assert abs(used[-1].ns - model.used.pop(arg)) <= 10 * (count + 2)
        elif what == "hours":
            rows += meter.hours(now_ns)
        meter.check()
    for call in [*model.inside]:
        used.append(meter.leave(call, model.now_ns))
    rows += meter.hours(model.now_ns)
    meter.check()
    return model, rows, used, wasted


@settings(max_examples=150, deadline=None)
@given(EVENTS)
def test_every_nanosecond_of_every_device_and_hour_is_on_one_line(
    events: list[tuple[tuple[str, object, object], int]],
) -> None:
    model, rows, used, wasted = follow(events)
    sums: dict[tuple[str, int, str], int] = {}
    for row in rows:
        hour = (row.hour_at_us * 1000 - TEN_NS) // HOUR_NS
        for line, ns in row.ns.items():
            # The model does not know what was waste.
            name = "attributed" if line is Line.WASTE else line.value
            sums[row.device.name, hour, name] = sums.get((row.device.name, hour, name), 0) + ns
    for device in (GPU0, GPU1):
        for hour in range(model.now_ns // HOUR_NS + 1):
            wall_ns = max(0, min(HOUR_NS, model.now_ns - hour * HOUR_NS))
            assert wall_ns == sum(ns for key, ns in sums.items() if key[:2] == (device.name, hour))
    for key in sums | model.lines:
        assert abs(sums.get(key, 0) - model.lines.get(key, 0)) <= 4 * (len(events) + 1)
    busy = sum(row.ns[Line.ATTRIBUTED] + row.ns[Line.WASTE] for row in rows)
    assert busy == sum(one.ns for one in used)
    assert sum(row.ns[Line.WASTE] for row in rows) == sum(one.ns for one in wasted)
