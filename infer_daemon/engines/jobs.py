"""What the scheduler is told of an engine call."""

from dataclasses import replace

from infer_daemon.domain.jobs import EngineName, Job, Tier
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.contract import Work
from infer_daemon.engines.resuming import may_give_way


def job_of(work: Work, record: RequestRecord) -> Job:
    """For its first turn."""
    return Job(
        id=work.id,
        tenant=record.tenant,
        tier=record.tier,
        model=record.served_model,
        seqs=work.seqs,
        prompt_tokens=work.prompt_tokens,
        output_tokens_max=work.output_tokens_max,
        due_s=record.due_s,
        deadline_s=record.deadline_s,
        may_give_way=record.tier is Tier.BATCH and may_give_way(work),
    )


def job_again(
    work: Work, record: RequestRecord, *, preemptions: int, avoids: frozenset[EngineName]
) -> Job:
    """For another turn, after it has lost its place. The patience that the request came with begins
    anew: it has waited for its first turn only."""
    patience_s = max(0.0, record.deadline_s - record.accepted_s)
    return replace(
        job_of(work, record),
        deadline_s=max(record.deadline_s, record.clock() + patience_s),
        is_resumed=True,
        preemptions=preemptions,
        avoids=avoids,
    )
