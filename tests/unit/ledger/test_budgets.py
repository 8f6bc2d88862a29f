"""Budgets by hand."""

import sys
import threading
from datetime import UTC, datetime

import pytest

from infer_daemon.ledger.accounts import PERIODS_MAX, Budget, Unit
from infer_daemon.ledger.budgets import (
    STEP_BACK_MAX_US,
    Budgets,
    Exhausted,
    Reservation,
    Spend,
    Standing,
)
from infer_daemon.ledger.periods import DAY_US, Period, period_end, period_starts

SECOND_US = 1_000_000


def at(text: str) -> int:
    """Microseconds since the epoch."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND_US


NOON = at("2026-03-14T12:00:00")
MIDNIGHT = at("2026-03-15T00:00:00")
APRIL = at("2026-04-01T00:00:00")


def daily(limit: int, *, unit: Unit = Unit.TOKENS, is_hard: bool = True) -> Budget:
    return Budget(period=Period.DAY, unit=unit, limit=limit, is_hard=is_hard)


def monthly(limit: int, *, unit: Unit = Unit.TOKENS, is_hard: bool = True) -> Budget:
    return Budget(period=Period.MONTH, unit=unit, limit=limit, is_hard=is_hard)


def of_acme(*limits: Budget) -> Budgets:
    return Budgets({"acme": limits})


def let_in(budgets: Budgets, tokens: int, now_us: int = NOON, nano_usd: int = 0) -> Reservation:
    reservation = budgets.reserve("acme", tokens, nano_usd, now_us)
    assert isinstance(reservation, Reservation), reservation
    return reservation


def refused(budgets: Budgets, tokens: int, now_us: int = NOON, nano_usd: int = 0) -> Exhausted:
    refusal = budgets.reserve("acme", tokens, nano_usd, now_us)
    assert isinstance(refusal, Exhausted), refusal
    return refusal


def used(
    budgets: Budgets, now_us: int, period: Period = Period.DAY, unit: Unit = Unit.TOKENS
) -> int:
    return standing(budgets, now_us, period, unit).used


def standing(
    budgets: Budgets, now_us: int, period: Period = Period.DAY, unit: Unit = Unit.TOKENS
) -> Standing:
    rows = budgets.snapshot("acme", now_us)
    return next(row for row in rows if (row.period, row.unit) == (period, unit))


# Letting in.


def test_of_two_hundred_at_once_a_budget_for_a_hundred_lets_in_a_hundred() -> None:
    budgets = of_acme(daily(100 * 50))
    answers = [budgets.reserve("acme", 50, 0, NOON) for _ in range(200)]
    reservations = [answer for answer in answers if isinstance(answer, Reservation)]
    for reservation in reservations:
        budgets.settle(reservation, 50, 0, NOON)

    assert len(reservations) == 100
    assert used(budgets, NOON) == 5000


def test_those_who_use_less_than_they_reserved_make_room_for_others() -> None:
    budgets = of_acme(daily(100))
    first = let_in(budgets, 100)
    refused(budgets, 1)
    budgets.settle(first, 30, 0, NOON)

    let_in(budgets, 70)
    refused(budgets, 1)


def test_one_request_may_reserve_more_than_is_left_and_then_nobody_is_let_in() -> None:
    budgets = of_acme(daily(100))
    let_in(budgets, 99)
    too_large = let_in(budgets, 1000)
    refused(budgets, 1)
    budgets.settle(too_large, 0, 0, NOON)

    let_in(budgets, 1)


def test_a_request_that_is_given_up_leaves_nothing_behind() -> None:
    budgets = of_acme(daily(100))
    budgets.release(let_in(budgets, 100))

    let_in(budgets, 100)
    assert used(budgets, NOON) == 0


def test_a_reservation_is_given_back_once_however_often_it_is_released() -> None:
    budgets = of_acme(daily(100))
    let_in(budgets, 60)
    second = let_in(budgets, 40)
    budgets.settle(second, 40, 0, NOON)
    budgets.release(second)
    budgets.release(second)

    assert standing(budgets, NOON).reserved == 60
    refused(budgets, 1)


def test_settling_twice_is_a_mistake_of_ours() -> None:
    budgets = of_acme(daily(100))
    reservation = let_in(budgets, 10)
    budgets.settle(reservation, 10, 0, NOON)

    with pytest.raises(AssertionError, match="not open"):
        budgets.settle(reservation, 10, 0, NOON)
    assert used(budgets, NOON) == 10


def test_equal_requests_have_reservations_of_their_own() -> None:
    budgets = of_acme(daily(100))
    first, second = let_in(budgets, 10), let_in(budgets, 10)
    budgets.release(first)
    budgets.settle(second, 10, 0, NOON)

    assert standing(budgets, NOON).reserved == 0


def test_a_budget_of_nothing_lets_nobody_in() -> None:
    refused(of_acme(daily(0)), 1)


def test_who_has_no_budget_is_let_in_and_counted() -> None:
    budgets = Budgets({})
    budgets.settle(let_in(budgets, 10**12, nano_usd=5), 10**12, 5, NOON)

    assert used(budgets, NOON) == 10**12
    assert used(budgets, NOON, Period.MONTH, Unit.NANO_USD) == 5


def test_tenants_do_not_share() -> None:
    budgets = Budgets({"acme": [daily(10)], "globex": [daily(10)]})
    let_in(budgets, 10)
    refused(budgets, 1)

    assert isinstance(budgets.reserve("globex", 10, 0, NOON), Reservation)


def test_a_free_model_stays_open_to_those_who_have_spent_their_dollars() -> None:
    budgets = of_acme(daily(100, unit=Unit.NANO_USD))
    budgets.settle(let_in(budgets, 5, nano_usd=100), 5, 130, NOON)

    refused(budgets, 5, nano_usd=1)
    let_in(budgets, 5, nano_usd=0)


# Learning what it takes.


def test_of_those_who_come_together_too_many_may_reserve_but_not_amend() -> None:
    budgets = of_acme(daily(100))
    came = [let_in(budgets, 1) for _ in range(9)]
    answers = [budgets.amend(one, 40, 0, NOON) for one in came]

    # Two fit, the third finds some of the budget left; the rest may go when they are released.
    assert [answer is None for answer in answers] == [True] * 3 + [False] * 6
    for one in came[3:]:
        budgets.release(one)
    assert standing(budgets, NOON).reserved == 120


def test_a_request_that_needs_less_than_it_reserved_is_never_refused_for_it() -> None:
    budgets = of_acme(daily(100))
    large = let_in(budgets, 99)
    let_in(budgets, 99)

    assert budgets.amend(large, 98, 0, NOON) is None


def test_a_request_that_is_alone_is_not_in_its_own_way() -> None:
    budgets = of_acme(daily(100), daily(10, unit=Unit.NANO_USD))
    first = let_in(budgets, 100, nano_usd=10)
    assert budgets.amend(first, 200, 20, NOON) is None

    budgets.settle(first, 100, 10, NOON)
    assert refused(budgets, 1).is_used_up


def test_a_request_that_is_over_learns_nothing_more() -> None:
    budgets = of_acme(daily(100))
    first = let_in(budgets, 10)
    budgets.amend(first, 20, 0, NOON)
    assert standing(budgets, NOON).reserved == 20
    budgets.release(first)

    assert standing(budgets, NOON).reserved == 0
    with pytest.raises(AssertionError, match="not open"):
        budgets.amend(first, 20, 0, NOON)


# Refusing.


def test_a_refusal_names_the_budget_and_when_it_starts_anew() -> None:
    budgets = of_acme(daily(10), monthly(1000, unit=Unit.NANO_USD))
    budgets.settle(let_in(budgets, 10, nano_usd=1), 10, 1, NOON)

    assert refused(budgets, 1, nano_usd=1) == Exhausted(
        Period.DAY, Unit.TOKENS, 10, MIDNIGHT, is_used_up=True
    )


def test_of_several_budgets_that_are_used_up_the_refusal_names_the_last_to_start_anew() -> None:
    budgets = of_acme(daily(10), monthly(10))
    budgets.settle(let_in(budgets, 10), 10, 0, NOON)

    assert refused(budgets, 1).resets_at_us == APRIL


def test_a_budget_that_is_only_held_by_running_requests_is_not_called_used_up() -> None:
    budgets = of_acme(monthly(100), daily(50))
    running = let_in(budgets, 100)

    assert not refused(budgets, 1).is_used_up
    budgets.settle(running, 50, 0, NOON)
    assert refused(budgets, 1) == Exhausted(Period.DAY, Unit.TOKENS, 50, MIDNIGHT, is_used_up=True)


def test_a_budget_that_is_used_up_is_named_before_one_that_is_only_held() -> None:
    budgets = of_acme(monthly(120), daily(50))
    first, second = let_in(budgets, 30), let_in(budgets, 90)
    budgets.settle(first, 50, 0, NOON)

    assert refused(budgets, 1).period is Period.DAY
    budgets.release(second)


def test_a_soft_budget_refuses_nobody_and_says_by_how_much_it_is_passed() -> None:
    budgets = of_acme(daily(10, is_hard=False), daily(1000))
    budgets.settle(let_in(budgets, 10), 10, 0, NOON)
    assert budgets.warnings("acme", NOON) == []
    budgets.settle(let_in(budgets, 10), 7, 0, NOON)

    assert [(row.limit, row.over) for row in budgets.warnings("acme", NOON)] == [(10, 7)]
    assert budgets.warnings("acme", MIDNIGHT) == []
    assert budgets.warnings("nobody", NOON) == []


def test_a_hard_budget_is_passed_when_it_is_used_up_and_a_soft_one_when_it_is_overspent() -> None:
    budgets = of_acme(daily(10), daily(10, is_hard=False), monthly(11))
    assert budgets.passed("acme", NOON) == []
    budgets.settle(let_in(budgets, 10), 10, 0, NOON)
    assert [row.is_hard for row in budgets.passed("acme", NOON)] == [True]
    assert budgets.passed("acme", NOON) == [standing(budgets, NOON)]

    budgets.settle(budgets.reserve("acme", 0, 1, NOON), 1, 0, NOON)  # type: ignore[arg-type]
    assert [(row.period, row.is_hard) for row in budgets.passed("acme", NOON)] == [
        (Period.DAY, True), (Period.DAY, False), (Period.MONTH, True),
    ]  # fmt: skip
    assert budgets.passed("acme", MIDNIGHT) == [standing(budgets, MIDNIGHT, Period.MONTH)]


def test_a_hard_budget_that_one_request_overshot_is_no_warning() -> None:
    budgets = of_acme(daily(10))
    budgets.settle(let_in(budgets, 50), 50, 0, NOON)

    assert standing(budgets, NOON).over == 40
    assert budgets.warnings("acme", NOON) == []


def test_other_limits_keep_what_is_used_and_reserved() -> None:
    budgets = of_acme(daily(100))
    budgets.settle(let_in(budgets, 60), 60, 0, NOON)
    let_in(budgets, 20)
    budgets.change({"acme": [daily(80), monthly(10**6)]})
    refused(budgets, 1)
    budgets.change({"acme": [daily(81), monthly(10**6)]})

    let_in(budgets, 1)
    assert used(budgets, NOON, Period.MONTH) == 60


def test_a_snapshot_says_where_a_tenant_stands_also_without_a_budget() -> None:
    budgets = of_acme(daily(100), monthly(5, unit=Unit.NANO_USD, is_hard=False))
    budgets.settle(let_in(budgets, 60, nano_usd=9), 50, 8, NOON)
    let_in(budgets, 20, nano_usd=2)
    march = at("2026-03-01T00:00:00")
    today = at("2026-03-14T00:00:00")

    assert budgets.snapshot("acme", NOON) == [
        Standing(Period.DAY, Unit.TOKENS, today, MIDNIGHT, 50, 20, 100, True),
        Standing(Period.DAY, Unit.NANO_USD, today, MIDNIGHT, 8, 2, None, False),
        Standing(Period.MONTH, Unit.TOKENS, march, APRIL, 50, 20, None, False),
        Standing(Period.MONTH, Unit.NANO_USD, march, APRIL, 8, 2, 5, False),
    ]
    assert [row.used for row in budgets.snapshot("nobody", NOON)] == [0, 0, 0, 0]


# Periods.


@pytest.mark.parametrize(
    ("now", "day", "month", "next_month"),
    [
        ("2026-03-14T12:00:00", "2026-03-14", "2026-03-01", "2026-04-01"),
        ("2026-03-31T23:59:59", "2026-03-31", "2026-03-01", "2026-04-01"),
        ("2026-04-01T00:00:00", "2026-04-01", "2026-04-01", "2026-05-01"),
        ("2026-12-31T23:59:59", "2026-12-31", "2026-12-01", "2027-01-01"),
        ("2028-02-29T01:00:00", "2028-02-29", "2028-02-01", "2028-03-01"),
        ("1970-01-01T00:00:00", "1970-01-01", "1970-01-01", "1970-02-01"),
    ],
)
def test_days_and_months_begin_at_midnight_of_utc(
    now: str, day: str, month: str, next_month: str
) -> None:
    assert period_starts(at(now)) == (at(day), at(month))
    assert period_end(Period.DAY, at(now)) == at(day) + DAY_US
    assert period_end(Period.MONTH, at(now)) == at(next_month)


def test_the_last_microsecond_of_a_day_is_of_that_day() -> None:
    assert period_starts(MIDNIGHT - 1)[0] == MIDNIGHT - DAY_US
    assert period_starts(MIDNIGHT)[0] == MIDNIGHT


def test_at_midnight_a_daily_budget_starts_anew_and_a_monthly_goes_on() -> None:
    budgets = of_acme(daily(100), monthly(150))
    budgets.settle(let_in(budgets, 100, MIDNIGHT - 1), 100, 0, MIDNIGHT - 1)
    refused(budgets, 1, MIDNIGHT - 1)

    budgets.settle(let_in(budgets, 50, MIDNIGHT), 50, 0, MIDNIGHT)
    assert refused(budgets, 1, MIDNIGHT).period is Period.MONTH
    let_in(budgets, 100, APRIL)


def test_a_request_over_midnight_is_charged_to_the_new_day_and_reserves_in_it() -> None:
    budgets = of_acme(daily(100))
    running = let_in(budgets, 100, MIDNIGHT - 1)
    assert standing(budgets, MIDNIGHT).reserved == 100
    refused(budgets, 1, MIDNIGHT)

    starts = budgets.settle(running, 80, 0, MIDNIGHT + 1)
    assert starts == (MIDNIGHT, at("2026-03-01"))
    assert used(budgets, MIDNIGHT + 1) == 80
    let_in(budgets, 20, MIDNIGHT + 1)
    refused(budgets, 1, MIDNIGHT + 1)


def test_a_clock_that_is_set_back_over_midnight_does_not_charge_a_day_that_is_full() -> None:
    budgets = of_acme(daily(100))
    budgets.settle(let_in(budgets, 100, MIDNIGHT - 2), 100, 0, MIDNIGHT - 2)
    running = let_in(budgets, 100, MIDNIGHT)

    starts = budgets.settle(running, 100, 0, MIDNIGHT - 1)
    assert starts[0] == MIDNIGHT
    refused(budgets, 1, MIDNIGHT - 1)
    refused(budgets, 1, MIDNIGHT)
    assert used(budgets, MIDNIGHT + STEP_BACK_MAX_US) == 100


def test_a_clock_that_was_far_ahead_finds_today_as_it_was_left() -> None:
    budgets = of_acme(daily(100))
    budgets.settle(let_in(budgets, 70), 70, 0, NOON)
    wrong = NOON + 4000 * DAY_US
    budgets.settle(let_in(budgets, 100, wrong), 100, 0, wrong)
    refused(budgets, 1, wrong)

    assert used(budgets, NOON) == 70
    let_in(budgets, 30, NOON)
    refused(budgets, 1, NOON)


def test_who_reads_from_another_thread_never_finds_less_than_before() -> None:
    budgets, seen, is_over = of_acme(daily(10**9)), [0], threading.Event()

    def read() -> None:
        while not is_over.is_set():
            seen.append(used(budgets, NOON))

    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(20_000):
            budgets.settle(let_in(budgets, 1), 1, 0, NOON)
    finally:
        is_over.set()
        reader.join()
        sys.setswitchinterval(before_s)

    assert seen == sorted(seen)


def test_budgets_survive_a_restart() -> None:
    month = at("2026-03-01")
    rows = [
        Spend("acme", Period.DAY, MIDNIGHT, 60, 6),
        Spend("acme", Period.MONTH, month, 90, 9),
        *(Spend("acme", Period.DAY, MIDNIGHT - ago * DAY_US, 30, 3) for ago in range(1, 9)),
    ]
    budgets = Budgets({"acme": [daily(100)]}, rows)

    assert used(budgets, MIDNIGHT) == 60
    assert used(budgets, MIDNIGHT, Period.MONTH, Unit.NANO_USD) == 9
    let_in(budgets, 40, MIDNIGHT)
    refused(budgets, 1, MIDNIGHT)


def test_a_clock_that_is_set_back_during_a_restart_stays_in_the_newest_day() -> None:
    budgets = Budgets({"acme": [daily(100)]}, [Spend("acme", Period.DAY, MIDNIGHT, 100, 0)])

    refused(budgets, 1, MIDNIGHT - 1)


def test_old_periods_are_forgotten_and_the_newest_never() -> None:
    budgets = Budgets({})
    for day in range(100):
        now_us = NOON + day * DAY_US
        budgets.settle(let_in(budgets, 1, now_us), 1, 0, now_us)
        assert used(budgets, now_us) == 1

    assert max(len(starts) for starts in budgets._accounts["acme"].used.values()) <= PERIODS_MAX


def test_what_is_charged_now_and_then_is_not_forgotten_for_what_a_wrong_clock_has_touched() -> None:
    budgets = Budgets({})
    for jump in range(1, 9):
        wrong = NOON + jump * 400 * DAY_US
        for now_us in (NOON, wrong):
            budgets.settle(let_in(budgets, 1, now_us), 1, 0, now_us)

    assert used(budgets, NOON) == used(budgets, NOON, Period.MONTH) == 8


def test_a_reservation_that_was_lost_is_found() -> None:
    budgets = of_acme(daily(10))
    let_in(budgets, 5)
    budgets.check()
    budgets._open.clear()

    with pytest.raises(AssertionError, match="acme"):
        budgets.check()
