"""The core by its events: call them in order, look at the decisions. No loop, no clock.

The state machine at the end drives it at random beside a model of its own that only knows who is
alive, and so also sees what the core's `check()` cannot: a release that was lost.
"""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infer_daemon.domain.jobs import EngineName, Job, JobId
from infer_daemon.scheduling.core import (
    Core,
    Decision,
    Evict,
    EvictReason,
    Grant,
    Reject,
    RejectReason,
)
from tests.conftest import MakeJob

A, B = EngineName("a"), EngineName("b")


@pytest.fixture
def core() -> Core:
    """Room for three waiting jobs; no engine yet."""
    return Core(queue_len_max=3)


def granted(decisions: list[Decision]) -> list[str]:
    """The granted jobs in order, when there was nothing but grants."""
    assert all(isinstance(decision, Grant) for decision in decisions), decisions
    return [decision.job for decision in decisions]


def test_a_job_is_granted_at_once_while_there_is_room(core: Core, job: MakeJob) -> None:
    core.resize(A, 1)

    assert core.submit(job("j1")) == [Grant(JobId("j1"), A)]
    assert (core.running, core.waiting) == (1, 0)


def test_jobs_are_granted_in_order_of_arrival(core: Core, job: MakeJob) -> None:
    core.resize(A, 1)
    order = granted(core.submit(job("j1")))
    for name in ("j2", "j3", "j4"):
        assert core.submit(job(name)) == []
    for name in ("j1", "j2", "j3"):
        order += granted(core.leave(JobId(name)))
        core.check()

    assert order == ["j1", "j2", "j3", "j4"]


def test_an_earlier_deadline_does_not_overtake(core: Core, job: MakeJob) -> None:
    core.resize(A, 1)
    core.submit(job("j1"))
    core.submit(job("late", deadline_s=90))
    core.submit(job("soon", deadline_s=10))

    assert granted(core.leave(JobId("j1"))) == ["late"]


def test_a_job_counts_all_of_its_sequences(core: Core, job: MakeJob) -> None:
    core.resize(A, 4)
    core.submit(job("three", seqs=3))

    assert core.submit(job("two", seqs=2)) == []
    assert granted(core.leave(JobId("three"))) == ["two"]
    core.check()


def test_a_small_job_waits_behind_a_large_one_at_the_head(core: Core, job: MakeJob) -> None:
    core.resize(A, 2)
    core.submit(job("j1"))
    core.submit(job("large", seqs=2))

    assert core.submit(job("small")) == []
    assert granted(core.leave(JobId("j1"))) == ["large"]


def test_one_departure_lets_in_as_many_as_fit(core: Core, job: MakeJob) -> None:
    core.resize(A, 3)
    core.submit(job("large", seqs=3))
    for name in ("j1", "j2", "j3"):
        core.submit(job(name))

    assert granted(core.leave(JobId("large"))) == ["j1", "j2", "j3"]


def test_the_emptiest_engine_gets_the_job(core: Core, job: MakeJob) -> None:
    core.resize(A, 2)
    core.resize(B, 3)

    where = [core.submit(job(f"j{n}"))[0] for n in range(5)]

    assert [grant.engine for grant in where if isinstance(grant, Grant)].count(B) == 3
    core.check()


def test_a_full_queue_rejects_and_keeps_those_who_wait(core: Core, job: MakeJob) -> None:
    core.resize(A, 1)
    for name in ("j1", "j2", "j3", "j4"):
        core.submit(job(name))

    assert core.submit(job("j5")) == [Reject(JobId("j5"), RejectReason.QUEUE_FULL)]
    assert core.waiting == 3
    core.check()


def test_a_job_larger_than_every_window_is_rejected(core: Core, job: MakeJob) -> None:
    core.resize(A, 2)
    core.resize(B, 3)

    assert core.submit(job("j1", seqs=4)) == [Reject(JobId("j1"), RejectReason.NEVER_FITS)]
    assert granted(core.submit(job("j2", seqs=3))) == ["j2"]


def test_without_an_engine_a_job_is_rejected(core: Core, job: MakeJob) -> None:
    assert core.submit(job("j1")) == [Reject(JobId("j1"), RejectReason.NO_ENGINE)]


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_a_job_is_submitted_once(core: Core, job: MakeJob, state: str) -> None:
    core.resize(A, 1)
    core.submit(job("running"))
    core.submit(job("waiting"))

    with pytest.raises(AssertionError, match=f"already {state}"):
        core.submit(job(state))


def test_leaving_twice_gives_back_once(core: Core, job: MakeJob) -> None:
    core.resize(A, 2)
    core.submit(job("j1"))
    core.submit(job("j2"))
    core.leave(JobId("j1"))

    assert core.leave(JobId("j1")) == []
    assert core.leave(JobId("nobody")) == []
    assert core.snapshot()["windows"] == {A: {"seqs": 1, "seqs_max": 2}}
    core.check()


