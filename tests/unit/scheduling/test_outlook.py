"""What somebody who waits has to expect."""

from math import inf

import pytest

from infer_daemon.domain.jobs import JobId, Tier, WindowLimits
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.outlook import Outlook, snapshot
from infer_daemon.scheduling.policy import Policy
from tests.conftest import MakeJob
from tests.unit.scheduling.events import A, finish, open_engine

INTERACTIVE = Tier.INTERACTIVE


def expected_wait_s(core: Core, tenant: str, tier: Tier, due_s: float = inf) -> float:
    return Outlook(core).expected_wait_s(tenant, tier, due_s)


@pytest.fixture
def core(job: MakeJob) -> Core:
    """Full, with a queue of ten jobs of 100 units each, and seen to do 100 units a second. The job
    inside is about to end."""
    core = Core(Policy(queue_len_max=99, weights={"gold": 3.0}))
    open_engine(core, 1)
    core.submit(job("running", tenant="r", output_tokens_max=999 * 5), 0)
    for n in range(10):
        core.submit(job(f"a{n}", tenant="a", prompt_tokens=98), 0)
    for tenth in range(1, 1000):
        core.token(JobId("running"), 5, tenth / 10)
    return core


def test_nobody_waits_where_there_is_room(job: MakeJob) -> None:
    core = Core(Policy(queue_len_max=9))
    open_engine(core, 1)

    assert expected_wait_s(core, "a", INTERACTIVE) == 0


def test_nothing_is_foretold_while_the_pace_is_unknown(job: MakeJob) -> None:
    core = Core(Policy(queue_len_max=9))
    open_engine(core, 1)
    for name in ("j1", "j2"):
        core.submit(job(name), 0)

    assert expected_wait_s(core, "acme", INTERACTIVE) == 0


def test_those_who_are_not_in_line_yet_count_as_much_as_those_who_are(
    core: Core, job: MakeJob
) -> None:
    outlook = Outlook(core)

    assert outlook.expected_wait_s("a", INTERACTIVE, inf, coming=3) == pytest.approx(13, rel=0.02)
    assert outlook.expected_wait_s("new", INTERACTIVE, inf, coming=3) == pytest.approx(7, rel=0.1)


def test_those_who_are_not_in_line_yet_fill_the_places_that_are_free(job: MakeJob) -> None:
    core = Core(Policy(queue_len_max=99))
    open_engine(core, 4)
    for n in range(5):
        core.submit(job(f"j{n}", output_tokens_max=100), 0)
    for second in range(1, 10):
        for n in range(5):
            core.token(JobId(f"j{n}"), 1, second)
    finish(core, "j0")
    finish(core, "j1")
    outlook = Outlook(core)

    waits_s = [outlook.expected_wait_s("acme", INTERACTIVE, inf, coming=n) for n in range(4)]

    assert waits_s[0] == 0
    assert waits_s[1] > 50
    assert waits_s == sorted(waits_s)


def test_a_tenant_waits_for_its_own_work(core: Core) -> None:
    assert expected_wait_s(core, "a", INTERACTIVE) == pytest.approx(10, rel=0.02)


def test_who_is_due_earlier_waits_for_none_of_its_tenants_later_work(
    core: Core, job: MakeJob
) -> None:
    assert expected_wait_s(core, "a", INTERACTIVE, due_s=-1.0) == pytest.approx(0, abs=0.1)
    for n in range(5):
        core.submit(job(f"late{n}", tenant="a", prompt_tokens=98, due_s=50.0), 0)

    assert expected_wait_s(core, "a", INTERACTIVE, due_s=0.0) == pytest.approx(10, rel=0.02)
    assert expected_wait_s(core, "a", INTERACTIVE, due_s=49.0) == pytest.approx(10, rel=0.02)
    assert expected_wait_s(core, "a", INTERACTIVE, due_s=50.0) == pytest.approx(15, rel=0.02)


def test_another_tenant_waits_for_one_job_of_it_and_not_for_all(core: Core) -> None:
    assert expected_wait_s(core, "b", INTERACTIVE) == pytest.approx(1, rel=0.02)


