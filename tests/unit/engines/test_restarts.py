"""When an engine that died is started again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer_daemon.engines.restarts import GiveUp, Restart, Restarts
from infer_daemon.settings.schema import RestartSection

POLICY = RestartSection(
    delay_s=0.5, delay_s_max=8.0, healthy_s=10.0, deaths_max=10, window_s=900.0, starts_max=3
)


@pytest.fixture
def restarts() -> Restarts:
    """Of an engine that has not died yet."""
    return Restarts(POLICY)


def died(restarts: Restarts, now_s: float, ready_s: float = 0.0, chance: float = 1.0) -> Restart:
    restart = restarts.died(now_s, ready_s=ready_s, chance=chance)
    assert isinstance(restart, Restart), restart
    return restart


def test_the_first_restart_comes_within_half_a_second(restarts: Restarts) -> None:
    assert died(restarts, 100.0).delay_s == 0.5


def test_each_that_follows_soon_waits_twice_as_long_up_to_a_limit(restarts: Restarts) -> None:
    delays_s = [died(restarts, 10.0 * number).delay_s for number in range(7)]

    assert delays_s == [0.5, 1, 2, 4, 8, 8, 8]


def test_an_engine_that_was_ready_for_long_begins_anew(restarts: Restarts) -> None:
    for number in range(4):
        died(restarts, 10.0 * number)

    assert died(restarts, 60.0, ready_s=10.0) == Restart(0.5, 1)
    assert died(restarts, 61.0, ready_s=9.9) == Restart(1.0, 2)


def test_chance_takes_up_to_half_of_a_delay_away(restarts: Restarts) -> None:
    assert died(restarts, 0.0, chance=0.0).delay_s == 0.25
    assert died(restarts, 1.0, chance=0.5).delay_s == 0.75


def test_an_engine_that_dies_too_often_within_the_window_is_given_up(restarts: Restarts) -> None:
    for number in range(10):
        died(restarts, 30.0 * number, ready_s=20.0)

    ending = restarts.died(300.0, ready_s=20.0, chance=0.5)
    assert ending == GiveUp("died 11 times within 900 s (restart.deaths_max)")


def test_deaths_from_before_the_window_do_not_count(restarts: Restarts) -> None:
    for number in range(100):
        died(restarts, 91.0 * number, ready_s=60.0)


def test_an_engine_that_is_never_to_be_restarted_is_not() -> None:
    ending = Restarts(RestartSection(deaths_max=0)).died(5.0, ready_s=20.0, chance=0.5)

    assert ending == GiveUp("died once within 900 s (restart.deaths_max)")


def test_starts_that_fail_in_a_row_are_given_up_however_slowly_they_fail(
    restarts: Restarts,
) -> None:
    verdicts = [restarts.died(10_000.0 * number, ready_s=None, chance=1.0) for number in range(3)]

    assert verdicts == [
        Restart(0.5, 1),
        Restart(1.0, 2),
        GiveUp("could not be started 3 times (restart.starts_max)"),
    ]


def test_a_start_that_works_forgets_those_that_failed(restarts: Restarts) -> None:
    for number in range(4):
        for _ in range(2):
            verdict = restarts.died(1000.0 * number, ready_s=None, chance=1.0)
            assert isinstance(verdict, Restart)
        died(restarts, 1000.0 * number + 10)


@given(lives=st.lists(st.tuples(st.floats(0, 200), st.floats(0, 30), st.floats(0, 1)), max_size=80))
def test_no_window_ever_has_more_restarts_than_allowed(
    lives: list[tuple[float, float, float]],
) -> None:
    restarts, now_s, restarted_s = Restarts(POLICY), 0.0, list[float]()
    for pause_s, ready_s, chance in lives:
        now_s += pause_s
        ending = restarts.died(now_s, ready_s=ready_s, chance=chance)
        recent = sum(now_s - at_s <= POLICY.window_s for at_s in restarted_s)
        assert isinstance(ending, GiveUp) == (recent >= POLICY.deaths_max)
        if isinstance(ending, Restart):
            restarted_s.append(now_s)
            assert POLICY.delay_s / 2 <= ending.delay_s <= POLICY.delay_s_max
