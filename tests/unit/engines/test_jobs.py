"""What the scheduler is told of an engine call."""

from dataclasses import replace

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.jobs import EngineName, JobId, Tier
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.contract import Work
from infer_daemon.engines.jobs import job_again, job_of
from infer_daemon.engines.sim.tokens import Choice, SimPayload, SimProgress

WORK = Work(
    id=JobId("w"),
    payload=None,
    wants="deltas",
    merge=list.extend,
    prompt_tokens=7,
    output_tokens_max=9,
    seqs=2,
)


def make_record(now_s: float = 0.0) -> RequestRecord:
    """A batch request of which the daemon asks another model than its client did."""
    record = RequestRecord(id="r", endpoint=Endpoint.CHAT, accepted_s=0.0, clock=lambda: now_s)
    record.tenant, record.tier = "acme", Tier.BATCH
    record.model, record.answered_by = "asked", "answers"
    record.due_s = record.deadline_s = 60.0
    return record


def test_the_model_of_a_job_is_the_one_that_answers() -> None:
    assert job_of(WORK, make_record()).model == "answers"


def test_a_call_that_can_only_be_begun_again_does_not_give_way() -> None:
    assert not job_of(WORK, make_record()).may_give_way


def test_batch_work_gives_way_if_it_can_go_on_and_no_other() -> None:
    payload = SimPayload([Choice(["w0", "w1"], "stop")])
    progress = SimProgress(prompt_token_ids=[1], context_tokens=100, payload=payload)
    work, record = replace(WORK, seqs=1, progress=progress), make_record()

    assert job_of(work, record).may_give_way
    for record.tier in (Tier.INTERACTIVE, Tier.CRITICAL):
        assert not job_of(work, record).may_give_way


def test_a_job_that_comes_again_says_how_often_it_gave_way_and_who_has_failed_it() -> None:
    avoids = frozenset({EngineName("a")})
    job = job_again(WORK, make_record(), preemptions=1, avoids=avoids)

    assert (job.is_resumed, job.preemptions, job.avoids) == (True, 1, avoids)


def test_a_job_that_comes_again_has_as_long_to_wait_as_at_first() -> None:
    job = job_again(WORK, make_record(now_s=100.0), preemptions=0, avoids=frozenset())

    assert (job.due_s, job.deadline_s) == (60.0, 160.0)
