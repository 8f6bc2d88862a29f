"""Devices by hand."""

import time
from collections.abc import Iterable

import pytest

from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.ledger.compute import ComputeMeter
from infer_daemon.ledger.devices import Device, DeviceHour, Line, Phase
from infer_daemon.ledger.periods import HOUR_US
from infer_daemon.ledger.pricing import HOUR_NS
from infer_daemon.ledger.weights import UNIT, Weights

A, B = EngineName("a"), EngineName("b")
GPU0, GPU1 = Device("gpu0", 2_000_000_000), Device("gpu1", 4_000_000_000)
X, Y = JobId("x"), JobId("y")
TEN_NS = 1_771_668_000 * 10**9 // HOUR_NS * HOUR_NS
"""An hour of some day begins."""
TEN_US = TEN_NS // 1000
ELEVEN_US = TEN_US + HOUR_US
WEIGHTS = Weights(prompt_token=UNIT // 4, step_tokens=100)


def one_device(*engines: EngineName, now_ns: int = 0) -> ComputeMeter:
    """On the clock of these tests it is ten o'clock at 0. All are ready."""
    meter = ComputeMeter({name: [GPU0] for name in engines}, epoch_ns=TEN_NS, now_ns=now_ns)
    for name in engines:
        meter.weigh(name, WEIGHTS)
        meter.phase(name, Phase.READY, now_ns)
    return meter


def enter(
    meter: ComputeMeter,
    call: JobId,
    now_ns: int,
    *,
    engine: EngineName = A,
    prompt: int = 4,
    seqs: int = 1,
) -> None:
    """With a prompt of 4 tokens a call weighs in reading what it weighs in writing."""
    meter.enter(engine, call, prompt_tokens=prompt, seqs=seqs, now_ns=now_ns)


def lines(rows: Iterable[DeviceHour]) -> dict[str, int]:
    """What is not zero, over all rows."""
    rows = [*rows]
    sums = {line.value: sum(row.ns[line] for row in rows) for line in Line}
    return {line: ns for line, ns in sums.items() if ns}


# One engine.


def test_time_with_a_call_inside_is_its_own_and_the_rest_is_idle() -> None:
    meter = one_device(A)
    enter(meter, X, 100)

    assert meter.leave(X, 350).ns == 250
    assert lines(meter.hours(1000)) == {"idle": 750, "attributed": 250}


def test_calls_side_by_side_share_by_what_is_done_for_them() -> None:
    meter = one_device(A)
    enter(meter, X, 0, seqs=3)
    enter(meter, Y, 0)
    meter.first_token(X, 0)
    meter.first_token(Y, 0)

    assert (meter.leave(X, 1000).ns, meter.leave(Y, 1000).ns) == (750, 250)


def test_a_call_weighs_by_its_prompt_until_its_first_token() -> None:
    meter = one_device(A)
    enter(meter, X, 0)
    meter.first_token(X, 0)
    enter(meter, Y, 0, prompt=36)
    meter.first_token(Y, 1000)

    assert meter.leave(X, 2000).ns == 100 + 500
    assert meter.leave(Y, 2000).ns == 900 + 500


def test_a_long_prompt_weighs_no_more_than_what_is_read_in_a_step() -> None:
    meter = one_device(A)
    enter(meter, X, 0, prompt=100)
    enter(meter, Y, 0, prompt=100_000)

    assert meter.leave(X, 1000).ns == meter.leave(Y, 1000).ns == 500


def test_measured_weights_count_for_calls_that_come_after() -> None:
    meter = one_device(A)
    enter(meter, X, 0, prompt=4)
    meter.weigh(A, Weights(prompt_token=UNIT, step_tokens=100))
    enter(meter, Y, 0, prompt=3)

    assert meter.leave(X, 1000).ns == 250
    assert meter.leave(Y, 1000).ns == 750


@pytest.mark.parametrize("phase", [Phase.DOWN, Phase.SLEEPING, Phase.LOADING])
def test_each_phase_has_its_line(phase: Phase) -> None:
    meter = one_device(A)
    meter.phase(A, phase, 100)

    assert lines(meter.hours(1000)) == {"idle": 100, phase.value: 900}


def test_what_never_started_is_down() -> None:
    meter = ComputeMeter({A: [GPU0]}, epoch_ns=TEN_NS, now_ns=5)

    assert lines(meter.hours(105)) == {"down": 100}


def test_an_engine_that_dies_uses_nothing_more_for_the_calls_inside() -> None:
    meter = one_device(A)
    enter(meter, X, 0)
    meter.phase(A, Phase.DOWN, 400)

    assert meter.leave(X, 1000).ns == 400
    assert lines(meter.hours(1000)) == {"attributed": 400, "down": 600}


def test_calls_that_nobody_knows_are_fine() -> None:
    meter = one_device(A)
    meter.first_token(X, 10)

    assert meter.leave(X, 20).ns == 0


def test_a_call_is_in_one_engine_at_a_time() -> None:
    meter = one_device(A, B)
    enter(meter, X, 0)
    with pytest.raises(AssertionError, match="already in an engine"):
        enter(meter, X, 10, engine=B)
    meter.leave(X, 10)

    enter(meter, X, 10, engine=B)


def test_an_event_of_a_moment_that_is_past_counts_from_now() -> None:
    meter = one_device(A)
    meter.hours(500)
    enter(meter, X, 300)

    assert meter.leave(X, 700).ns == 200


# Waste and money.


def test_a_call_that_was_for_nothing_is_waste() -> None:
    meter = one_device(A)
    enter(meter, X, 0)
    enter(meter, Y, 0)
    meter.leave(X, 800)

    meter.waste(meter.leave(Y, 1000))
    assert lines(meter.hours(1000)) == {"attributed": 400, "waste": 600}


def test_waste_belongs_to_the_hours_in_which_the_time_was_used_also_when_they_were_told() -> None:
    meter = one_device(A, now_ns=HOUR_NS - 100)
    enter(meter, X, HOUR_NS - 100)
    before = meter.hours(HOUR_NS + 1)
    meter.waste(meter.leave(X, HOUR_NS + 50))
    after = meter.hours(HOUR_NS + 50)
    meter.check()

    assert lines(row for row in before if row.hour_at_us == TEN_US) == {"attributed": 100}
    assert lines(row for row in after if row.hour_at_us == TEN_US) == {
        "attributed": -100,
        "waste": 100,
    }
    assert lines([*before, *after]) == {"waste": 150}


def test_time_costs_what_the_device_costs() -> None:
    meter = one_device(A)
    enter(meter, X, 0)

    assert meter.leave(X, HOUR_NS // 2).nano_usd == 1_000_000_000


# Hours.


def test_rows_are_cut_at_the_hours_of_utc() -> None:
    meter = one_device(A, now_ns=HOUR_NS - 100)
    enter(meter, X, HOUR_NS - 40)
    meter.leave(X, HOUR_NS + 30)
    rows = {row.hour_at_us: row for row in meter.hours(HOUR_NS + 50)}

    assert lines([rows[TEN_US]]) == {"idle": 60, "attributed": 40}
    assert lines([rows[ELEVEN_US]]) == {"attributed": 30, "idle": 20}


def test_nothing_is_told_twice() -> None:
    meter = one_device(A)
    assert lines(meter.hours(100)) == {"idle": 100}
    assert meter.hours(100) == []

    assert lines(meter.hours(130)) == {"idle": 30}


def test_a_quiet_day_has_every_hour() -> None:
    rows = one_device(A).hours(24 * HOUR_NS)

    assert [row.hour_at_us for row in rows] == [TEN_US + hour * HOUR_US for hour in range(24)]
    assert {row.ns[Line.IDLE] for row in rows} == {HOUR_NS}


def test_the_time_since_an_earlier_process_is_down_also_when_the_machine_was_restarted() -> None:
    meter = ComputeMeter({A: [GPU0]}, epoch_ns=TEN_NS, now_ns=-HOUR_NS - 100)
    meter.phase(A, Phase.LOADING, 50)
    rows = meter.hours(70)

    assert [(row.hour_at_us, lines([row])) for row in rows] == [
        (TEN_US - 2 * HOUR_US, {"down": 100}),
        (TEN_US - HOUR_US, {"down": HOUR_NS}),
        (TEN_US, {"down": 50, "loading": 20}),
    ]


# Sharing a device.


def test_engines_that_are_busy_at_once_share_the_device_in_equal_parts() -> None:
    meter = one_device(A, B)
    enter(meter, X, 0, seqs=5)
    meter.first_token(X, 0)
    enter(meter, Y, 600, engine=B)

    assert meter.leave(Y, 1000).ns == 200
    assert meter.leave(X, 1000).ns == 800
    assert lines(meter.hours(1000)) == {"attributed": 1000}


def test_a_device_is_idle_only_when_nobody_on_it_is_busy() -> None:
    meter = one_device(A, B)
    enter(meter, X, 0)
    meter.leave(X, 400)
    rows = meter.hours(1000)

    assert lines(rows) == {"attributed": 400, "idle": 600}
    assert [row.ns[Line.IDLE] for row in rows] == [300, 300]


def test_an_engine_that_loads_takes_turns_with_one_that_is_busy() -> None:
    meter = one_device(A, B)
    meter.phase(B, Phase.LOADING, 0)
    enter(meter, X, 0)

    assert meter.leave(X, 1000).ns == 500
    assert lines(meter.hours(1500)) == {"attributed": 500, "loading": 1000}


@pytest.mark.parametrize(
    ("of_a", "of_b", "line"),
    [
        (Phase.READY, Phase.LOADING, "loading"),
        (Phase.READY, Phase.SLEEPING, "idle"),
        (Phase.READY, Phase.DOWN, "idle"),
        (Phase.SLEEPING, Phase.DOWN, "sleeping"),
        (Phase.SLEEPING, Phase.LOADING, "loading"),
    ],
)
def test_of_two_quiet_engines_the_one_that_is_nearer_to_work_has_the_device(
    of_a: Phase, of_b: Phase, line: str
) -> None:
    meter = one_device(A, B)
    meter.phase(A, of_a, 0)
    meter.phase(B, of_b, 0)

    assert lines(meter.hours(1000)) == {line: 1000}


def test_nanoseconds_that_cannot_be_divided_go_round() -> None:
    meter = one_device(A, B)
    for now_ns in range(1, 1001):
        meter.hours(now_ns) if now_ns % 100 == 0 else meter.phase(A, Phase.READY, now_ns)
    enter(meter, X, 1000)
    enter(meter, Y, 1000, engine=B)
    for now_ns in range(1001, 2001):
        meter.phase(A, Phase.READY, now_ns)

    assert (meter.leave(X, 2000).ns, meter.leave(Y, 2000).ns) == (500, 500)


def test_an_engine_on_two_devices_uses_both() -> None:
    meter = ComputeMeter({A: [GPU0, GPU1], B: [GPU1]}, epoch_ns=TEN_NS, now_ns=0)
    for name in (A, B):
        meter.phase(name, Phase.READY, 0)
    enter(meter, X, 0)
    enter(meter, Y, 0, engine=B)

    first, second = meter.leave(X, HOUR_NS), meter.leave(Y, HOUR_NS)
    assert (first.ns, first.nano_usd) == (HOUR_NS * 3 // 2, 2_000_000_000 + 2_000_000_000)
    assert (second.ns, second.nano_usd) == (HOUR_NS // 2, 2_000_000_000)


# Checking.


def test_a_nanosecond_that_is_on_no_line_is_found() -> None:
    meter = one_device(A)
    meter.phase(A, Phase.READY, 100)
    meter.check()
    meter._seats[A][0].row(TEN_US).ns[Line.IDLE] -= 1

    with pytest.raises(AssertionError, match="gpu0"):
        meter.check()


def test_a_share_that_is_not_of_the_time_that_was_taken_is_found() -> None:
    meter = one_device(A)
    enter(meter, X, 0)
    meter._seats[A][0].shares.take(1)
    meter.check()
    meter._seats[A][0].shares._open_ns -= 1

    with pytest.raises(AssertionError, match="lost or made"):
        meter.check()


def event_s(calls: int) -> float:
    """What an event costs with ten engines that have so many calls at the same time."""
    engines = [EngineName(str(number)) for number in range(10)]
    meter = one_device(*engines)
    began_s = time.thread_time()
    for number in range(calls):
        enter(meter, JobId(str(number)), number * 10**6, engine=engines[number % 10], prompt=50)
    end_ns = calls * 10**6
    for number in range(calls):
        meter.first_token(JobId(str(number)), end_ns + number * 10**6)
    used = [meter.leave(JobId(str(n)), 2 * end_ns + n * 10**6).ns for n in range(calls)]
    took_s = time.thread_time() - began_s
    meter.check()
    assert sum(used) == lines(meter.hours(3 * end_ns))["attributed"]
    return took_s / (3 * calls)


def test_an_event_costs_hardly_more_among_twenty_times_as_many_calls() -> None:
    few_s, many_s = (min(event_s(calls) for _ in range(3)) for calls in (100, 2000))

    assert many_s < 3 * few_s