def test_whoever_leaves_the_head_of_the_queue_makes_way(core: Core, job: MakeJob) -> None:
    core.resize(A, 2)
    core.submit(job("j1"))
    core.submit(job("large", seqs=2))
    core.submit(job("small"))

    assert granted(core.leave(JobId("large"))) == ["small"]


@pytest.mark.parametrize(("now_s", "evicted"), [(9.99, []), (10.0, ["soon"]), (20.0, ["soon"])])
def test_a_job_is_evicted_at_its_deadline_and_not_before(
    core: Core, job: MakeJob, now_s: float, evicted: list[str]
) -> None:
    core.resize(A, 1)
    core.submit(job("j1"))
    core.submit(job("soon", deadline_s=10))
    core.submit(job("later", deadline_s=30))

    assert core.expire(now_s) == [Evict(JobId(name), EvictReason.DEADLINE) for name in evicted]
    core.check()


def test_a_running_job_is_never_evicted(core: Core, job: MakeJob) -> None:
    core.resize(A, 1)
    core.submit(job("j1", deadline_s=1))

    assert core.expire(100.0) == []
    assert core.running == 1


def test_an_expired_head_lets_the_next_one_in(core: Core, job: MakeJob) -> None:
    core.resize(A, 2)
    core.submit(job("j1"))
    core.submit(job("large", seqs=2, deadline_s=10))
    core.submit(job("small"))

    assert core.expire(10.0) == [
        Evict(JobId("large"), EvictReason.DEADLINE),
        Grant(JobId("small"), A),
    ]


def test_the_next_deadline_is_that_of_a_job_which_still_waits(core: Core, job: MakeJob) -> None:
    core.resize(A, 1)
    core.submit(job("j1", deadline_s=1))
    assert core.next_deadline_s is None

    core.submit(job("j2", deadline_s=20))
    core.submit(job("j3", deadline_s=30))
    core.leave(JobId("j2"))

    assert core.next_deadline_s == 30


def test_deadlines_of_departed_jobs_do_not_pile_up(core: Core, job: MakeJob) -> None:
    core.resize(A, 1)
    core.submit(job("stays"))
    for n in range(1000):
        core.submit(job(f"j{n}", deadline_s=1000 - n))
        core.leave(JobId(f"j{n}"))

    assert len(core._deadlines) < 100
    core.check()


def test_a_larger_window_lets_waiting_jobs_in(core: Core, job: MakeJob) -> None:
    core.resize(A, 1)
    for name in ("j1", "j2", "j3"):
        core.submit(job(name))

    assert granted(core.resize(A, 3)) == ["j2", "j3"]
    core.check()


def test_a_second_engine_lets_waiting_jobs_in(core: Core, job: MakeJob) -> None:
    core.resize(A, 1)
    core.submit(job("j1"))
    core.submit(job("j2"))

    assert core.resize(B, 1) == [Grant(JobId("j2"), B)]


def test_a_smaller_window_lets_nobody_in_until_it_has_emptied(core: Core, job: MakeJob) -> None:
    core.resize(A, 3)
    for name in ("j1", "j2", "j3", "j4"):
        core.submit(job(name))
    core.resize(A, 1)

    assert granted(core.leave(JobId("j1"))) == []
    assert granted(core.leave(JobId("j2"))) == []
    assert granted(core.leave(JobId("j3"))) == ["j4"]
    core.check()


def test_one_of_two_windows_closes_and_the_queue_stays(core: Core, job: MakeJob) -> None:
    core.resize(A, 1)
    core.resize(B, 1)
    for name in ("j1", "j2", "j3"):
        core.submit(job(name))

    assert core.resize(A, 0) == []
    assert core.waiting == 1
    core.check()


def test_the_last_window_closes_and_everybody_who_waits_is_evicted(
    core: Core, job: MakeJob
) -> None:
    core.resize(A, 1)
    for name in ("j1", "j2", "j3"):
        core.submit(job(name))

    assert core.resize(A, 0) == [
        Evict(JobId("j2"), EvictReason.NO_ENGINE),
        Evict(JobId("j3"), EvictReason.NO_ENGINE),
    ]
    assert (core.running, core.waiting, core.next_deadline_s) == (1, 0, None)
    core.check()


def test_the_large_engine_leaves_and_who_fits_no_other_does_not_stand_in_the_way(
    core: Core, job: MakeJob
) -> None:
    core.resize(A, 8)
    core.resize(B, 2)
    core.submit(job("j1", seqs=8))
    core.submit(job("j2", seqs=5))
    core.submit(job("j3", seqs=2))

    assert core.resize(A, 0) == [
        Evict(JobId("j2"), EvictReason.NO_ENGINE),
        Grant(JobId("j3"), B),
    ]
    core.check()