def test_everybody_who_came_before_goes_before_a_tenant_that_is_no_further_back(
    core: Core, job: MakeJob
) -> None:
    for n in range(20):
        core.submit(job(f"t{n}", tenant=f"t{n}", prompt_tokens=98), 0)

    assert expected_wait_s(core, "new", INTERACTIVE) == pytest.approx(21, rel=0.02)


def test_who_has_had_more_than_the_others_waits_until_they_have_as_much(
    core: Core, job: MakeJob
) -> None:
    core.submit(job("ahead", tenant="ahead", prompt_tokens=98), 0)
    core.cancel(JobId("ahead"), 0)
    core.fairness[INTERACTIVE].charge("ahead", 500)

    assert expected_wait_s(core, "ahead", INTERACTIVE) == pytest.approx(6, rel=0.02)


def test_a_place_is_taken_for_as_long_as_its_output_takes_whatever_its_prompt_was(
    job: MakeJob,
) -> None:
    core = Core(Policy(queue_len_max=99))
    open_engine(core, 1)
    for n in range(5):
        core.submit(job(f"j{n}", prompt_tokens=1000, output_tokens_max=50), 0)
    for n in range(3):
        core.token(JobId(f"j{n}"), 1, 5 * n + 0.1)  # a prompt takes as long as a token
        for tenth in range(2, 51):
            core.token(JobId(f"j{n}"), 1, 5 * n + tenth / 10)
        core.finish(JobId(f"j{n}"), 5 * n + 5)
    core.token(JobId("j3"), 1, 15.1)
    core.token(JobId("j3"), 1, 15.2)

    prospect = Outlook(core).prospect(JobId("j4"))
    assert prospect is not None
    assert prospect.wait_s == pytest.approx(4.8, rel=0.02)


def test_work_that_weighs_nothing_has_no_pace(job: MakeJob) -> None:
    core = Core(Policy(queue_len_max=9, input_weight=0.0))
    open_engine(core, 1)
    core.submit(job("j1", output_tokens_max=0), 0)
    core.submit(job("j2", output_tokens_max=0), 0)
    for second in range(5):
        core.pace.note(0.0, second, is_backlogged=True)

    assert expected_wait_s(core, "acme", INTERACTIVE) == 0


def test_beside_others_ones_own_work_takes_longer_but_never_than_all_together(
    core: Core, job: MakeJob
) -> None:
    core.submit(job("b1", tenant="b", prompt_tokens=98), 0)
    assert expected_wait_s(core, "b", INTERACTIVE) == pytest.approx(3, rel=0.02)
    assert expected_wait_s(core, "a", INTERACTIVE) == pytest.approx(11, rel=0.02)


def test_a_larger_weight_waits_for_less_of_what_others_do(core: Core, job: MakeJob) -> None:
    for n in range(6):
        core.submit(job(f"g{n}", tenant="gold", prompt_tokens=98), 0)

    assert expected_wait_s(core, "gold", INTERACTIVE) == pytest.approx(9, rel=0.02)


def test_a_lower_class_that_has_no_share_waits_for_the_classes_above(core: Core) -> None:
    core.change(Policy(queue_len_max=99, batch_share_min=0.0), 0)

    assert expected_wait_s(core, "b", Tier.BATCH) == pytest.approx(10, rel=0.02)
    assert expected_wait_s(core, "b", Tier.CRITICAL) == 0


def test_batch_work_that_is_alone_in_its_class_is_soon_owed_a_turn(core: Core) -> None:
    assert expected_wait_s(core, "b", Tier.BATCH) == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(("batch_jobs", "wait_s"), [(0, 0), (1, 2), (3, 6), (6, 12), (20, 30)])
def test_batch_work_waits_for_the_classes_above_until_its_share_reaches_it(
    core: Core, job: MakeJob, batch_jobs: int, wait_s: float
) -> None:
    """Half of the service is its own while ten seconds of interactive work wait."""
    core.change(Policy(queue_len_max=99, batch_share_min=0.5), 0)
    for n in range(batch_jobs):
        core.submit(job(f"b{n}", tenant="b", tier=Tier.BATCH, prompt_tokens=98), 0)

    found_s = expected_wait_s(core, "b", Tier.BATCH)

    assert found_s == pytest.approx(wait_s, rel=0.02, abs=0.1)


