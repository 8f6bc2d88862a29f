"""One engine's calls and its time: shares in proportion, and nothing lost in rounding."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infer_daemon.domain.jobs import JobId
from infer_daemon.ledger.shares import Shares

A, B, C = JobId("a"), JobId("b"), JobId("c")
TEN, ELEVEN = 36_000_000_000, 39_600_000_000


def test_time_is_shared_in_proportion_to_the_weights() -> None:
    shares = Shares()
    shares.enter(A, 1)
    shares.enter(B, 3)
    shares.take(1000)

    assert shares.leave(A, TEN) == [(TEN, 250)]
    assert shares.leave(B, TEN) == [(TEN, 750)]


def test_nobody_pays_for_what_was_before_it_came_or_after_it_left() -> None:
    shares = Shares()
    shares.enter(A, 1)
    shares.take(100)
    shares.enter(B, 1)
    shares.take(100)
    assert shares.leave(A, TEN) == [(TEN, 150)]
    shares.take(100)

    assert shares.leave(B, TEN) == [(TEN, 150)]


def test_another_weight_counts_from_then_on() -> None:
    shares = Shares()
    shares.enter(A, 1)
    shares.enter(B, 9)
    shares.take(100)
    shares.reweigh(B, 1)
    shares.take(100)

    assert shares.leave(A, TEN) == [(TEN, 60)]
    assert shares.leave(B, TEN) == [(TEN, 140)]


def test_what_cannot_be_divided_is_somebodys() -> None:
    shares = Shares()
    for call in (A, B, C):
        shares.enter(call, 1)
    shares.take(100)
    parts = [ns for call in (A, B, C) for _, ns in shares.leave(call, TEN)]

    assert sorted(parts) == [33, 33, 34]


def test_a_share_is_told_by_the_hours_in_which_it_was_used() -> None:
    shares = Shares()
    shares.enter(A, 1)
    shares.take(70)
    shares.end_hour(TEN)
    shares.take(30)

    assert shares.leave(A, ELEVEN) == [(TEN, 70), (ELEVEN, 30)]


def test_an_hour_in_which_a_call_had_nothing_is_not_told() -> None:
    shares = Shares()
    shares.enter(A, 1)
    shares.end_hour(TEN)

    assert shares.leave(A, ELEVEN) == []


def test_a_call_is_inside_once() -> None:
    shares = Shares()
    shares.enter(A, 1)

    with pytest.raises(AssertionError, match="already inside"):
        shares.enter(A, 1)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.integers(0, 9), st.integers(1, 1 << 24)),
        st.tuples(st.just("reweigh"), st.integers(0, 9), st.integers(1, 1 << 24)),
        st.tuples(st.just("leave"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("take"), st.just(0), st.integers(0, 1 << 40)),
        st.tuples(st.just("hour"), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(EVENTS)
def test_all_shares_of_each_hour_are_the_time_that_was_taken_in_it(
    events: list[tuple[str, int, int]],
) -> None:
    shares, inside, hour = Shares(), set[JobId](), 0
    taken, told = dict.fromkeys(range(100), 0), dict.fromkeys(range(100), 0)
    for what, number, amount in [*events, *(("leave", n, 0) for n in range(10))]:
        call = JobId(str(number))
        if what == "enter" and call not in inside:
            inside.add(call)
            shares.enter(call, amount)
        elif what == "reweigh" and call in inside:
            shares.reweigh(call, amount)
        elif what == "leave" and call in inside:
            inside.remove(call)
            for at, ns in shares.leave(call, hour):
                assert ns > 0
                told[at] += ns
        elif what == "take" and inside:
            taken[hour] += amount
            shares.take(amount)
        elif what == "hour":
            shares.end_hour(hour)
            hour += 1
        shares.check()

    assert told == taken
