"""What a batch of rows comes to."""

from infer_daemon.ledger.batch import batch_of, hours, spend
from infer_daemon.ledger.periods import HOUR_US
from tests.unit.ledger.sample import NOON_US, opening, settlement


def test_a_request_that_opens_and_settles_in_one_batch_is_written_once() -> None:
    ended = settlement("a")

    batch = batch_of([opening("a"), opening("b"), ended])

    assert batch.openings == [opening("b")]
    assert batch.settlements == {"a": ended}


def test_an_opening_that_comes_after_its_settlement_is_dropped() -> None:
    assert batch_of([settlement("a"), opening("a")]).openings == []


def test_of_two_settlements_of_a_request_the_first_counts() -> None:
    first, second = settlement("a"), settlement("a", outcome="cancelled")

    batch = batch_of([first, second])

    assert batch.settlements == {"a": first}
    assert batch.again == [second]


def test_hours_are_those_in_which_requests_came_in() -> None:
    rows = [
        settlement("a"),
        settlement("b", outcome="engine_error", waste_fallback_tokens=2, compute_ns=9),
        settlement("c", accepted_at_us=NOON_US - 1),
        settlement("d", outcome="client_error", accepted_at_us=NOON_US + HOUR_US - 1),
    ]

    assert hours(rows) == [
        (NOON_US, "acme", "chat", "interactive", 3, 1, 1, 21, 0, 15, 36, 9, 0, 2),
        (NOON_US - HOUR_US, "acme", "chat", "interactive", 1, 1, 0, 7, 0, 5, 12, 0, 0, 0),
    ]


def test_spend_goes_to_the_periods_that_the_reservation_was_made_in() -> None:
    rows = [
        settlement("a", day_start_us=1, month_start_us=0),
        settlement("b", day_start_us=2, month_start_us=0),
        settlement("c", day_start_us=None, month_start_us=None),
    ]

    assert spend(rows) == [
        ("acme", "day", 1, 12, 12),
        ("acme", "month", 0, 24, 24),
        ("acme", "day", 2, 12, 12),
    ]
