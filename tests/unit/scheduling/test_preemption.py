"""Batch work gives way: who, to whom, and when. By the core's events, without a loop or a clock."""

from typing import Any

import pytest

from infer_daemon.domain.jobs import JobId, Tier, WindowLimits
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.decisions import Decision, Grant, Preempt
from infer_daemon.scheduling.policy import Policy
from infer_daemon.scheduling.preemption import gives_way_to
from infer_daemon.scheduling.state import LEAD_MAX, PASSES_MAX
from tests.conftest import MakeJob
from tests.unit.scheduling.events import A, B, granted, open_engine

AFTER_S = {Tier.CRITICAL: 1.0, Tier.INTERACTIVE: 3.0}


@pytest.fixture
def core() -> Core:
    """Nothing is kept for anybody; no engine yet."""
    return Core(
        Policy(
            queue_len_max=50,
            kept_for_critical=0,
            kept_for_newcomers=0,
            kept_from_batch=0,
            preempt_after_s=AFTER_S,
        )
    )


def batch(job: MakeJob, name: str, **fields: Any) -> Any:
    return job(name, **{"tier": Tier.BATCH, "tenant": "nightly", "may_give_way": True, **fields})


def urgent(job: MakeJob, name: str, **fields: Any) -> Any:
    return job(name, **{"tier": Tier.CRITICAL, **fields})


def told(decisions: list[Decision]) -> list[str]:
    """Who gives way (-) and who goes in (+), in order."""
    return [
        f"-{decision.job}" if isinstance(decision, Preempt) else f"+{decision.job}"
        for decision in decisions
        if isinstance(decision, Preempt | Grant)
    ]


@pytest.mark.parametrize("tier", AFTER_S)
def test_batch_work_gives_way_to_whoever_has_waited_as_long_as_its_class_should(
    core: Core, job: MakeJob, tier: Tier
) -> None:
    open_engine(core, 1)
    core.submit(batch(job, "old"), 0)
    core.submit(job("u", tier=tier), 10)

    assert core.next_deadline_s == 10 + AFTER_S[tier]
    assert core.expire(10 + AFTER_S[tier] - 0.01) == []
    assert core.expire(10 + AFTER_S[tier]) == [Preempt(JobId("old"), tier), Grant(JobId("u"), A)]
    core.check()


def test_the_newest_gives_way(core: Core, job: MakeJob) -> None:
    open_engine(core, 2)
    open_engine(core, 2, B)
    for number in range(4):
        core.submit(batch(job, f"b{number}"), 0)
    core.submit(urgent(job, "u"), 0)

    assert told(core.expire(1)) == ["-b3", "+u"]


def test_who_gave_way_before_does_so_only_if_nobody_else_can(core: Core, job: MakeJob) -> None:
    open_engine(core, 3)
    core.submit(batch(job, "fresh"), 0)
    core.submit(batch(job, "twice", preemptions=2, is_resumed=True), 0)
    core.submit(batch(job, "once", preemptions=1, is_resumed=True), 0)
    for number in range(3):
        core.submit(urgent(job, f"u{number}"), 0)

    assert told(core.expire(1)) == ["-fresh", "+u0", "-once", "+u1"]
    assert list(core.waiting) == ["u2"]


@pytest.mark.parametrize(
    "fields", [{"may_give_way": False}, {"tier": Tier.INTERACTIVE}, {"preemptions": 2}]
)
def test_some_work_gives_way_to_nobody(core: Core, job: MakeJob, fields: dict[str, object]) -> None:
    open_engine(core, 1)
    core.submit(batch(job, "stays", **fields), 0)
    core.submit(urgent(job, "u"), 0)

    assert core.expire(50) == []


def test_nobody_gives_way_to_a_class_that_no_limit_names(core: Core, job: MakeJob) -> None:
    core.change(Policy(queue_len_max=9), 0)
    open_engine(core, 1)
    core.submit(batch(job, "b"), 0)
    core.submit(urgent(job, "u"), 0)

    assert core.next_deadline_s == 100
    assert core.expire(50) == []


