"""The retry budget, by hand; `tests/simulation/test_retries.py` has a pool of engines."""

import pytest

from infer_daemon.engines.retries import RetryBudget, RetryPolicy

POLICY = RetryPolicy(share_max=0.1, window_s=10.0, floor=3)


@pytest.fixture
def budget() -> RetryBudget:
    """Nothing has happened yet."""
    return RetryBudget(POLICY)


def succeed(budget: RetryBudget, count: int, tenant: str = "acme", engine: str = "b") -> None:
    for _ in range(count):
        budget.succeeded(tenant, engine, 0.0)


def retries(budget: RetryBudget, tenant: str = "acme", failed_on: str = "a") -> int:
    """How many it allows at the same moment."""
    return sum(budget.take(tenant, failed_on, 0.0) for _ in range(1000))


def test_a_quiet_system_may_retry_a_few_times(budget: RetryBudget) -> None:
    assert retries(budget) == 3


def test_a_busy_one_may_retry_a_tenth_of_what_succeeded(budget: RetryBudget) -> None:
    succeed(budget, 250)

    assert retries(budget) == 25


def test_what_the_failing_engine_answers_itself_earns_no_retries_on_others(
    budget: RetryBudget,
) -> None:
    succeed(budget, 1000, engine="a")
    succeed(budget, 100, engine="b")

    assert retries(budget, failed_on="a") == 10


def test_one_tenants_failures_use_up_nobody_elses_retries(budget: RetryBudget) -> None:
    succeed(budget, 50, "unlucky")
    succeed(budget, 450, "acme")

    assert retries(budget, "unlucky") == 5
    assert retries(budget, "acme") == 45


def test_all_tenants_together_stay_within_the_budget(budget: RetryBudget) -> None:
    succeed(budget, 40, "acme")

    assert sum(retries(budget, f"tenant-{number}") for number in range(20)) == 4


def test_retries_are_given_again_when_the_window_has_passed(budget: RetryBudget) -> None:
    assert retries(budget) == 3
    assert not budget.take("acme", "a", 9.0)

    assert budget.take("acme", "a", 10.0)


def test_successes_count_for_as_long_as_the_window(budget: RetryBudget) -> None:
    succeed(budget, 1000)

    assert [budget.take("acme", "a", 10.0) for _ in range(4)] == [True, True, True, False]


def test_tenants_that_do_nothing_are_forgotten_and_the_others_are_not(budget: RetryBudget) -> None:
    succeed(budget, 100, "gone")
    budget.succeeded("here", "b", 9.0)
    budget.tidy(11.0)

    assert list(budget._tenants) == ["here"]
