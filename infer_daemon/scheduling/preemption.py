"""Batch work that gives way: which, and to whom. Pure; reads the state and decides nothing.

A generation that is taken out of its engine goes on later, from where it was: what that costs is
that its prompt is read again. So a place is taken only for whoever could use it, is next, and has
waited long enough; and nobody's more than `PREEMPTIONS_MAX` times.
"""

from dataclasses import dataclass

from infer_daemon.domain.jobs import EngineName, Job, Tier
from infer_daemon.scheduling.line import Waiting
from infer_daemon.scheduling.state import BATCH, CRITICAL, PASSES_MAX, Running, State
from infer_daemon.scheduling.window import Level, Window

PREEMPTIONS_MAX = 2
"""Of one job: then it stays where it is."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Who gives way to whom."""

    victims: list[Running]
    """All in that engine; at least one."""
    engine: EngineName
    waiting: Waiting
    passed: list[Waiting]
    """Those before it in the order of turns, to whom no exchange would have given room."""


def may_give_way(job: Job) -> bool:
    """Whether a running job may be taken out at all."""
    return job.may_give_way and job.tier is BATCH and job.preemptions < PREEMPTIONS_MAX


def gives_way_to(state: State, tier: Tier) -> int:
    """How many running jobs there are that would give way to work of that class."""
    if tier is CRITICAL:
        return len(state.giving_way)
    return sum(running.share_paid is None for running in state.giving_way.values())


def exchange(state: State) -> Exchange | None:
    """What is to be done before the next grant:

    1. Those who wait are looked at in the order of their turns, as for a grant.
    2. The first to whom batch work could make room gets it if its patience has ended. Else nobody
       does: room that is made is whosever turn it is. Nor does anybody while one before it fits.
    3. Nobody in the order after batch work that is owed a turn; and from what is in an engine on
       batch's minimum share, only critical work takes: that share is a promise, too.
    4. One generation gives way where the place of one is enough, of those that never did rather
       than of others the newest; else the newest ones of one engine, none of them in vain.
    """
    kept_up_to = -1
    passed: list[Waiting] = []
    for tier in state.tiers():
        if tier is BATCH and state.fairness[BATCH].waiting:
            return None
        first: str | None = None
        for tenant in state.next_tenants(tier):
            level = state.level(tier, tenant)
            if first is None:
                first = tenant
            elif state.is_too_far_ahead(tier, tenant, first):
                kept_up_to = max(kept_up_to, state.level(tier, first))
                break
            waiting = state.lines[tier, tenant].first
            if level > kept_up_to:
                if state.fits(waiting):
                    return None
                if victims := _victims(state, waiting, level):
                    if waiting.job.id not in state.patience.over:
                        return None
                    return Exchange(victims, victims[0].engine, waiting, passed)
            if tenant is first and waiting.passed_by >= PASSES_MAX:
                kept_up_to = max(kept_up_to, level)
            passed.append(waiting)
    return None


def _victims(state: State, waiting: Waiting, level: Level) -> list[Running]:
    """Who would have to go for that job; empty if that would not help."""
    tier, windows = waiting.job.tier, state.windows_for(waiting.job)
    newest_first = [
        running
        for running in reversed(state.giving_way.values())
        if running.engine in windows and (tier is CRITICAL or running.share_paid is None)
    ]
    newest_first.sort(key=lambda running: running.job.preemptions)
    for running in newest_first:
        if _is_enough([running], windows[running.engine], waiting, level):
            return [running]
    fewest: list[Running] = []
    for name, window in windows.items():
        of_one = [running for running in newest_first if running.engine == name]
        victims = _as_needed(of_one, window, waiting, level)
        if victims and (not fewest or len(victims) < len(fewest)):
            fewest = victims
    return fewest


def _as_needed(
    newest_first: list[Running], window: Window, waiting: Waiting, level: Level
) -> list[Running]:
    """The first of these that make room together, without those who turn out not to be needed."""
    if len(newest_first) < 2 or not _is_enough(newest_first, window, waiting, level):
        return []  # where all of them are not enough, no few are
    for count in range(2, len(newest_first) + 1):
        victims = newest_first[:count]
        if _is_enough(victims, window, waiting, level):
            for spared in victims[-2::-1]:  # without the last it was not enough
                others = [victim for victim in victims if victim is not spared]
                if _is_enough(others, window, waiting, level):
                    victims = others
            return victims
    return []


def _is_enough(victims: list[Running], window: Window, waiting: Waiting, level: Level) -> bool:
    for victim in victims:
        window.leave(victim.need)
    is_enough = window.takes(waiting.job, waiting.output_tokens, level)
    for victim in victims:
        window.enter(victim.need)
    return is_enough
