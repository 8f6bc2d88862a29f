"""Going on with a call whose engine was lost: from what there is to what is asked for next."""

from dataclasses import dataclass, replace

from infer_daemon.domain.errors import EngineDied
from infer_daemon.engines.continuing import (
    Continue,
    Inexact,
    Leg,
    Refuse,
    Rerun,
    is_exact,
    next_step,
)
from infer_daemon.engines.contract import Progress, Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumption:
    """How a call goes on."""

    work: Work
    waste_tokens: int
    """Worked on in vain by the engine that was lost, or once more by the next."""
    inexact: frozenset[Inexact] = frozenset()
    """What will not be as in an undisturbed run."""


def resumption(work: Work, *, has_sent: bool) -> Resumption:
    """How to go on with a call.

    Args: work: the call as it was made, also if it has been resumed before.

    Raises:
        EngineDied: it cannot go on; says why.
    """
    progress = work.progress
    if progress is None:
        if has_sent:
            raise EngineDied("the engine died, and this call can only be begun again")
        return Resumption(work=work, waste_tokens=work.prompt_tokens)
    sequences, sampling = progress.sequences(), progress.sampling
    prompt = progress.prompt_token_ids
    match next_step(prompt, sequences, sampling, progress.target, has_sent=has_sent):
        case Rerun(waste_tokens=waste_tokens):
            again = replace(work, payload=progress.again())
            return Resumption(work=again, waste_tokens=waste_tokens)
        case Continue() as step:
            return Resumption(
                work=_further(work, progress, step),
                waste_tokens=sum(leg.waste_tokens for leg in step.legs),
                inexact=step.inexact,
            )
        case Refuse(reason=reason):
            raise EngineDied(reason)


def may_give_way(work: Work) -> bool:
    """Whether a call can be taken out of an engine, and go on later, without a difference."""
    progress = work.progress
    if progress is None:
        return False
    return is_exact(len(progress.prompt_token_ids), progress.sampling, progress.target)


def _further(work: Work, progress: Progress, step: Continue) -> Work:
    legs: tuple[Leg, ...] = step.legs
    return replace(
        work,
        payload=progress.further(step),
        # Each sequence counts its prompt: by the longest.
        prompt_tokens=work.prompt_tokens + max((leg.kept_tokens for leg in legs), default=0),
        output_tokens_max=max((leg.max_tokens for leg in legs), default=0),
        seqs=max(1, len(legs)),
    )
