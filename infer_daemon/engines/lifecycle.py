"""The one table of an engine's states: from which it may go to which. Pure.

    WAITING ──► STARTING ──► READY ◄──► DRAINING
       ▲           │           │ ▲          │
       │           │           ▼ │          │
       │           │        SLEEPING ◄──────┤
       │           │           │            │
       │           ▼           ▼            ▼
       │        STOPPING ◄──────────────────┘
       │           │
       └── DEAD ◄──┼──► FAILED   (final)
            │      └──► STOPPED  (final)
            └─────────► FAILED, STOPPED

Each state that has processes leaves through STOPPING: whoever reads DEAD, FAILED or STOPPED may
rely on no process being left. `restarts` says when DEAD goes on to WAITING, `stalls` when an engine
that is alive counts as dead.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from infer_daemon.domain.states import EngineState

_S = EngineState

TRANSITIONS: Mapping[EngineState, frozenset[EngineState]] = {
    _S.WAITING: frozenset({_S.STARTING, _S.STOPPING, _S.STOPPED, _S.FAILED}),
    _S.STARTING: frozenset({_S.READY, _S.STOPPING}),
    _S.READY: frozenset({_S.DRAINING, _S.SLEEPING, _S.STOPPING}),
    _S.DRAINING: frozenset({_S.READY, _S.SLEEPING, _S.STOPPING}),
    _S.SLEEPING: frozenset({_S.READY, _S.STOPPING}),
    _S.STOPPING: frozenset({_S.DEAD, _S.FAILED, _S.STOPPED}),
    _S.DEAD: frozenset({_S.WAITING, _S.FAILED, _S.STOPPED}),
    _S.FAILED: frozenset(),
    _S.STOPPED: frozenset(),
}

STORY_MAX = 32


class InvalidTransition(AssertionError):
    """The table does not have it: a mistake of ours, told with what went before."""


@dataclass(frozen=True, slots=True)
class Transition:
    """An engine went from one state to another."""

    old: EngineState
    new: EngineState
    reason: str
    at_s: float


class Lifecycle:
    """The state of one engine, and how it got there. Changed in one place only, here."""

    def __init__(self, now_s: float) -> None:
        self.state = EngineState.WAITING
        self.since_s = now_s
        """When it entered its state."""
        #: The last transitions, oldest first.
        self.story: deque[Transition] = deque(maxlen=STORY_MAX)

    def may(self, state: EngineState) -> bool:
        """Whether it can go there from where it is."""
        return state in TRANSITIONS[self.state]

    def enter(self, state: EngineState, now_s: float, reason: str = "") -> Transition:
        """Go to another state; what came of it is for the log and for metrics.

        Raises:
            InvalidTransition: it cannot, and nothing has changed.
        """
        if not self.may(state):
            path = " -> ".join([*(str(step.old) for step in self.story), str(self.state)])
            raise InvalidTransition(f"an engine that went {path} cannot become {state}")
        transition = Transition(self.state, state, reason, now_s)
        self.state, self.since_s = state, now_s
        self.story.append(transition)
        return transition

    def in_state_s(self, now_s: float) -> float:
        """For how long it has been in its state."""
        return max(0.0, now_s - self.since_s)
