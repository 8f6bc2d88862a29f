"""Batch work that gives way, as the rules tell it: who may, to whom, and who must."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infer_daemon.domain.jobs import EngineName, Tier
from infer_daemon.scheduling.decisions import Grant, Preempt

if TYPE_CHECKING:
    from collections.abc import Collection

    from tests.simulation.judge import Case, Judge

PREEMPTIONS_MAX = 2


def nobody_is_kept_waiting(judge: Judge, case: Case | None) -> None:
    """Batch work gives way to the impatient before anybody is granted who comes after them.

    Args: case: who is granted now, if somebody is.
    """
    first = helped(judge)
    if first is not None and first is not case:
        assert not first.is_impatient, f"nobody gave way to {first.job.id}"


def helped(judge: Judge) -> Case | None:
    """The first in turn who has room or to whom batch work could give it, if no batch work goes
    before."""
    may, seen = judge.turns()
    for case in seen:
        if case.job.tier is Tier.BATCH:
            return None
        if case not in may:
            continue
        if judge.where(case):
            return case
        giving = _may_give_way(judge, case)
        for engine in judge.engines:
            of_one = [other for other in giving if other.engine == engine]
            if of_one and _is_enough(judge, case, of_one):
                return case
    return None


def judged(judge: Judge, preempted: list[Preempt], grant: Grant) -> tuple[Case, list[Case]]:
    """Who gets the room and who gives it, if that is as it should be."""
    case = helped(judge)
    assert case is not None, "nobody could use the room"
    assert not judge.where(case), "there was room without"
    assert case.job.id == grant.job, f"the room is for {case.job.id}, not for {grant.job}"
    assert case.is_impatient, f"{case.job.id} had not waited long enough"
    assert {decision.tier for decision in preempted} == {case.job.tier}
    victims = [judge.running[decision.job] for decision in preempted]
    _judge_victims(judge, case, victims, grant.engine)
    return case, victims


def _judge_victims(judge: Judge, case: Case, victims: list[Case], engine: EngineName) -> None:
    """The newest one that is enough; else the newest ones of an engine, none of them spare."""
    giving = _may_give_way(judge, case)
    assert all(victim in giving and victim.engine == engine for victim in victims)
    alone = [other for other in giving if _is_enough(judge, case, [other])]
    if alone:
        assert victims == alone[:1], f"{alone[0].job.id} alone was to give way"
        return
    assert _is_enough(judge, case, victims), f"{victims} are not enough"
    for other in judge.engines:
        newest = [one for one in giving if one.engine == other]
        few = newest[: len(victims) - 1]
        assert not (few and _is_enough(judge, case, few)), f"fewer are enough in {other}"
    for victim in victims:
        others = [other for other in victims if other is not victim]
        assert not _is_enough(judge, case, others), f"{victim.job.id} gave way in vain"
        for newer in giving[: giving.index(victim)]:
            if newer not in victims and newer.engine == engine:
                assert not _is_enough(judge, case, [*others, newer]), "a newer one would do"


def _may_give_way(judge: Judge, case: Case) -> list[Case]:
    """To that job, of all engines: first who never did, then the newest."""
    found = [
        other
        for other in reversed(judge.running.values())
        if other.job.may_give_way and other.job.preemptions < PREEMPTIONS_MAX
        if other.engine in judge.engines
        if other.paid is None or case.job.tier is Tier.CRITICAL
    ]
    return sorted(found, key=lambda other: other.job.preemptions)


def _is_enough(judge: Judge, case: Case, out: Collection[Case]) -> bool:
    """Whether it fits into their engine when they are out of it."""
    (engine,) = {other.engine for other in out}
    assert engine is not None
    return judge.fits(case, engine, judge.level(case.job), out)
