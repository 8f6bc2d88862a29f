"""Rates and places by hand: time is a number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer_daemon.admission.appointments import EARLY_S, Visitor
from infer_daemon.admission.rates import SLACK, Places, Rate

ANYBODY = Visitor("acme", 1)


def visitor(number: int) -> Visitor:
    return Visitor("acme", number)


def test_a_minutes_worth_may_be_used_at_once_and_not_one_more() -> None:
    rate = Rate(60, 0.0)
    let_in = [rate.reserve(1, visitor(n), 0.0) is None for n in range(61)]

    assert let_in == [True] * 60 + [False]


def test_what_was_used_flows_back_without_steps() -> None:
    rate = Rate(60, 0.0)
    rate.reserve(60, ANYBODY, 0.0)

    assert rate.left(0.5) == pytest.approx(0.5)
    assert rate.left(30.0) == pytest.approx(30)
    assert rate.left(90.0) == pytest.approx(60)


def test_the_wait_that_is_told_is_the_time_until_enough_is_there() -> None:
    rate = Rate(600, 0.0)
    assert rate.reserve(600, visitor(1), 0.0) is None
    wait_s = rate.reserve(30, visitor(2), 0.0)

    assert wait_s == pytest.approx(3.0 + EARLY_S)
    assert rate.reserve(30, visitor(2), wait_s) is None


def test_each_who_is_refused_is_told_a_later_time_and_is_let_in_then() -> None:
    rate = Rate(60, 0.0)
    rate.reserve(60, ANYBODY, 0.0)
    waits_s = [rate.reserve(1, visitor(n), 0.0) for n in range(10)]

    assert waits_s == pytest.approx([1.0 * (n + 1) + EARLY_S for n in range(10)])
    for number, wait_s in enumerate(waits_s):
        assert wait_s is not None
        assert rate.reserve(1, visitor(number), wait_s) is None


def test_what_is_free_when_somebody_is_due_is_kept_from_those_who_come_later() -> None:
    rate = Rate(60, 0.0)
    rate.reserve(60, ANYBODY, 0.0)
    assert rate.reserve(1, visitor(1), 0.0) == pytest.approx(1.0 + EARLY_S)

    assert rate.reserve(1, visitor(2), 1.01) is not None
    assert rate.reserve(1, visitor(1), 1.02) is None


def test_whoever_asks_again_too_early_is_told_the_same_time() -> None:
    rate = Rate(60, 0.0)
    rate.reserve(60, ANYBODY, 0.0)
    assert rate.reserve(1, visitor(1), 0.0) == pytest.approx(1.0 + EARLY_S)

    assert rate.reserve(1, visitor(1), 0.4) == pytest.approx(0.6 + EARLY_S)


def test_more_than_a_minutes_worth_is_let_in_once_all_is_left_and_owed_afterwards() -> None:
    rate = Rate(100, 0.0)
    assert rate.reserve(250, visitor(1), 0.0) is None
    wait_s = rate.reserve(10, visitor(2), 0.0)

    assert rate.left(0.0) == -150
    assert wait_s == pytest.approx((150 + 10) * 0.6 + EARLY_S)
    assert rate.reserve(10, visitor(2), wait_s) is None


def test_prompts_above_the_limit_stay_within_it_in_the_long_run() -> None:
    rate = Rate(10_000, 0.0)
    used = sum(rate.reserve(30_000, ANYBODY, 1.0 * s) is None for s in range(3600)) * 30_000

    assert 0.9 * 60 * 10_000 <= used <= 61 * 10_000 + 20_000


def test_all_of_what_was_taken_is_put_back() -> None:
    rate = Rate(100, 0.0)
    assert rate.reserve(250, visitor(1), 0.0) is None
    rate.put_back(250, 0.0)

    assert rate.left(0.0) == 100


def test_a_reload_makes_no_debt_deeper() -> None:
    rate = Rate(100, 0.0)
    rate.reserve(250, ANYBODY, 0.0)
    rate.change(10, 0.0)
    assert rate.left(0.0) == -150

    rate.change(300, 0.0)
    assert rate.left(0.0) == 140


def test_parts_of_one_request_are_let_in_like_one_that_is_as_large() -> None:
    rate = Rate(100, 0.0)
    parts = [rate.reserve(30, visitor(1), 0.0, already=30 * n) for n in range(10)]

    assert parts == [None] * 10
    assert rate.left(0.0) == -200


def test_parts_of_a_request_that_has_come_as_told_are_not_held_up_by_others_who_were() -> None:
    rate = Rate(100, 0.0)
    rate.reserve(100, ANYBODY, 0.0)
    first_s = rate.reserve(30, visitor(1), 0.0)
    assert first_s is not None
    assert rate.reserve(1, visitor(2), 0.0) is not None

    now_s = first_s + 1
    assert rate.reserve(30, visitor(1), now_s) is None
    assert rate.reserve(1, visitor(1), now_s, already=30) is None


def test_a_clock_that_goes_back_neither_gives_nor_takes() -> None:
    rate = Rate(60, 100.0)
    rate.reserve(60, ANYBODY, 100.0)

    assert rate.left(50.0) == 0
    assert rate.left(101.0) == pytest.approx(1.0)


def test_a_new_limit_leaves_used_what_was_used() -> None:
    rate = Rate(60, 0.0)
    rate.reserve(50, ANYBODY, 0.0)
    rate.change(100, 0.0)

    assert rate.left(0.0) == pytest.approx(50)


def test_a_lowered_limit_locks_nobody_out_for_what_was_used_before() -> None:
    rate = Rate(100_000, 0.0)
    rate.reserve(90_000, ANYBODY, 0.0)
    rate.change(100, 0.0)

    assert rate.left(0.0) == 0
    assert rate.reserve(50, ANYBODY, 30.0) is None


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(1, 30), st.booleans()), max_size=60))
def test_never_more_than_the_limit_and_what_flowed_back_is_used(
    steps: list[tuple[float, int, bool]],
) -> None:
    rate, now_s, used = Rate(60, 0.0), 0.0, 0.0
    for number, (pause_s, amount, gives_back) in enumerate(steps):
        now_s += pause_s
        if rate.reserve(amount, visitor(number), now_s) is None:
            used += amount
            if gives_back:
                rate.put_back(amount / 2, now_s)
                used -= amount / 2

        assert used <= 60 + now_s + 1e-6


def test_places_are_taken_until_none_is_left() -> None:
    places = Places(2)

    assert [places.take(visitor(n), 0.0) is None for n in range(3)] == [True, True, False]
    places.leave(1.0, 0.0)
    assert places.taken == 1


def test_a_place_that_is_free_when_somebody_is_due_is_kept() -> None:
    places = Places(1)
    places.take(visitor(1), 0.0)
    wait_s = places.take(visitor(2), 0.0)
    assert wait_s is not None
    places.leave(wait_s, 0.0)

    assert places.take(visitor(3), wait_s) is not None
    assert places.take(visitor(2), wait_s) is None


def test_a_place_is_kept_for_a_while_only() -> None:
    places = Places(1)
    places.take(visitor(1), 0.0)
    wait_s = places.take(visitor(2), 0.0)
    assert wait_s is not None
    places.leave(1.0, 0.0)

    assert places.take(visitor(3), wait_s + 10) is None


def test_a_place_that_will_be_free_again_in_time_is_given_to_whoever_comes() -> None:
    places = Places(1)
    for _ in range(100):  # it learns that a place is taken for 0.1 s
        places.take(visitor(1), 0.0)
        places.leave(0.1, 0.0)
    places.take(visitor(1), 10.0)
    waits_s = [places.take(visitor(n), 10.0) for n in range(2, 12)]
    places.leave(10.05, 10.0)
    last_s = waits_s[-1]
    assert last_s is not None
    assert last_s > 1.0

    assert places.take(visitor(99), 10.08) is not None  # the first is due before that
    for number in range(2, 11):
        due_s = 10.0 + (waits_s[number - 2] or 0)
        assert places.take(visitor(number), due_s) is None
        places.leave(due_s + 0.01, due_s)


def test_waits_follow_the_pace_at_which_a_queue_gets_shorter() -> None:
    places = Places(10, is_queue=True)
    now_s = 0.0
    for number in range(10):
        places.take(visitor(number), now_s)
    for number in range(300):
        now_s += 0.4 * (number % 2)  # two at a time
        places.leave(now_s, now_s - 2)
        places.take(visitor(number), now_s)
    waits_s = [places.take(visitor(1000 + n), now_s) for n in range(5)]

    expected_s = [0.2 * SLACK * (n + 1) + EARLY_S for n in range(5)]
    assert waits_s == pytest.approx(expected_s, rel=0.05)


def test_a_lowered_limit_puts_nobody_out() -> None:
    places = Places(3)
    for number in range(3):
        places.take(visitor(number), 0.0)
    places.limit = 1
    places.leave(1.0, 0.0)

    assert places.take(visitor(9), 1.0) is not None
    assert places.taken == 2


@pytest.mark.parametrize("is_queue", [True, False])
def test_places_of_those_who_were_refused_elsewhere_teach_nothing(is_queue: bool) -> None:
    def told_s(refused: int) -> float | None:
        places = Places(2, is_queue=is_queue)
        for number in range(20):
            places.take(visitor(number), 10.0 * number)
            places.take(visitor(-number), 10.0 * number)
            for _ in range(refused):
                places.give_back()
                places.take(visitor(number), 10.0 * number)
            places.leave(10.0 * number + 4, 10.0 * number)
            places.leave(10.0 * number + 8, 10.0 * number)
        for number in range(2):
            places.take(visitor(number), 1000.0)
        return places.take(visitor(99), 1000.0)

    assert told_s(refused=50) == told_s(refused=0)
