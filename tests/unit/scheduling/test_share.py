"""What batch work is owed."""

from math import inf

import pytest

from infer_daemon.scheduling.share import CREDIT_MAX, MinimumShare
from infer_daemon.scheduling.window import Level


@pytest.fixture
def share() -> MinimumShare:
    """Nobody owes anything."""
    return MinimumShare()


def test_nothing_is_owed_at_first(share: MinimumShare) -> None:
    assert not share.is_owed


def test_the_service_of_others_makes_a_debt_and_batch_pays_for_it(share: MinimumShare) -> None:
    share.others_served(900.0, 0.1)
    assert share.is_owed

    share.take(100.0, 0.1)
    assert not share.is_owed
    share.others_served(1.0, 0.1)
    assert share.is_owed


def test_what_was_paid_too_much_comes_back_in_the_end(share: MinimumShare) -> None:
    paid = share.take(100.0, 0.5)
    share.settle(paid, 100.0, 0.5)
    assert not share.is_owed
    share.others_served(100.5, 0.5)
    assert share.is_owed

    again = share.take(200.0, 0.5)
    assert not share.is_owed
    share.settle(again, 0.0, 0.5)
    assert share.is_owed


def test_without_a_minimum_nothing_is_ever_owed(share: MinimumShare) -> None:
    share.others_served(1e9, 0.0)

    assert not share.is_owed


def test_what_is_owed_for_long_goes_as_far_as_a_newcomer(share: MinimumShare) -> None:
    share.others_served(CREDIT_MAX / 2, 1.0)
    assert share.level is Level.ORDINARY

    share.others_served(1.0, 1.0)
    assert share.level is Level.NEWCOMER


def test_neither_side_saves_up_without_end(share: MinimumShare) -> None:
    share.take(1e9, 0.5)
    share.others_served(2 * CREDIT_MAX + 1, 0.5)
    assert share.is_owed

    share.others_served(1e9, 0.5)
    share.take(2 * CREDIT_MAX, 0.5)
    assert not share.is_owed


def test_others_go_before_batch_work_until_it_is_owed_again(share: MinimumShare) -> None:
    assert share.others_before(100.0, 0.1) == pytest.approx(900.0)
    share.others_served(900.0, 0.1)
    assert share.others_before(100.0, 0.1) == pytest.approx(0.0)
    assert share.others_before(200.0, 0.1) == pytest.approx(900.0)
    assert share.others_before(50.0, 0.1) == 0.0
    assert share.others_before(100.0, 0.0) == inf
