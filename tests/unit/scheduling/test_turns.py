"""Whose turn it is and who has room, by the events of the core."""

import pytest

from infer_daemon.domain.jobs import JobId, Tier
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.decisions import Grant
from infer_daemon.scheduling.policy import Policy
from tests.conftest import MakeJob
from tests.unit.scheduling.events import A, B, finish, granted, open_engine


@pytest.fixture
def core() -> Core:
    """Room for a few waiting jobs; no engine yet."""
    return Core(Policy(queue_len_max=20))


# Room.


def test_a_job_counts_all_of_its_sequences(core: Core, job: MakeJob) -> None:
    open_engine(core, 4)
    core.submit(job("three", seqs=3), 0)

    assert core.submit(job("two", seqs=2), 0) == []
    assert finish(core, "three") == ["two"]


def test_one_departure_lets_in_as_many_as_fit(core: Core, job: MakeJob) -> None:
    open_engine(core, 3)
    core.submit(job("large", seqs=3), 0)
    for name in ("j1", "j2", "j3"):
        core.submit(job(name), 0)

    assert finish(core, "large") == ["j1", "j2", "j3"]


def test_the_emptiest_engine_gets_the_job(core: Core, job: MakeJob) -> None:
    open_engine(core, 2)
    open_engine(core, 4, B)
    where = [core.submit(job(f"j{n}"), 0)[0] for n in range(6)]

    assert [grant.engine for grant in where if isinstance(grant, Grant)].count(B) == 4
    core.check()


def test_prompts_that_are_being_read_hold_others_back_until_their_first_token(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 9, prefill_tokens=1000)
    core.submit(job("j1", prompt_tokens=600), 0)

    assert core.submit(job("j2", prompt_tokens=600), 0) == []
    assert granted(core.token(JobId("j1"), 1, 0)) == ["j2"]
    assert core.token(JobId("j1"), 1, 0) == []
    core.check()


def test_an_answer_that_grows_beyond_what_was_expected_takes_more_room(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 99, kv_tokens=1000)
    for n in range(8):
        core.submit(job(f"short{n}", output_tokens_max=300), 0)
        core.token(JobId(f"short{n}"), 9, 0)
        core.finish(JobId(f"short{n}"), 0)
    core.submit(job("long", output_tokens_max=300), 0)
    assert core.windows[A].kv_tokens == 1 + 9
    core.token(JobId("long"), 10, 0)
    assert core.windows[A].kv_tokens == 1 + 20
    core.token(JobId("long"), 200, 0)
    assert core.windows[A].kv_tokens == 1 + 300
    core.check()


def test_nobody_enters_while_the_answers_inside_are_larger_than_the_cache(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 9, kv_tokens=100)
    core.submit(job("liar", output_tokens_max=50), 0)
    core.token(JobId("liar"), 120, 0)

    assert core.submit(job("j2"), 0) == []
    assert finish(core, "liar") == ["j2"]


# Turns.


def test_the_tenant_that_had_less_goes_first(core: Core, job: MakeJob) -> None:
    open_engine(core, 2)
    core.submit(job("a1", tenant="a"), 0)
    core.submit(job("b1", tenant="b"), 0)
    core.submit(job("a2", tenant="a"), 0)
    core.submit(job("b2", tenant="b"), 0)
    core.token(JobId("a1"), 7, 0)
    core.token(JobId("b1"), 3, 0)

    assert [*finish(core, "a1"), *finish(core, "b1")] == ["b2", "a2"]


def test_the_tenant_of_a_larger_weight_may_have_had_more(core: Core, job: MakeJob) -> None:
    core.change(Policy(queue_len_max=9, weights={"a": 3.0}), 0)
    open_engine(core, 2)
    core.submit(job("a1", tenant="a"), 0)
    core.submit(job("b1", tenant="b"), 0)
    core.submit(job("a2", tenant="a"), 0)
    core.submit(job("b2", tenant="b"), 0)
    core.token(JobId("a1"), 7, 0)
    core.token(JobId("b1"), 3, 0)

    assert finish(core, "b1") == ["a2"]


@pytest.mark.parametrize("order", [list(Tier), list(reversed(Tier))])
def test_classes_go_in_order(core: Core, job: MakeJob, order: list[Tier]) -> None:
    core.change(Policy(queue_len_max=9, batch_share_min=0.0), 0)
    open_engine(core, 1)
    core.submit(job("first"), 0)
    for tier in order:
        core.submit(job(tier.value, tier=tier), 0)

    went = [*finish(core, "first"), *finish(core, "critical"), *finish(core, "interactive")]
    assert went == ["critical", "interactive", "batch"]


def test_the_last_places_are_for_those_who_cannot_wait(core: Core, job: MakeJob) -> None:
    core.change(Policy(queue_len_max=99), 0)
    open_engine(core, 20)
    for n in range(40):
        core.submit(job(f"b{n}", tenant="batch", tier=Tier.BATCH), 0)
    assert core.windows[A].seqs == 14
    for n in range(20):
        core.submit(job(f"o{n}", tenant="flood"), 0)
    assert core.windows[A].seqs == 17
    for n in range(4):
        core.submit(job(f"n{n}", tenant=f"newcomer{n}"), 0)
    assert core.windows[A].seqs == 19

    assert granted(core.submit(job("c", tier=Tier.CRITICAL), 0)) == ["c"]
    core.check()


