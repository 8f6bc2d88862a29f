"""What the scheduler decides about: a job is one generation that wants to enter an engine."""

from dataclasses import dataclass
from typing import NewType

JobId = NewType("JobId", str)
EngineName = NewType("EngineName", str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call of an engine, as far as turns and room are concerned."""

    id: JobId
    tenant: str
    seqs: int
    """Sequences it occupies in the engine at once (`n`)."""
    prompt_tokens: int
    output_tokens_max: int
    """What the engine was asked to generate at most, per sequence; 0 for pooling."""
    deadline_s: float
    """Loop time at which waiting ends in a refusal."""