def test_another_limit_holds_for_those_who_wait_already(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    core.submit(batch(job, "b"), 0)
    core.submit(urgent(job, "u"), 0)
    core.change(Policy(queue_len_max=9, preempt_after_s={Tier.CRITICAL: 0.25}), 0.5)

    assert core.next_deadline_s == 0.25
    assert told(core.expire(0.5)) == ["-b", "+u"]


def test_nobody_gives_way_to_a_job_that_could_not_use_the_room(core: Core, job: MakeJob) -> None:
    open_engine(core, 3)
    core.submit(batch(job, "b"), 0)
    core.submit(job("i1"), 0)
    core.submit(job("i2"), 0)
    core.submit(urgent(job, "large", seqs=2), 0)

    assert core.expire(50) == []
    assert told(core.finish(JobId("i1"), 51)) == ["-b", "+large"]


def test_one_gives_way_where_one_is_enough_and_no_more_than_are_needed(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 5)
    for name, seqs in (("large", 2), ("b1", 1), ("b2", 1), ("b3", 1)):
        core.submit(batch(job, name, seqs=seqs), 0)
    core.submit(urgent(job, "u2", seqs=2), 0)
    core.submit(urgent(job, "u3", seqs=3), 0)

    assert told(core.expire(1)) == ["-large", "+u2", "-b3", "-b2", "-b1", "+u3"]


def test_where_one_is_not_enough_as_few_as_possible_give_way(core: Core, job: MakeJob) -> None:
    open_engine(core, 3)
    open_engine(core, 4, B)
    for name in ("a1", "a2", "a3"):
        core.submit(batch(job, name, avoids=frozenset({B})), 0)
    for name in ("b1", "b2"):
        core.submit(batch(job, name, seqs=2, avoids=frozenset({A})), 0)
    core.submit(urgent(job, "u", seqs=3), 0)

    assert told(core.expire(1)) == ["-b2", "-b1", "+u"]
    assert core.running[JobId("u")].engine == B


def test_none_of_several_gives_way_in_vain(core: Core, job: MakeJob) -> None:
    """The newest has the sequence that is needed, but not the tokens."""
    core.resize(A, WindowLimits(seqs=9, kv_tokens=100), 0)
    for name, tokens in (("b1", 39), ("b2", 29), ("b3", 1), ("b4", 19)):
        core.submit(batch(job, name, output_tokens_max=tokens), 0)
    core.submit(urgent(job, "u", output_tokens_max=54), 0)

    assert told(core.expire(1)) == ["-b4", "-b2", "+u"]


def test_room_is_not_made_for_whoever_else_is_next(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    core.submit(batch(job, "b"), 0)
    core.submit(job("waited long"), 0)
    core.submit(urgent(job, "next"), 2.5)

    assert core.expire(3.0) == []
    assert told(core.expire(3.5)) == ["-b", "+next"]


def test_whoever_gave_way_is_the_first_of_its_line_and_pays_once_for_its_prompt(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 1)
    core.submit(batch(job, "b", prompt_tokens=70, due_s=9), 0)
    core.submit(batch(job, "earlier due", prompt_tokens=5), 0)
    core.submit(urgent(job, "u"), 0)
    core.expire(1)
    paid = core.fairness[Tier.BATCH].counters["nightly"]
    again = batch(job, "b", prompt_tokens=80, due_s=9, preemptions=1, is_resumed=True)

    assert core.submit(again, 1) == []
    assert granted(core.finish(JobId("u"), 2)) == ["b"]
    assert core.fairness[Tier.BATCH].counters["nightly"] == paid + 1
    core.check()


def test_interactive_work_leaves_alone_what_went_in_on_batchs_minimum_share(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 1)
    core.submit(batch(job, "b"), 0)
    core.submit(job("i1"), 0)
    core.batch_share.others_served(1000, 1.0)  # batch is owed a turn
    core.submit(batch(job, "owed"), 0)
    assert core.expire(3) == []
    assert granted(core.finish(JobId("b"), 4)) == ["owed"]
    core.batch_share.take(10_000, 0)  # and owed no more

    assert core.expire(50) == []
    assert [gives_way_to(core, tier) for tier in AFTER_S] == [1, 0]
    core.submit(urgent(job, "u"), 50)
    assert told(core.expire(51)) == ["-owed", "+u"]


def test_batch_work_is_not_let_in_to_give_way_at_once(core: Core, job: MakeJob) -> None:
    open_engine(core, 3)
    core.submit(batch(job, "b1"), 0)
    core.submit(job("i"), 0)
    core.submit(job("i2", tenant="other"), 0)
    core.submit(urgent(job, "u", seqs=2), 0)
    core.submit(batch(job, "b2"), 0)
    core.expire(1)

    assert told(core.finish(JobId("i"), 2)) == ["-b1", "+u"]


def test_nobody_gives_way_in_an_engine_that_has_failed_the_other(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    open_engine(core, 1, B)
    core.submit(batch(job, "in-a"), 0)
    core.submit(batch(job, "in-b"), 0)
    core.submit(urgent(job, "u", is_resumed=True, avoids=frozenset({B})), 0)

    assert core.expire(1) == [Preempt(JobId("in-a"), Tier.CRITICAL), Grant(JobId("u"), A)]
    core.check()


def test_nobody_gives_way_to_whoever_would_take_room_that_is_kept(core: Core, job: MakeJob) -> None:
    open_engine(core, 3)
    core.submit(job("stays"), 0)
    core.submit(batch(job, "b"), 0)
    core.submit(urgent(job, "large", tenant="a", seqs=3), 0)
    for number in range(PASSES_MAX):
        assert granted(core.submit(urgent(job, f"u{number}", tenant="z"), 0)) == [f"u{number}"]
        if number < PASSES_MAX - 1:
            core.finish(JobId(f"u{number}"), 0)
    core.submit(urgent(job, "next", tenant="z"), 0)

    assert core.expire(1) == []
    core.check()


def large_before_small(core: Core, job: MakeJob) -> None:
    """Batch work could make room for one of two that are urgent: the one whose turn is later."""
    open_engine(core, 2)
    core.submit(job("stays"), 0)
    core.submit(batch(job, "b"), 0)
    core.submit(urgent(job, "large", tenant="a", seqs=2), 0)
    core.submit(urgent(job, "small", tenant="z"), 0)


def test_an_exchange_passes_those_before_it_who_could_have_used_the_room(
    core: Core, job: MakeJob
) -> None:
    large_before_small(core, job)

    assert told(core.expire(1)) == ["-b", "+small"]
    assert core.waiting[JobId("large")].passed_by == 1


def test_nobody_gives_way_to_whoever_is_too_far_ahead_of_the_first(
    core: Core, job: MakeJob
) -> None:
    large_before_small(core, job)
    core.fairness[Tier.CRITICAL].charge("z", 2 * LEAD_MAX)

    assert core.expire(1) == []
    core.check()


def test_nobody_gives_way_to_whoever_would_go_where_newcomers_are_to_go(job: MakeJob) -> None:
    core = Core(
        Policy(
            queue_len_max=50,
            kept_for_critical=0,
            kept_for_newcomers=0.5,
            kept_from_batch=0,
            preempt_after_s=AFTER_S,
        )
    )
    open_engine(core, 2)
    core.submit(batch(job, "b"), 0)
    core.submit(job("i1"), 0)
    core.submit(job("i2"), 0)
    assert list(core.running) == ["b", "i1"]

    assert core.expire(3) == []
    core.submit(job("newcomer", tenant="other"), 3)
    assert told(core.expire(6)) == ["-b", "+newcomer"]
