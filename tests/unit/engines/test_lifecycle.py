"""The table of an engine's states."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer_daemon.domain.states import EngineState
from infer_daemon.engines.lifecycle import (
    STORY_MAX,
    TRANSITIONS,
    InvalidTransition,
    Lifecycle,
    Transition,
)

S = EngineState
FINAL = {S.FAILED, S.STOPPED}


def at(*path: EngineState) -> Lifecycle:
    """An engine that went there, a second for each state."""
    life = Lifecycle(0.0)
    for second, state in enumerate(path, 1):
        life.enter(state, float(second))
    return life


@pytest.mark.parametrize(
    "path",
    [
        pytest.param([S.STARTING, S.READY, S.STOPPING, S.STOPPED], id="a life without trouble"),
        pytest.param(
            [S.STARTING, S.READY, S.STOPPING, S.DEAD, S.WAITING, S.STARTING, S.READY],
            id="a death and a restart",
        ),
        pytest.param([S.STARTING, S.STOPPING, S.DEAD, S.WAITING], id="a start that fails"),
        pytest.param([S.STARTING, S.STOPPING, S.FAILED], id="a start that cannot succeed"),
        pytest.param([S.STARTING, S.STOPPING, S.DEAD, S.FAILED], id="a crash loop"),
        pytest.param([S.STARTING, S.READY, S.DRAINING, S.READY], id="drained and taken back"),
        pytest.param([S.STARTING, S.READY, S.DRAINING, S.SLEEPING, S.READY], id="put to sleep"),
        pytest.param([S.STARTING, S.READY, S.SLEEPING, S.STOPPING, S.DEAD], id="dies asleep"),
        pytest.param([S.STOPPED], id="the daemon ends before it was started"),
    ],
)
def test_an_engine_may_go_this_way(path: list[EngineState]) -> None:
    assert at(*path).state == path[-1]


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ([S.STARTING, S.READY], S.DEAD),
        ([S.STARTING, S.READY], S.STARTING),
        ([S.STARTING], S.FAILED),
        ([S.STARTING], S.DRAINING),
        ([S.STARTING, S.READY, S.DRAINING], S.STOPPED),
        ([S.STARTING, S.READY, S.STOPPING], S.READY),
        ([], S.READY),
    ],
)
def test_an_engine_may_not_go_that_way(path: list[EngineState], state: EngineState) -> None:
    life = at(*path)
    before = life.state

    with pytest.raises(InvalidTransition, match=f"waiting.*cannot become {state}"):
        life.enter(state, 99.0)
    assert life.state == before
    assert life.since_s == len(path)


def test_the_table_has_every_state() -> None:
    assert TRANSITIONS.keys() == set(EngineState)


def test_no_state_leads_to_itself() -> None:
    assert not [state for state, to in TRANSITIONS.items() if state in to]


def test_only_failed_and_stopped_are_final() -> None:
    assert {state for state, to in TRANSITIONS.items() if not to} == FINAL


def test_from_every_other_state_an_engine_can_be_ended() -> None:
    for state in set(EngineState) - FINAL:
        assert TRANSITIONS[state] & {S.STOPPING, S.STOPPED}, state


def test_no_state_without_processes_is_entered_from_one_with_them_but_through_stopping() -> None:
    for old, new in itertools.product(EngineState, EngineState):
        if new in TRANSITIONS[old] and old.has_processes and not new.has_processes:
            assert old == S.STOPPING, f"{old} to {new}"


def test_a_transition_says_from_where_to_where_why_and_when() -> None:
    life = at(S.STARTING, S.READY)

    assert life.enter(S.STOPPING, 7.0, "killed") == Transition(S.READY, S.STOPPING, "killed", 7.0)
    assert life.in_state_s(9.0) == 2.0
    assert [step.new for step in life.story] == [S.STARTING, S.READY, S.STOPPING]


@given(choices=st.lists(st.integers(0, 5), max_size=80))
def test_whatever_way_it_goes_its_story_is_bounded_and_without_gaps(choices: list[int]) -> None:
    life = Lifecycle(0.0)
    for second, choice in enumerate(choices):
        ways = sorted(TRANSITIONS[life.state] - FINAL)
        life.enter(ways[choice % len(ways)], float(second))

    assert len(life.story) <= STORY_MAX
    for earlier, later in itertools.pairwise(life.story):
        assert earlier.new == later.old
