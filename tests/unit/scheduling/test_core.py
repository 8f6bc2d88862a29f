"""The core by its events: call them in order, look at the decisions. No loop, no clock.

What many events do together is seen in `tests/simulation`, where a model of its own judges each."""

import pytest

from infer_daemon.domain.jobs import JobId, WindowLimits
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.decisions import Evict, EvictReason, Grant, Reject, RejectReason
from infer_daemon.scheduling.policy import Policy
from tests.conftest import MakeJob
from tests.unit.scheduling.events import A, B, finish, granted, open_engine


@pytest.fixture
def core() -> Core:
    """Room for three waiting jobs; no engine yet."""
    return Core(Policy(queue_len_max=3))


# Arriving.


def test_a_job_is_granted_at_once_while_there_is_room(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)

    assert core.submit(job("j1"), 0) == [Grant(JobId("j1"), A)]
    assert (len(core.running), len(core.waiting)) == (1, 0)


def test_jobs_that_are_due_alike_are_granted_in_order_of_arrival(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    for name in ("j1", "j2", "j3", "j4"):
        core.submit(job(name), 0)

    assert [*finish(core, "j1"), *finish(core, "j2"), *finish(core, "j3")] == ["j2", "j3", "j4"]


def test_of_a_tenants_jobs_the_one_that_is_due_first_goes_first(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    core.submit(job("j1"), 0)
    core.submit(job("later", due_s=9), 0)
    core.submit(job("sooner", due_s=3, deadline_s=200), 0)

    assert finish(core, "j1") == ["sooner"]


def test_a_full_queue_rejects_and_keeps_those_who_wait(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    for name in ("j1", "j2", "j3", "j4"):
        core.submit(job(name), 0)

    assert core.submit(job("j5"), 0) == [Reject(JobId("j5"), RejectReason.QUEUE_FULL)]
    assert list(core.waiting) == ["j2", "j3", "j4"]


def test_a_job_larger_than_every_window_is_rejected(core: Core, job: MakeJob) -> None:
    open_engine(core, 2)
    open_engine(core, 3, B)

    assert core.submit(job("j1", seqs=4), 0) == [Reject(JobId("j1"), RejectReason.NEVER_FITS)]
    assert core.submit(job("j2", seqs=3), 0) == [Grant(JobId("j2"), B)]


def test_without_an_engine_a_job_is_rejected(core: Core, job: MakeJob) -> None:
    assert core.submit(job("j1"), 0) == [Reject(JobId("j1"), RejectReason.NO_ENGINE)]


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_a_job_is_submitted_once(core: Core, job: MakeJob, state: str) -> None:
    open_engine(core, 1)
    core.submit(job("running"), 0)
    core.submit(job("waiting"), 0)

    with pytest.raises(AssertionError, match=f"already {state}"):
        core.submit(job(state), 0)


# Leaving.


@pytest.mark.parametrize("leave", ["finish", "cancel"])
def test_leaving_twice_gives_back_once(core: Core, job: MakeJob, leave: str) -> None:
    open_engine(core, 2)
    core.submit(job("j1"), 0)
    core.submit(job("j2"), 0)
    for name in ("j1", "j1", "nobody"):
        assert getattr(core, leave)(JobId(name), 0) == []

    assert core.windows[A].seqs == 1
    core.check()


def test_a_stranger_generates_nothing(core: Core) -> None:
    open_engine(core, 1)

    assert core.token(JobId("nobody"), 5, 0) == []
    core.check()


def test_a_job_that_is_cancelled_while_it_waits_makes_way(core: Core, job: MakeJob) -> None:
    open_engine(core, 2)
    core.submit(job("j1"), 0)
    core.submit(job("large", seqs=2), 0)
    core.submit(job("small"), 0)

    assert granted(core.cancel(JobId("large"), 0)) == ["small"]
    core.check()


def test_a_job_may_come_again_under_its_old_name(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    core.submit(job("j1"), 0)
    core.submit(job("j2", due_s=1, deadline_s=5), 0)
    core.submit(job("j3", due_s=2), 0)
    core.cancel(JobId("j2"), 0)
    core.submit(job("j2", due_s=3, deadline_s=50), 0)

    assert core.next_deadline_s == 50
    assert core.expire(5) == []
    assert [*finish(core, "j1"), *finish(core, "j3")] == ["j3", "j2"]


def test_only_answers_that_ended_by_themselves_teach_how_long_they_are(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 1)
    for n in range(20):
        core.submit(job(f"j{n}", output_tokens_max=300), 0)
        core.cancel(JobId(f"j{n}"), 0)
    core.submit(job("last", output_tokens_max=300), 0)

    assert core.windows[A].kv_tokens == 1 + 300


# Time.


@pytest.mark.parametrize(("now_s", "evicted"), [(9.99, []), (10.0, ["soon"]), (20.0, ["soon"])])
def test_a_job_is_evicted_at_its_deadline_and_not_before(
    core: Core, job: MakeJob, now_s: float, evicted: list[str]
) -> None:
    open_engine(core, 1)
    core.submit(job("j1"), 0)
    core.submit(job("soon", deadline_s=10), 0)
    core.submit(job("later", deadline_s=30), 0)

    assert core.expire(now_s) == [Evict(JobId(name), EvictReason.DEADLINE) for name in evicted]
    core.check()


def test_a_running_job_is_never_evicted(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    core.submit(job("j1", deadline_s=1), 0)

    assert core.expire(100.0) == []
    assert list(core.running) == ["j1"]


def test_an_expired_head_lets_the_next_one_in(core: Core, job: MakeJob) -> None:
    open_engine(core, 2)
    core.submit(job("j1"), 0)
    core.submit(job("large", seqs=2, deadline_s=10), 0)
    core.submit(job("small"), 0)

    assert core.expire(10.0) == [
        Evict(JobId("large"), EvictReason.DEADLINE),
        Grant(JobId("small"), A),
    ]


def test_the_next_deadline_is_that_of_a_job_which_still_waits(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    core.submit(job("j1", deadline_s=1), 0)
    assert core.next_deadline_s is None
    core.submit(job("j2", deadline_s=20), 0)
    core.submit(job("j3", deadline_s=30), 0)
    core.cancel(JobId("j2"), 0)

    assert core.next_deadline_s == 30


def test_deadlines_of_departed_jobs_do_not_pile_up(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    core.submit(job("runs"), 0)
    core.submit(job("stays", deadline_s=2000), 0)
    for n in range(1000):
        core.submit(job(f"j{n}", deadline_s=1000 - n), 0)
        core.cancel(JobId(f"j{n}"), 0)

    assert len(core.deadlines) < 100
    assert core.next_deadline_s == 2000
    core.check()


# Engines that open, change and close.


def test_a_larger_window_lets_waiting_jobs_in(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    for name in ("j1", "j2", "j3"):
        core.submit(job(name), 0)

    assert open_engine(core, 3) == ["j2", "j3"]
    core.check()


def test_a_second_engine_lets_waiting_jobs_in(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    core.submit(job("j1"), 0)
    core.submit(job("j2"), 0)

    assert core.resize(B, WindowLimits(seqs=1), 0) == [Grant(JobId("j2"), B)]


def test_a_smaller_window_lets_nobody_in_until_it_has_emptied(core: Core, job: MakeJob) -> None:
    open_engine(core, 3)
    for name in ("j1", "j2", "j3", "j4"):
        core.submit(job(name), 0)
    open_engine(core, 1)

    assert [*finish(core, "j1"), *finish(core, "j2")] == []
    assert finish(core, "j3") == ["j4"]


def test_one_of_two_windows_closes_and_the_queue_stays(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    open_engine(core, 1, B)
    for name in ("j1", "j2", "j3"):
        core.submit(job(name), 0)

    assert core.resize(A, None, 0) == []
    assert list(core.waiting) == ["j3"]
    core.check()


def test_while_an_engine_is_expected_jobs_wait_for_it(core: Core, job: MakeJob) -> None:
    open_engine(core, 1)
    for name in ("j1", "j2"):
        core.submit(job(name), 0)
    core.expect(True)

    assert core.resize(A, None, 0) == []
    assert core.cancel(JobId("j1"), 0) == []
    assert core.submit(job("j3"), 0) == []
    core.check()
    assert granted(core.resize(B, WindowLimits(seqs=2), 0)) == ["j2", "j3"]


def test_who_waits_is_evicted_when_no_engine_is_expected_any_more(core: Core, job: MakeJob) -> None:
    core.expect(True)
    core.submit(job("j1"), 0)

    assert core.expect(False) == [Evict(JobId("j1"), EvictReason.NO_ENGINE)]
    assert core.submit(job("j2"), 0) == [Reject(JobId("j2"), RejectReason.NO_ENGINE)]


def test_who_fits_no_window_that_opens_at_last_is_evicted(core: Core, job: MakeJob) -> None:
    core.expect(True)
    core.submit(job("j1", seqs=3), 0)

    assert core.resize(A, WindowLimits(seqs=2), 0) == [Evict(JobId("j1"), EvictReason.NEVER_FITS)]


def test_what_had_a_place_in_an_engine_may_wait_although_the_queue_is_full(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 1)
    for name in ("j1", "j2", "j3", "j4"):
        core.submit(job(name), 0)

    assert core.submit(job("j5", is_resumed=True), 0) == []
    assert "j5" in core.waiting


def test_the_last_window_closes_and_everybody_who_waits_is_evicted(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 1)
    for name in ("j1", "j2", "j3"):
        core.submit(job(name), 0)

    assert core.resize(A, None, 0) == [
        Evict(JobId("j2"), EvictReason.NO_ENGINE),
        Evict(JobId("j3"), EvictReason.NO_ENGINE),
    ]
    assert (list(core.running), core.next_deadline_s) == (["j1"], None)
    core.check()


def test_the_large_engine_leaves_and_who_fits_no_other_does_not_stand_in_the_way(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 8)
    open_engine(core, 2, B)
    core.submit(job("j1", seqs=8), 0)
    core.submit(job("j2", seqs=5), 0)
    core.submit(job("j3", seqs=2), 0)

    assert core.resize(A, None, 0) == [
        Evict(JobId("j2"), EvictReason.NEVER_FITS),
        Grant(JobId("j3"), B),
    ]
    core.check()


def test_a_window_that_opens_again_still_counts_who_never_left(core: Core, job: MakeJob) -> None:
    open_engine(core, 2)
    core.submit(job("j1"), 0)
    core.resize(A, None, 0)
    open_engine(core, 2)

    assert granted(core.submit(job("j2"), 0)) == ["j2"]
    assert core.submit(job("j3"), 0) == []
    core.check()


def test_closing_an_engine_that_was_never_open_is_no_event(core: Core) -> None:
    assert core.resize(A, None, 0) == []
    core.check()


def test_whoever_fills_the_queue_leaves_a_way_in_for_others(job: MakeJob) -> None:
    core = Core(Policy(queue_len_max=100))
    open_engine(core, 1)
    core.submit(job("inside"), 0)
    told = [core.submit(job(f"f{n}", tenant="flood"), 0) for n in range(120)]

    assert told.count([]) == 90
    assert core.submit(job("other", tenant="other"), 0) == []
    assert core.submit(job("more", tenant="flood"), 0) == [
        Reject(JobId("more"), RejectReason.QUEUE_FULL)
    ]
    core.check()


# Policies.


def test_a_shorter_queue_refuses_those_who_come_and_not_those_who_wait(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 1)
    for name in ("j1", "j2", "j3"):
        core.submit(job(name), 0)

    assert core.change(Policy(queue_len_max=1), 0) == []
    assert core.submit(job("j4"), 0) == [Reject(JobId("j4"), RejectReason.QUEUE_FULL)]
    core.check()


def test_a_policy_that_keeps_less_lets_waiting_jobs_in(core: Core, job: MakeJob) -> None:
    core.change(Policy(queue_len_max=9, kept_for_newcomers=0.5), 0)
    open_engine(core, 4)
    for n in range(4):
        core.submit(job(f"j{n}"), 0)
    assert core.windows[A].seqs == 2

    assert granted(core.change(Policy(queue_len_max=9), 0)) == ["j2", "j3"]
    core.check()


def test_a_job_is_not_given_to_an_engine_that_has_failed_it_while_there_is_another(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 1, A)
    open_engine(core, 1, B)
    core.submit(job("busy", tenant="globex"), 0)
    running = core.running[JobId("busy")].engine
    (other,) = {A, B} - {running}
    assert granted(core.submit(job("again", avoids=frozenset({other})), 0)) == []
    assert granted(core.submit(job("next", tenant="initech"), 0)) == ["next"]
    core.check()
    assert finish(core, "busy") == ["again"]
    assert core.running[JobId("again")].engine == running


def test_a_job_goes_back_to_the_engine_that_has_failed_it_when_there_is_no_other(
    core: Core, job: MakeJob
) -> None:
    open_engine(core, 1, A)

    assert granted(core.submit(job("again", avoids=frozenset({A})), 0)) == ["again"]