def test_who_may_go_further_into_a_window_finds_room_where_others_wait(job: MakeJob) -> None:
    core = Core(Policy(queue_len_max=99))
    open_engine(core, 20)
    core.submit(job("b", tenant="b"), 0)
    for n in range(20):
        core.submit(job(f"a{n}", tenant="a"), 0)
    core.submit(job("c", tenant="c", tier=Tier.CRITICAL, seqs=20), 0)
    for second in range(5):
        core.token(JobId("a0"), 1, second)

    assert expected_wait_s(core, "b", INTERACTIVE) > 0
    assert expected_wait_s(core, "new", INTERACTIVE) == 0


def test_a_waiting_job_knows_its_place_and_what_is_before_it(core: Core) -> None:
    third = Outlook(core).prospect(JobId("a2"))

    assert third is not None
    assert (third.position, third.wait_s) == (3, pytest.approx(2, rel=0.02))


def test_who_does_not_wait_has_no_prospect(core: Core) -> None:
    assert Outlook(core).prospect(JobId("running")) is None
    assert Outlook(core).prospect(JobId("nobody")) is None


def test_the_snapshot_says_who_waits_and_runs_where(core: Core) -> None:
    shown = snapshot(core)

    assert (shown["waiting"], shown["running"]) == (10, 1)
    assert shown["service_per_s"] == pytest.approx(100, rel=0.02)
    classes, windows = shown["classes"], shown["windows"]
    assert isinstance(classes, dict)
    assert isinstance(windows, dict)
    assert classes["interactive"]["a"]["waiting"] == 10
    assert classes["interactive"]["r"]["running"] == 1
    assert classes["interactive"]["a"]["expected_wait_s"] == pytest.approx(10, rel=0.02)
    assert (windows[A]["seqs"], windows[A]["seqs_max"]) == (1, 1)


def test_looking_changes_nothing(core: Core) -> None:
    before = snapshot(core)
    Outlook(core).prospect(JobId("a2"))

    assert snapshot(core) == before
    assert finish(core, "running") == ["a0"]


@pytest.mark.parametrize(("waiting", "wait_s"), [(0, 2), (1, 2), (3, 2), (4, 6), (7, 6), (8, 10)])
def test_jobs_that_went_in_together_end_together(job: MakeJob, waiting: int, wait_s: float) -> None:
    """Four places; each job takes four seconds of one, and two of them are over."""
    core = Core(Policy(queue_len_max=99))
    open_engine(core, 4)
    for n in range(4 + waiting):
        core.submit(job(f"j{n}", prompt_tokens=1, output_tokens_max=105), 0)
    core.submit(job("last", prompt_tokens=1, output_tokens_max=105), 0)
    for fifth in range(11):
        for n in range(4):
            core.token(JobId(f"j{n}"), 5, fifth / 5)

    last = Outlook(core).prospect(JobId("last"))

    assert last is not None
    assert last.wait_s == pytest.approx(wait_s, rel=0.1)


def test_without_an_engine_there_is_nothing_to_wait_for(core: Core) -> None:
    core.resize(A, None, 0)

    assert expected_wait_s(core, "b", INTERACTIVE) == 0
    assert not core.waiting
    core.resize(A, WindowLimits(seqs=1), 0)


def test_whoever_batch_work_gives_way_to_waits_no_longer_than_until_then(job: MakeJob) -> None:
    core = Core(Policy(queue_len_max=99, preempt_after_s={Tier.CRITICAL: 0.5}))
    open_engine(core, 1)
    for name in ("running", "waiting"):
        core.submit(job(name, tier=Tier.BATCH, may_give_way=True, output_tokens_max=100_000), 0)
    for tenth in range(1, 100):
        core.token(JobId("running"), 5, tenth / 10)

    assert expected_wait_s(core, "acme", Tier.CRITICAL) == 0.5
    assert expected_wait_s(core, "acme", INTERACTIVE) > 100
