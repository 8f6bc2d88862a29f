"""Virtual token counters: who is next."""

import pytest

from infer_daemon.scheduling.fairness import Fairness


@pytest.fixture
def fairness() -> Fairness:
    """Nobody has come yet."""
    return Fairness()


def order(fairness: Fairness) -> list[str]:
    fairness.check(set(fairness.waiting))
    return [tenant for n in range(len(fairness.waiting)) if (tenant := fairness.at(n))]


def test_nobody_is_first_while_nobody_waits(fairness: Fairness) -> None:
    assert fairness.first is None
    assert fairness.at(1) is None
    assert order(fairness) == []


def test_those_who_had_the_same_go_in_order_of_arrival(fairness: Fairness) -> None:
    for tenant in "cab":
        fairness.begin(tenant)

    assert order(fairness) == ["c", "a", "b"]


def test_whoever_had_least_goes_first(fairness: Fairness) -> None:
    for tenant in "abc":
        fairness.begin(tenant)
    for tenant, service in {"a": 5.0, "b": 1.0, "c": 3.0}.items():
        fairness.charge(tenant, service)

    assert order(fairness) == ["b", "c", "a"]
    fairness.charge("b", 10.0)
    assert order(fairness) == ["c", "a", "b"]


def test_a_tenant_that_was_passed_by_keeps_its_place_among_equals(fairness: Fairness) -> None:
    for tenant in "ab":
        fairness.begin(tenant)
    for _ in range(3):
        assert order(fairness) == ["a", "b"]


def test_a_newcomer_starts_where_the_least_served_of_those_who_wait_stands(
    fairness: Fairness,
) -> None:
    for tenant in "ab":
        fairness.begin(tenant)
    fairness.charge("a", 500.0)
    fairness.charge("b", 700.0)
    fairness.begin("new")

    assert fairness.counters["new"] == 500
    assert order(fairness) == ["a", "new", "b"]


def test_a_newcomer_starts_where_the_last_one_stands_by_now_when_nobody_waits(
    fairness: Fairness,
) -> None:
    fairness.begin("a")
    fairness.end("a")
    fairness.charge("a", 900.0)
    fairness.begin("new")

    assert fairness.counters["new"] == 900


def test_whoever_had_more_than_the_others_still_has_when_it_comes_again(
    fairness: Fairness,
) -> None:
    for tenant in ("greedy", "modest"):
        fairness.begin(tenant)
    fairness.charge("greedy", 100.0)
    fairness.end("greedy")
    fairness.begin("greedy")

    assert fairness.counters == {"greedy": 100, "modest": 0}
    assert order(fairness) == ["modest", "greedy"]


def test_whoever_waits_no_more_is_skipped_and_keeps_its_counter(fairness: Fairness) -> None:
    for tenant in "abc":
        fairness.begin(tenant)
    fairness.charge("b", 3.0)
    fairness.end("b")

    assert order(fairness) == ["a", "c"]
    assert fairness.counters["b"] == 3


def test_service_may_be_charged_to_who_does_not_wait(fairness: Fairness) -> None:
    fairness.charge("runs", 4.0)
    fairness.begin("waits")

    assert fairness.counters == {"runs": 4, "waits": 0}
    assert order(fairness) == ["waits"]
