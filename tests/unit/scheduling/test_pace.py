"""How fast waiting work is done."""

import pytest

from infer_daemon.scheduling.pace import MEMORY_S, Pace


@pytest.fixture
def pace() -> Pace:
    """Nothing has been seen yet."""
    return Pace()


def work(pace: Pace, seconds: float, per_s: float, start_s: float = 0.0) -> float:
    """Steady work in front of a queue, ten times a second; the time at which it ended."""
    for tenth in range(round(seconds * 10) + 1):
        pace.note(per_s / 10, start_s + tenth / 10, is_backlogged=True)
    return start_s + seconds


def test_nothing_is_known_at_first(pace: Pace) -> None:
    assert pace.service_per_s is None


def test_a_moment_is_not_enough_to_know(pace: Pace) -> None:
    work(pace, 0.9, 500.0)
    assert pace.service_per_s is None

    work(pace, 0.2, 500.0, start_s=1.0)
    assert pace.service_per_s is not None


def test_steady_work_is_measured(pace: Pace) -> None:
    work(pace, 60, 500.0)

    assert pace.service_per_s == pytest.approx(500, rel=0.02)


def test_the_last_seconds_count_most(pace: Pace) -> None:
    end_s = work(pace, 60, 500.0)
    work(pace, 3 * MEMORY_S, 100.0, start_s=end_s)

    assert pace.service_per_s == pytest.approx(100, rel=0.25)


def test_what_is_done_while_nobody_waits_says_nothing(pace: Pace) -> None:
    end_s = work(pace, 60, 500.0)
    for second in range(100):
        pace.note(1.0, end_s + second, is_backlogged=False)
    work(pace, 1, 500.0, start_s=end_s + 1000)

    assert pace.service_per_s == pytest.approx(500, rel=0.05)


def test_a_clock_that_stands_still_or_goes_back_is_no_time(pace: Pace) -> None:
    end_s = work(pace, 60, 500.0)
    known = pace.service_per_s
    pace.note(0.0, end_s, is_backlogged=True)
    pace.note(0.0, end_s - 5, is_backlogged=True)

    assert pace.service_per_s == known


def test_a_clock_that_jumps_by_a_day_is_forgotten_like_any_pause(pace: Pace) -> None:
    end_s = work(pace, 60, 500.0)
    work(pace, 3 * MEMORY_S, 500.0, start_s=end_s + 86_400)

    assert pace.service_per_s == pytest.approx(500, rel=0.1)


def test_what_a_sequence_needs_for_a_token_is_measured_while_others_wait(pace: Pace) -> None:
    assert pace.output_token_s is None
    for _ in range(10):
        pace.went_on(1, 0.05, is_backlogged=True)
        pace.went_on(3, 0.15, is_backlogged=True)
        pace.went_on(1, 9.0, is_backlogged=False)

    assert pace.output_token_s == pytest.approx(0.05)


def test_what_tokens_took_long_ago_counts_for_little(pace: Pace) -> None:
    for tenth in range(600):
        gap_s = 0.5 if tenth < 300 else 0.1
        pace.note(1.0, tenth / 10, is_backlogged=True)
        pace.went_on(1, gap_s, is_backlogged=True)

    assert pace.output_token_s == pytest.approx(0.1, rel=0.3)