def test_a_smaller_job_of_another_tenant_passes_one_that_does_not_fit(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 2)
    core.submit(job("a1", tenant="a"), 0)
    core.submit(job("large", tenant="a", seqs=2), 0)

    assert granted(core.submit(job("small", tenant="b"), 0)) == ["small"]
    assert core.submit(job("behind", tenant="a"), 0) == []
    core.check()


@pytest.mark.parametrize("passing", [Tier.INTERACTIVE, Tier.BATCH])
def test_room_is_kept_for_a_job_that_has_been_passed_by_too_often(
    core: Core, job: MakeJob, passing: Tier
) -> None:
    open_engine(core, 3)
    core.submit(job("b1", tenant="b"), 0)
    core.submit(job("a1", tenant="a"), 0)
    core.submit(job("large", tenant="a", seqs=2), 0)
    for n in range(8):
        assert granted(core.submit(job(f"s{n}", tenant="b", tier=passing), 0)) == [f"s{n}"]
        finish(core, f"s{n}")

    assert core.submit(job("s8", tenant="b", tier=passing), 0) == []
    assert finish(core, "a1") == ["large"]


def test_a_critical_job_passes_whatever_room_is_kept_for(core: Core, job: MakeJob) -> None:
    open_engine(core, 2)
    core.submit(job("a1", tenant="a"), 0)
    core.submit(job("large", tenant="a", seqs=2), 0)
    for n in range(8):
        core.submit(job(f"s{n}", tenant="b"), 0)
        core.finish(JobId(f"s{n}"), 0)

    assert granted(core.submit(job("c", tenant="b", tier=Tier.CRITICAL), 0)) == ["c"]
    core.check()


def test_nobody_passes_who_is_too_far_ahead(core: Core, job: MakeJob) -> None:
    open_engine(core, 3)
    core.submit(job("a1", tenant="a"), 0)
    core.submit(job("a2", tenant="a", seqs=3), 0)
    core.submit(job("b1", tenant="b"), 0)
    core.token(JobId("a1"), 1, 0)
    core.token(JobId("b1"), 1034, 0)

    assert core.submit(job("b2", tenant="b"), 0) == []
    assert granted(core.token(JobId("a1"), 20, 0)) == ["b2"]
    core.check()


def test_whoever_was_too_far_back_to_be_looked_at_is_when_others_were_served(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 6)
    for tenant in "abcde":
        core.submit(job(f"{tenant}1", tenant=tenant), 0)
        core.token(JobId(f"{tenant}1"), 1, 0)
    core.token(JobId("e1"), 50, 0)
    for tenant in "abcd":
        core.submit(job(f"{tenant}2", tenant=tenant, seqs=6), 0)
    assert core.submit(job("small", tenant="e"), 0) == []

    assert granted(core.token(JobId("a1"), 100, 0)) == ["small"]
    core.check()


def test_all_critical_tenants_are_looked_at_before_anybody_below(core: Core, job: MakeJob) -> None:
    core.change(Policy(queue_len_max=99), 0)
    open_engine(core, 4)
    core.submit(job("first", seqs=3), 0)
    for n in range(9):
        core.submit(job(f"large{n}", tenant=f"t{n}", seqs=2, tier=Tier.CRITICAL), 0)

    assert granted(core.submit(job("small", tenant="z", tier=Tier.CRITICAL), 0)) == ["small"]
    core.check()


def test_batch_goes_before_others_while_it_is_owed_its_share(core: Core, job: MakeJob) -> None:
    core.change(Policy(queue_len_max=9, batch_share_min=0.1), 0)
    open_engine(core, 1)
    core.submit(job("j1"), 0)
    core.submit(job("night", tier=Tier.BATCH), 0)
    core.submit(job("j2"), 0)
    core.token(JobId("j1"), 5, 0)

    assert finish(core, "j1") == ["night"]
    core.submit(job("night2", tier=Tier.BATCH), 0)
    core.token(JobId("night"), 1, 0)
    assert finish(core, "night") == ["j2"]


def test_batch_that_becomes_owed_while_others_stream_goes_in_at_once(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 10)
    for n in range(7):
        core.submit(job(f"j{n}"), 0)
    core.token(JobId("j0"), 1, 0)
    assert core.submit(job("night", tier=Tier.BATCH), 0) == []

    assert granted(core.token(JobId("j0"), 1, 0)) == ["night"]
    core.check()


def test_room_is_kept_no_longer_when_its_tenant_sends_something_more_urgent(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 3)
    core.submit(job("b1", tenant="b"), 0)
    core.submit(job("a1", tenant="a"), 0)
    core.submit(job("large", tenant="a", seqs=2, due_s=9), 0)
    for n in range(8):
        core.submit(job(f"s{n}", tenant="b"), 0)
        core.finish(JobId(f"s{n}"), 0)
    assert core.submit(job("s8", tenant="b"), 0) == []

    assert granted(core.submit(job("urgent", tenant="a", seqs=3, due_s=1), 0)) == ["s8"]
    core.check()
