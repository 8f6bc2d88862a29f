"""When an engine that is alive counts as dead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer_daemon.engines.stalls import LOOK_MAX_S, LOOK_S, StallWatch

TIMEOUT_S = 30.0


class Looking:
    """A watch that is looked at as often as it should be."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.watch = StallWatch(TIMEOUT_S, self.now_s)
        self.steps = 0

    def is_stalled_after(self, seconds: float, *, in_flight: int) -> bool:
        """Whether so long a time without a step was too long."""
        for _ in range(round(seconds / LOOK_S)):
            self.now_s += LOOK_S
            stalled = self.watch.look(self.now_s, in_flight=in_flight, steps=self.steps)
        return stalled


@pytest.fixture
def looking() -> Looking:
    """At an engine that may take 30 s for a step."""
    return Looking()


def test_an_engine_without_work_never_stalls(looking: Looking) -> None:
    assert not looking.is_stalled_after(1000, in_flight=0)


def test_an_engine_with_work_stalls_when_no_step_comes(looking: Looking) -> None:
    assert not looking.is_stalled_after(TIMEOUT_S, in_flight=1)
    assert looking.is_stalled_after(2 * LOOK_S, in_flight=1)
    assert looking.watch.reason == "no step for 30.2 s (stall_timeout_s) with 1 call in flight"


def test_the_reason_counts_the_calls(looking: Looking) -> None:
    assert looking.is_stalled_after(40, in_flight=3)
    assert looking.watch.reason.endswith("with 3 calls in flight")


def test_each_step_gives_it_the_whole_time_again(looking: Looking) -> None:
    for _ in range(3):
        assert not looking.is_stalled_after(29, in_flight=1)
        looking.steps += 1


def test_the_time_without_work_does_not_count(looking: Looking) -> None:
    looking.is_stalled_after(20, in_flight=1)
    assert not looking.is_stalled_after(1000, in_flight=0)
    assert not looking.is_stalled_after(9, in_flight=1)
    assert looking.is_stalled_after(2, in_flight=1)


def test_clients_that_give_up_one_after_the_other_do_not_keep_a_hung_engine_alive(
    looking: Looking,
) -> None:
    stalled = [
        looking.is_stalled_after(10, in_flight=1) or looking.is_stalled_after(1, in_flight=0)
        for _ in range(5)
    ]

    assert stalled == [False, False, False, True, True]


def test_looks_that_come_late_do_not_count_as_a_stall() -> None:
    watch = StallWatch(TIMEOUT_S, 0.0)
    watch.look(1.0, in_flight=1, steps=5)

    assert not watch.look(500.0, in_flight=1, steps=5)
    assert not watch.look(501.0, in_flight=1, steps=6)


@given(
    looks=st.lists(st.tuples(st.floats(0.01, 20), st.integers(0, 2), st.booleans()), max_size=80)
)
def test_it_stalls_after_as_long_without_a_step_and_with_work_as_was_said(
    looks: list[tuple[float, int, bool]],
) -> None:
    watch, now_s, steps, work, spent_s = StallWatch(TIMEOUT_S, 0.0), 0.0, 0, 0, 0.0
    for pause_s, in_flight, has_stepped in [(0.1, 0, True), *looks]:
        now_s += pause_s
        steps += has_stepped
        spent_s += min(pause_s, LOOK_MAX_S) if work else 0.0
        spent_s = 0.0 if has_stepped else spent_s
        work = in_flight
        if abs(spent_s - TIMEOUT_S) < 1e-6:
            continue
        stalled = watch.look(now_s, in_flight=in_flight, steps=steps)
        assert stalled == (in_flight > 0 and spent_s >= TIMEOUT_S)
