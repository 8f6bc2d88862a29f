"""Requests on devices, on a clock that is set by hand."""

import time

import pytest

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.states import EngineState
from infer_daemon.domain.steps import Step
from infer_daemon.ledger.devices import Device, DeviceHour, Line
from infer_daemon.ledger.pricing import HOUR_NS
from infer_daemon.ledger.stopwatch import Stopwatch, placement
from infer_daemon.ledger.weights import UNIT
from tests.conftest import MakeSettings

A = EngineName("a")
GPU = Device("gpu-0", 3_600_000_000_000)
"""A dollar a second, a nano-dollar a nanosecond."""
X, Y = JobId("x"), JobId("y")


class Watched:
    """One engine on one device."""

    def __init__(self, state: EngineState = EngineState.READY) -> None:
        self.now_ns = 0
        self.watch = Stopwatch({A: [GPU]}, clock_ns=lambda: self.now_ns, epoch_ns=0)
        self.watch.change(A, state)
        self._numbers = iter(range(9))

    def record(self) -> RequestRecord:
        """A request that has just come in."""
        name = f"r{next(self._numbers)}"
        return RequestRecord(id=name, endpoint=Endpoint.CHAT, accepted_s=0.0, clock=lambda: 0.0)

    def enter(self, call: JobId) -> None:
        self.watch.enter(A, call, prompt_tokens=1, seqs=1)

    def settle(self, record: RequestRecord, outcome: Outcome = Outcome.OK) -> RequestRecord:
        """The request ends like this; settled as the recorder does it."""
        record.outcome = outcome
        self.watch.settle(record)
        return record

    def lines(self) -> dict[str, int]:
        """What the device's time has gone into."""
        self.watch.refresh()
        return {line.value: ns for line, ns in self.watch.totals[GPU, A].items() if ns}


@pytest.fixture
def watched() -> Watched:
    return Watched()


def lines_of(rows: list[DeviceHour]) -> dict[Line, int]:
    """Of all rows together, without lines on which nothing is."""
    return {line: ns for line in Line if (ns := sum(row.ns[line] for row in rows))}


def test_a_request_has_used_what_all_its_calls_have(watched: Watched) -> None:
    record = watched.record()
    watched.enter(X)
    watched.now_ns = 100
    watched.watch.leave(record, X)
    watched.now_ns = 150
    watched.enter(Y)
    watched.now_ns = 250
    watched.watch.leave(record, Y)
    watched.settle(record)

    assert (record.compute_ns, record.compute_nano_usd, record.waste_ns) == (200, 200, 0)
    assert watched.lines() == {"attributed": 200, "idle": 50}


def test_what_a_client_that_has_gone_used_is_waste_also_of_calls_that_were_done(
    watched: Watched,
) -> None:
    record = watched.record()
    watched.enter(X)
    watched.now_ns = 100
    watched.watch.leave(record, X)
    watched.settle(record, Outcome.CANCELLED)

    assert (record.compute_ns, record.waste_ns) == (100, 100)
    assert watched.lines() == {"waste": 100}


def test_what_leaves_after_its_request_was_settled_is_waste(watched: Watched) -> None:
    record = watched.record()
    watched.enter(X)
    watched.now_ns = 100
    watched.settle(record)
    watched.watch.leave(record, X)

    assert record.compute_ns == 0
    assert watched.lines() == {"waste": 100}


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (EngineState.WAITING, "down"),
        (EngineState.STARTING, "loading"),
        (EngineState.READY, "idle"),
        (EngineState.DRAINING, "idle"),
        (EngineState.DEAD, "down"),
        (EngineState.STOPPING, "down"),
        (EngineState.STOPPED, "down"),
        (EngineState.FAILED, "down"),
    ],
)
def test_an_engines_state_says_where_its_time_goes(state: EngineState, line: str) -> None:
    watched = Watched(state)
    watched.now_ns = 7

    assert watched.lines() == {line: 7}