def test_a_window_that_opens_again_still_counts_who_never_left(core: Core, job: MakeJob) -> None:
    core.resize(A, 2)
    core.submit(job("j1"))
    core.resize(A, 0)
    core.resize(A, 2)

    assert granted(core.submit(job("j2"))) == ["j2"]
    assert core.submit(job("j3")) == []
    core.check()


def test_closing_an_engine_that_was_never_open_is_no_event(core: Core) -> None:
    assert core.resize(A, 0) == []
    core.check()


class CoreMachine(RuleBasedStateMachine):
    """Random events. The model holds jobs by what the decisions said about them, nothing else."""

    QUEUE_LEN_MAX = 4

    def __init__(self) -> None:
        super().__init__()
        self.core = Core(queue_len_max=self.QUEUE_LEN_MAX)
        self.now_s = 0.0
        self.count = 0
        self.queue: list[Job] = []
        self.running: dict[JobId, tuple[Job, EngineName]] = {}
        self.windows: dict[EngineName, int] = {}

    def used(self, engine: EngineName) -> int:
        """Sequences in an engine, open or closed."""
        return sum(job.seqs for job, where in self.running.values() if where == engine)

    def room(self) -> int:
        """The largest room of an open engine."""
        return max((size - self.used(name) for name, size in self.windows.items()), default=0)

    def follow(self, decisions: list[Decision]) -> None:
        """Carry decisions out in the model; each must be legal at its moment."""
        for decision in decisions:
            match decision:
                case Grant(job=job_id, engine=engine):
                    head = self.queue.pop(0)
                    assert head.id == job_id, "not the head of the queue"
                    self.running[job_id] = (head, engine)
                    assert self.used(engine) <= self.windows[engine], "over the window"
                case Evict(job=job_id, reason=EvictReason.DEADLINE):
                    (late,) = (job for job in self.queue if job.id == job_id)
                    assert late.deadline_s <= self.now_s, "evicted too early"
                    self.queue.remove(late)
                case Evict(job=job_id, reason=EvictReason.NO_ENGINE):
                    (lost,) = (job for job in self.queue if job.id == job_id)
                    largest = max(self.windows.values(), default=0)
                    assert lost.seqs > largest, "evicted although an engine is large enough"
                    self.queue = [job for job in self.queue if job.id != job_id]
                case Reject():
                    raise AssertionError("only a new job can be rejected")

    @rule(seqs=st.integers(1, 5), wait_s=st.integers(0, 20))
    def submit(self, seqs: int, wait_s: int) -> None:
        self.count += 1
        job = Job(
            id=JobId(f"j{self.count}"),
            tenant="acme",
            seqs=seqs,
            prompt_tokens=1,
            output_tokens_max=1,
            deadline_s=self.now_s + wait_s,
        )
        fits = bool(self.windows) and seqs <= max(self.windows.values())
        decisions = self.core.submit(job)
        if fits and len(self.queue) < self.QUEUE_LEN_MAX:
            self.queue.append(job)
            self.follow(decisions)
        else:
            (decision,) = decisions
            assert isinstance(decision, Reject)
            assert decision.job == job.id

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.queue))
        self.queue.remove(job)
        self.follow(self.core.leave(job.id))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[job_id]
        self.follow(self.core.leave(job_id))

    @rule(number=st.integers(0, 50))
    def leave_a_stranger_or_a_departed(self, number: int) -> None:
        job_id = JobId(f"j{number}")
        if job_id not in self.running and all(job.id != job_id for job in self.queue):
            assert self.core.leave(job_id) == []

    @rule(engine=st.sampled_from([A, B]), seqs_max=st.integers(0, 6))
    def resize(self, engine: EngineName, seqs_max: int) -> None:
        self.windows[engine] = seqs_max
        if seqs_max == 0:
            del self.windows[engine]
        self.follow(self.core.resize(engine, seqs_max))

    @rule(step_s=st.integers(0, 10))
    def expire(self, step_s: int) -> None:
        self.now_s += step_s
        self.follow(self.core.expire(self.now_s))
        assert all(job.deadline_s > self.now_s for job in self.queue), "a deadline was missed"

    @invariant()
    def the_core_agrees_with_the_model(self) -> None:
        self.core.check()
        assert (self.core.waiting, self.core.running) == (len(self.queue), len(self.running))
        assert self.core.snapshot()["windows"] == {
            name: {"seqs": self.used(name), "seqs_max": size} for name, size in self.windows.items()
        }
        deadlines = [job.deadline_s for job in self.queue]
        assert self.core.next_deadline_s == min(deadlines, default=None)

    @invariant()
    def no_room_is_left_while_the_head_fits(self) -> None:
        assert not self.queue or self.room() < self.queue[0].seqs


CoreMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, print_blob=True
)
TestCoreAtRandom = CoreMachine.TestCase
