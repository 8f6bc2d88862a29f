"""The circuit breaker: when calls pass."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infer_daemon.engines.breaker import (
    FAILURES,
    Breaker,
    BreakerPolicy,
    BreakerState,
    Change,
    Ending,
    Permit,
)

POLICY = BreakerPolicy(
    window_s=30.0,
    calls_min=10,
    failure_share_max=0.5,
    slow_share_max=0.9,
    slow_s=10.0,
    open_s=5.0,
    open_s_max=40.0,
    probe_timeout_s=60.0,
)


@pytest.fixture
def breaker() -> Breaker:
    """Closed; nothing was called yet."""
    return Breaker(POLICY)


def call(
    breaker: Breaker, ending: Ending, now_s: float = 0.0, duration_s: float = 1.0
) -> Change | None:
    permit = breaker.allow(now_s)
    assert permit is not None, "the call may not be made"
    return breaker.record(permit, ending, duration_s=duration_s, now_s=now_s)


def calls(
    breaker: Breaker, *endings: Ending, now_s: float = 0.0, duration_s: float = 1.0
) -> Change | None:
    """Make these calls; what the last one changed."""
    change = None
    for ending in endings:
        change = call(breaker, ending, now_s, duration_s)
    return change


def opened(breaker: Breaker, now_s: float = 0.0) -> Breaker:
    calls(breaker, *[Ending.DEAD] * 10, now_s=now_s)
    assert breaker.state == BreakerState.OPEN
    return breaker


def probe(breaker: Breaker, now_s: float) -> Permit:
    permit = breaker.allow(now_s)
    assert permit is not None
    assert permit.is_probe
    return permit


# Opening.


def test_calls_pass_while_nothing_is_wrong(breaker: Breaker) -> None:
    assert calls(breaker, *[Ending.OK] * 100) is None
    assert breaker.state == BreakerState.CLOSED
    assert breaker.wait_s(0.0) == 0


@pytest.mark.parametrize("failure", FAILURES)
def test_it_opens_when_half_of_the_calls_fail_and_says_of_what(
    breaker: Breaker, failure: Ending
) -> None:
    change = calls(breaker, *[Ending.OK] * 5, *[failure] * 5)

    assert change is not None
    assert (change.old, change.new) == (BreakerState.CLOSED, BreakerState.OPEN)
    assert change.cause == failure
    assert change.reason == f"5 of 10 calls: 5 {failure}; open for 5 s"


def test_it_tells_failures_apart_and_names_the_most_frequent(breaker: Breaker) -> None:
    change = calls(breaker, *[Ending.TIMEOUT] * 3, *[Ending.STALLED] * 4, *[Ending.OK] * 3)

    assert change is not None
    assert change.cause == "stalled"
    assert "4 stalled, 3 timeout" in change.reason


def test_few_calls_say_nothing(breaker: Breaker) -> None:
    assert calls(breaker, *[Ending.DEAD] * 9) is None
    assert breaker.state == BreakerState.CLOSED


def test_less_than_half_does_not_open_it(breaker: Breaker) -> None:
    assert calls(breaker, *[Ending.OK] * 6, *[Ending.DEAD] * 5) is None


def test_what_failed_before_the_window_is_forgotten(breaker: Breaker) -> None:
    calls(breaker, *[Ending.DEAD] * 9, now_s=0.0)

    assert calls(breaker, *[Ending.DEAD] * 9, now_s=31.0) is None


def test_client_errors_never_count_for_or_against(breaker: Breaker) -> None:
    assert calls(breaker, *[Ending.CLIENT] * 1000) is None
    assert calls(breaker, *[Ending.DEAD] * 9, *[Ending.CLIENT] * 1000) is None

    assert call(breaker, Ending.DEAD) is not None


def test_slow_calls_open_it_when_nearly_all_are(breaker: Breaker) -> None:
    assert calls(breaker, *[Ending.OK] * 2) is None
    assert calls(breaker, *[Ending.OK] * 17, duration_s=10.1) is None
    change = call(breaker, Ending.OK, duration_s=11.0)

    assert change is not None
    assert change.cause == "slow"


def test_a_target_that_turns_half_of_the_calls_away_is_not_broken(breaker: Breaker) -> None:
    assert calls(breaker, *[Ending.OK, Ending.OVERLOAD] * 50) is None


def test_a_target_that_turns_all_calls_away_is_left_alone(breaker: Breaker) -> None:
    change = calls(breaker, *[Ending.OVERLOAD] * 10)

    assert change is not None
    assert change.cause == "overload"


def test_it_can_be_tripped_for_what_calls_do_not_show(breaker: Breaker) -> None:
    change = breaker.trip("anomaly", "40 of 100 answers were empty", 0.0)

    assert change is not None
    assert change.cause == "anomaly"
    assert breaker.allow(4.9) is None
    assert breaker.trip("anomaly", "again", 1.0) is None


# Open and half open.


def test_no_call_passes_while_it_is_open(breaker: Breaker) -> None:
    opened(breaker)

    assert breaker.allow(4.99) is None
    assert breaker.wait_s(3.0) == 2.0


def test_after_that_one_call_passes_and_no_other(breaker: Breaker) -> None:
    opened(breaker)
    permit = probe(breaker, 5.0)

    assert permit.change == Change(
        BreakerState.OPEN, BreakerState.HALF_OPEN, "due", "one call may try"
    )
    assert [breaker.allow(5.0 + n) for n in range(50)] == [None] * 50


def test_a_probe_that_is_answered_closes_it(breaker: Breaker) -> None:
    opened(breaker)
    change = call(breaker, Ending.OK, 5.0)

    assert change is not None
    assert (change.old, change.new) == (BreakerState.HALF_OPEN, BreakerState.CLOSED)
    assert calls(breaker, *[Ending.DEAD] * 9, now_s=5.0) is None, "the old window counts"


@pytest.mark.parametrize("ending", [*FAILURES, Ending.OVERLOAD])
def test_a_probe_that_fails_opens_it_for_twice_as_long(breaker: Breaker, ending: Ending) -> None:
    opened(breaker)
    change = call(breaker, ending, 5.0)

    assert change is not None
    assert (change.new, change.cause) == (BreakerState.OPEN, ending)
    assert breaker.wait_s(5.0) == 10.0


def test_a_slow_probe_opens_it_again(breaker: Breaker) -> None:
    opened(breaker)
    change = call(breaker, Ending.OK, 5.0, duration_s=10.1)

    assert change is not None
    assert change.cause == "slow"


def test_the_time_that_it_is_open_has_an_upper_limit(breaker: Breaker) -> None:
    opened(breaker)
    now_s = 0.0
    waits = list[float]()
    for _ in range(2000):
        waits.append(breaker.wait_s(now_s))
        now_s += waits[-1]
        call(breaker, Ending.DEAD, now_s)

    assert waits[:5] == [5, 10, 20, 40, 40]
    assert waits[-1] == 40


def test_a_breaker_that_opens_soon_after_it_closed_opens_for_longer(breaker: Breaker) -> None:
    opened(breaker)
    call(breaker, Ending.OK, 5.0)
    opened(breaker, 6.0)

    assert breaker.wait_s(6.0) == 10.0


def test_a_breaker_that_was_closed_for_long_begins_anew(breaker: Breaker) -> None:
    opened(breaker)
    call(breaker, Ending.OK, 5.0)
    opened(breaker, 36.0)

    assert breaker.wait_s(36.0) == 5.0


def test_a_probe_that_says_nothing_lets_the_next_call_try(breaker: Breaker) -> None:
    opened(breaker)

    assert call(breaker, Ending.CLIENT, 5.0) is None
    assert breaker.state == BreakerState.HALF_OPEN
    assert call(breaker, Ending.OK, 5.0) is not None


def test_a_probe_that_is_never_heard_of_is_given_up_for_another(breaker: Breaker) -> None:
    opened(breaker)
    lost = probe(breaker, 5.0)
    assert breaker.allow(64.9) is None
    second = probe(breaker, 65.0)

    assert breaker.record(lost, Ending.DEAD, duration_s=70.0, now_s=75.0) is None
    assert breaker.state == BreakerState.HALF_OPEN
    change = breaker.record(second, Ending.OK, duration_s=1.0, now_s=75.0)
    assert change is not None
    assert change.new == BreakerState.CLOSED


def test_calls_from_before_it_opened_say_nothing_afterwards(breaker: Breaker) -> None:
    before = breaker.allow(0.0)
    assert before is not None
    opened(breaker)

    assert breaker.record(before, Ending.OK, duration_s=1.0, now_s=1.0) is None
    assert breaker.state == BreakerState.OPEN
    probe(breaker, 5.0)
    assert breaker.record(before, Ending.OK, duration_s=6.0, now_s=6.0) is None
    assert breaker.state == BreakerState.HALF_OPEN


# Any order of calls.


class Calls(RuleBasedStateMachine):
    """Calls that begin and end in any order, some of them never."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(replace(POLICY, calls_min=2))
        self.now_s = 0.0
        self.open: list[Permit] = []
        self.probe_s: float | None = None
        """When the last probe began that has not been heard of."""
        self.state = BreakerState.CLOSED

    def told(self, change: Change | None) -> None:
        if change is not None:
            assert change.old == self.state, "a change was not told"
            self.state = change.new

    @rule()
    def trip(self) -> None:
        change = self.breaker.trip("anomaly", "too many", self.now_s)
        assert (change is None) == (self.state == BreakerState.OPEN)
        self.told(change)
        self.probe_s = None

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def begin(self) -> None:
        was, wait_s = self.breaker.state, self.breaker.wait_s(self.now_s)
        permit = self.breaker.allow(self.now_s)
        assert (permit is None) == (wait_s > 0)
        if permit is None:
            return
        self.told(permit.change)
        self.open.append(permit)
        assert permit.is_probe == (was != BreakerState.CLOSED)
        if permit.is_probe:
            if self.probe_s is not None and was == BreakerState.HALF_OPEN:
                assert self.now_s >= self.probe_s + POLICY.probe_timeout_s, "two probes"
            self.probe_s = self.now_s

    @precondition(lambda self: self.open)
    @rule(data=st.data(), ending=st.sampled_from(Ending), duration_s=st.floats(0, 20))
    def end(self, data: st.DataObject, ending: Ending, duration_s: float) -> None:
        permit = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        change = self.breaker.record(permit, ending, duration_s=duration_s, now_s=self.now_s)
        self.told(change)
        assert change is None or ending != Ending.CLIENT
        if change is not None or (permit.is_probe and ending == Ending.CLIENT):
            self.probe_s = None

    @invariant()
    def every_change_was_told(self) -> None:
        assert self.breaker.state == self.state

    @invariant()
    def it_never_blocks_for_ever(self) -> None:
        longest_s = max(POLICY.open_s_max, POLICY.probe_timeout_s)
        assert self.breaker.wait_s(self.now_s) <= longest_s + 1e-6  # floats


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
