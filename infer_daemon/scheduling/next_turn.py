"""Who goes next, and into which engine: whose turn it is. Pure; changes nothing but `is_room_kept`.

Classes in strict order, but that batch work has a minimum share. In a class the tenant that has had
the least service by its weight (virtual token counters: Sheng et al., "Fairness in Serving Large
Language Models", OSDI 2024), with whatever of its own is due first. Among the engines that have
room for it, the emptiest.
"""

from typing import NamedTuple

from infer_daemon.domain.jobs import EngineName
from infer_daemon.scheduling.line import Waiting
from infer_daemon.scheduling.state import CRITICAL, PASSES_MAX, State
from infer_daemon.scheduling.window import LEVELS, Level

_CRITICAL = Level.CRITICAL  # by a name of this module: see `state`


class Turn(NamedTuple):
    """Who goes where."""

    waiting: Waiting
    engine: EngineName
    passed: list[Waiting]
    """Those whose turn it was before, and who did not fit."""


def next_turn(state: State) -> Turn | None:
    """Who goes next:

    1. Nobody, if the levels that still have room are above everybody's.
    2. Class by class in order; batch before interactive while it is owed its minimum share.
    3. In a class the tenant with the smallest counter, with the first job of its line.
    4. If that does not fit, the next tenant, a few times.
    5. Nobody passes the first of a class whose tenant is too far ahead of it, or who takes room
       that it could use when that has happened too often. That this room is kept, is noted.
    """
    open_from = LEVELS
    for window in state.windows.values():
        if (level := window.open_from) < open_from:
            open_from = level
    if open_from >= _CRITICAL and not state.fairness[CRITICAL].waiting:
        state.is_room_kept = False
        return None
    kept_up_to = -1
    passed: list[Waiting] = []
    for tier in state.tiers():
        if not state.fairness[tier].waiting or state.highest_level(tier) < open_from:
            continue
        first: str | None = None
        for tenant in state.next_tenants(tier):
            level = state.level(tier, tenant)
            if first is None:
                first = tenant
            elif state.is_too_far_ahead(tier, tenant, first):
                kept_up_to = max(kept_up_to, state.level(tier, first))
                break
            if level < open_from:
                continue
            waiting = state.lines[tier, tenant].first
            if level > kept_up_to:
                engine = _emptiest(state, waiting, level)
                if engine is not None:
                    return Turn(waiting, engine, passed)
            if tenant is first and waiting.passed_by >= PASSES_MAX:
                kept_up_to = max(kept_up_to, level)
            passed.append(waiting)
    state.is_room_kept = kept_up_to >= 0
    return None


def _emptiest(state: State, waiting: Waiting, level: Level) -> EngineName | None:
    """Of the engines whose windows take the job."""
    best: EngineName | None = None
    best_share = -1.0
    for name, window in state.windows_for(waiting.job).items():
        share = window.free_share
        if share > best_share and window.takes(waiting.job, waiting.output_tokens, level):
            best, best_share = name, share
    return best
