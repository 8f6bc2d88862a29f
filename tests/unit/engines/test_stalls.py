"""When an engine that is alive counts as dead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer_daemon.engines.stalls import StallWatch


@pytest.fixture
def watch() -> StallWatch:
    """Of an engine without work, which may take 30 s for a step."""
    return StallWatch(30.0)


def test_an_engine_without_work_never_stalls(watch: StallWatch) -> None:
    assert watch.due_s is None
    assert not watch.is_stalled(1e9)


def test_an_engine_with_work_stalls_when_no_step_comes(watch: StallWatch) -> None:
    watch.began(100.0)

    assert watch.due_s == 130.0
    assert not watch.is_stalled(129.9)
    assert watch.is_stalled(130.0)
    assert watch.reason(130.5) == "no step for 30.5 s with 1 call in flight"


def test_each_step_gives_it_the_whole_time_again(watch: StallWatch) -> None:
    watch.began(100.0)
    watch.stepped(129.0)

    assert not watch.is_stalled(158.9)
    assert watch.is_stalled(159.0)


def test_more_work_does_not_give_a_stalled_engine_more_time(watch: StallWatch) -> None:
    watch.began(100.0)
    watch.began(125.0)

    assert watch.due_s == 130.0
    assert watch.reason(130.0) == "no step for 30.0 s with 2 calls in flight"


def test_the_time_without_work_does_not_count(watch: StallWatch) -> None:
    watch.began(100.0)
    watch.ended()
    assert not watch.is_stalled(500.0)
    watch.began(1000.0)

    assert watch.due_s == 1030.0


def test_a_late_word_of_an_earlier_step_changes_nothing(watch: StallWatch) -> None:
    watch.began(100.0)
    watch.stepped(110.0)
    watch.stepped(105.0)

    assert watch.due_s == 140.0


def test_a_timer_that_hands_its_own_deadline_on_is_right(watch: StallWatch) -> None:
    watch.began(0.1)
    due_s = watch.due_s

    assert due_s is not None
    assert watch.is_stalled(due_s)


def test_a_call_that_ends_twice_is_a_mistake(watch: StallWatch) -> None:
    watch.began(0.0)
    watch.ended()

    with pytest.raises(AssertionError, match="had not begun"):
        watch.ended()


@given(
    events=st.lists(
        st.tuples(st.sampled_from(["began", "ended", "stepped"]), st.floats(0, 20)), max_size=50
    ),
    rest_s=st.floats(0, 60),
)
def test_it_stalls_after_as_long_without_a_step_and_with_work_as_was_said(
    events: list[tuple[str, float]], rest_s: float
) -> None:
    watch, now_s, calls, alive_s = StallWatch(30.0), 0.0, 0, 0.0
    for event, pause_s in events:
        now_s += pause_s
        match event:
            case "began":
                watch.began(now_s)
                alive_s = alive_s if calls else now_s
                calls += 1
            case "ended" if calls:
                watch.ended()
                calls -= 1
            case "stepped":
                watch.stepped(now_s)
                alive_s = now_s
    now_s += rest_s

    assert watch.is_stalled(now_s) == (calls > 0 and now_s >= alive_s + 30.0)
