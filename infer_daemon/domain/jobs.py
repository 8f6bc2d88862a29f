"""What the scheduler decides about: a job is one generation that wants to enter an engine."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

JobId = NewType("JobId", str)
EngineName = NewType("EngineName", str)

KEPT_IN_QUEUE, FEW_IN_QUEUE = 10, 100
"""The last tenth of a queue is for tenants that have at most a hundredth of it: whoever fills it
leaves a way in for others."""


class Tier(StrEnum):
    """The class of a request, in strict order: who is in an earlier one goes first."""

    CRITICAL = "critical"
    INTERACTIVE = "interactive"
    BATCH = "batch"

    __hash__ = str.__hash__  # an enumeration's own takes longer than all else that a look-up does

    @property
    def rank(self) -> int:
        """0 for the first to go."""
        return _RANKS[self]

    @property
    def service_tier(self) -> str:
        """OpenAI's word for it."""
        return _SERVICE_TIERS[self]

    def at_most(self, ceiling: "Tier") -> "Tier":
        """This class, or the ceiling where this one would be above it."""
        return max(self, ceiling, key=lambda tier: tier.rank)


_SERVICE_TIERS = {
    Tier.CRITICAL: "priority",
    Tier.INTERACTIVE: "default",
    Tier.BATCH: "flex",
}
_RANKS = {tier: rank for rank, tier in enumerate(Tier)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One call of an engine, as far as turns and room are concerned."""

    id: JobId
    tenant: str
    tier: Tier = Tier.INTERACTIVE
    model: str = ""
    """Public name of what it asks for; output lengths are learned per tenant and model."""
    seqs: int
    """Sequences it occupies in the engine at once (`n`)."""
    prompt_tokens: int
    output_tokens_max: int
    """What the engine was asked to generate at most, per sequence; 0 for pooling."""
    due_s: float
    """Loop time at which its tenant would like it to begin: the order inside a tenant."""
    deadline_s: float
    """Loop time at which waiting ends in a refusal; not before `due_s`."""
    is_resumed: bool = False
    """Whether it had a place in an engine that was lost: it may wait although the queue is full."""
    avoids: frozenset[EngineName] = frozenset()
    """Engines that have failed it: not to be given to them as long as there is another."""
    may_give_way: bool = False
    """Whether it may be taken out of its engine for more urgent work: it is batch work, and goes on
    later exactly as if it had not been."""
    preemptions: int = 0
    """How often it gave its place up: it comes back to the front of its line."""

    @property
    def input_tokens(self) -> int:
        """Of its prompt, what its tenant is charged for when it goes in: once, however often it has
        to be read."""
        return 0 if self.preemptions else self.prompt_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimits:
    """How much work an engine is given at once; each at least 1."""

    seqs: int
    kv_tokens: int = 1 << 60
    """Tokens of prompts and outputs that its KV cache may hold; pooling engines need none."""
    prompt_step_tokens: int = 1 << 60
    """The most that one step reads of one prompt: what a longer one has beyond that is in nobody's
    way, and does not count as prefill tokens."""
    prefill_tokens: int = 1 << 60
    """Prompt tokens whose request has no output yet: what stands in the way of everybody's next
    token."""
    kv_block_tokens: int = 1
    """Tokens of one block of the cache: a sequence takes whole blocks."""
    entries: int | None = None
    """Jobs that may enter until its limits are set again; None for any number."""
