"""Counts over a sliding window, by hand and against a list of everything."""

from hypothesis import given
from hypothesis import strategies as st

from infer_daemon.engines.recent import BUCKETS, Recent

WINDOW_S = 16.0
BUCKET_S = WINDOW_S / BUCKETS


def test_nothing_was_counted_at_first() -> None:
    recent = Recent(WINDOW_S)

    assert recent.total(100.0) == 0
    assert recent.counts(100.0) == {}


def test_what_is_older_than_the_window_is_forgotten() -> None:
    recent = Recent(WINDOW_S)
    recent.add("a", 0.0)
    recent.add("b", 8.0)

    assert recent.counts(15.9) == {"a": 1, "b": 1}
    assert recent.counts(16.0) == {"b": 1}
    assert recent.counts(1000.0) == {}


def test_a_clock_that_steps_back_loses_nothing() -> None:
    recent = Recent(WINDOW_S)
    recent.add("a", 10.0)
    recent.add("a", 3.0)

    assert recent.counts(10.0) == {"a": 2}


def test_clearing_forgets_everything() -> None:
    recent = Recent(WINDOW_S)
    recent.add("a", 1.0)
    recent.clear()

    assert recent.total(1.0) == 0


def test_a_million_counts_take_no_more_room_than_the_buckets() -> None:
    recent = Recent(WINDOW_S)
    for number in range(100_000):
        recent.add("a", number * 0.01)

    assert len(recent._buckets) <= BUCKETS


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 40, allow_nan=False), st.sampled_from("ab")), max_size=60
    ),
    rest_s=st.floats(0, 40),
)
def test_what_is_known_is_the_window_to_within_a_bucket(
    steps: list[tuple[float, str]], rest_s: float
) -> None:
    recent, now_s, seen = Recent(WINDOW_S), 0.0, list[float]()
    for step_s, name in steps:
        now_s += step_s
        recent.add(name, now_s)
        seen.append(now_s)
    now_s += rest_s

    surely = sum(now_s - at_s < WINDOW_S - BUCKET_S for at_s in seen)
    perhaps = sum(now_s - at_s <= WINDOW_S for at_s in seen)
    assert surely <= recent.total(now_s) <= perhaps
