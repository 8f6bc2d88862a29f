"""How turns are shared out: what an operator may change while jobs wait and run."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from infer_daemon.domain.jobs import Job, Tier


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The same for every pool of the daemon."""

    queue_len_max: int
    input_weight: float = 1.0
    output_weight: float = 2.0
    """Service per token: an output token takes a step of the engine, an input token a part of one
    (VTC, Sheng et al., OSDI 2024)."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Tenant -> share beside the others'; 1 for those that are not named."""
    batch_share_min: float = 0.05
    """Share of the service that batch work gets while it waits, whoever else does."""
    kept_for_critical: float = 0.05
    kept_for_newcomers: float = 0.1
    kept_from_batch: float = 0.15
    """Shares of each window: see `window.Level`."""
    preempt_after_s: Mapping[Tier, float] = field(default_factory=dict)
    """How long a job of that class waits until batch work gives way to it; for ever, in a class
    that is not named."""

    def service(self, job: Job, output_tokens: int) -> float:
        """What a job costs with that many output tokens, all sequences together."""
        return self.input_weight * job.input_tokens + self.output_weight * output_tokens

    def weight(self, tenant: str) -> float:
        """The tenant's share beside the others'."""
        return self.weights.get(tenant, 1.0)