def test_timed_steps_become_weights(watched: Watched) -> None:
    steps = [Step(1000, 0, 0), Step(1100, 1, 0), Step(1000 + 50 * 100, 0, 100)]
    watched.watch.weigh(A, steps, step_tokens=64)

    assert watched.watch.weights[A].prompt_token == UNIT // 2
    assert watched.watch.weights[A].step_tokens == 64


def test_an_engine_that_says_nothing_has_the_usual_weights(watched: Watched) -> None:
    watched.watch.weigh(A, [])

    assert watched.watch.weights[A].prompt_token == UNIT // 2


def test_rows_are_taken_once_and_may_be_given_back(watched: Watched) -> None:
    watched.now_ns = 10
    rows, until_ns = watched.watch.take()
    assert (lines_of(rows), until_ns) == ({Line.IDLE: 10}, 10)
    watched.watch.give_back(rows)
    watched.now_ns = 25

    assert lines_of(watched.watch.take()[0]) == {Line.IDLE: 25}
    assert watched.watch.take()[0] == []
    assert watched.lines() == {"idle": 25}


def test_from_the_end_of_an_earlier_run_everything_was_down(watched: Watched) -> None:
    watched = Watched(EngineState.WAITING)
    watched.now_ns = 2 * HOUR_NS + 5
    watched.watch.resume({GPU.name: HOUR_NS - 3})
    rows, _ = watched.watch.take()

    assert [(row.hour_at_us, row.ns[Line.DOWN]) for row in rows] == [
        (0, 3), (3_600_000_000, HOUR_NS), (7_200_000_000, 5),
    ]  # fmt: skip


def test_what_this_run_shows_of_devices_begins_with_it(watched: Watched) -> None:
    watched = Watched(EngineState.WAITING)
    watched.now_ns = 2 * HOUR_NS
    watched.watch.resume({GPU.name: 5})
    watched.now_ns += 7

    assert watched.lines() == {"down": 7}


def test_a_clock_that_was_set_back_makes_no_time(watched: Watched) -> None:
    assert watched.watch.resume({GPU.name: HOUR_NS, "gone": 9}) == {GPU.name: (0, HOUR_NS)}
    watched.now_ns = 5

    assert watched.lines() == {"down": 5}


def test_the_hour_that_is_left_is_that_of_the_wall_clock() -> None:
    watch = Stopwatch({}, clock_ns=lambda: 0, epoch_ns=HOUR_NS + 600 * 10**9)

    assert watch.hour_left_s == pytest.approx(3000)


def test_engines_are_on_the_devices_that_they_name_and_else_on_the_cpu(
    settings_of: MakeSettings,
) -> None:
    text = '[engines.a]\nkind = "sim"\nmodel = "echo"\n[engines.b]\nkind = "sim"\nmodel = "echo"\n'
    text += "devices = [2, 3]\n[models.a]\nengines = ['a']\n[models.b]\nengines = ['b']\n"
    text += "[devices.gpu-2]\nusd_per_hour = '1.5'\n"

    assert placement(settings_of(text)) == {
        "a": [Device("cpu", 0)],
        "b": [Device("gpu-2", 1_500_000_000), Device("gpu-3", 0)],
    }


def timing_s(calls_count: int) -> float:
    """What it costs to time a call of a request that has so many, on four engines."""
    engines = [EngineName(str(number)) for number in range(4)]
    watch = Stopwatch({name: [Device(name, 1)] for name in engines})
    for name in engines:
        watch.change(name, EngineState.READY)
    record = Watched().record()
    calls = [JobId(str(number)) for number in range(calls_count)]
    began_s = time.thread_time()
    for number, call in enumerate(calls):
        watch.enter(engines[number % 4], call, prompt_tokens=100, seqs=1)
    for call in calls:
        watch.first_output(call)
    for call in calls:
        watch.leave(record, call)
    took_s = time.thread_time() - began_s
    record.outcome = Outcome.OK
    watch.settle(record)
    watch.check()
    return took_s / calls_count


def test_timing_a_call_costs_hardly_more_among_twenty_times_as_many() -> None:
    few_s, many_s = (min(timing_s(calls) for _ in range(3)) for calls in (100, 2000))

    assert many_s < 3 * few_s
