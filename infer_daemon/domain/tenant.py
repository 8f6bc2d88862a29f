"""Who asks."""

from dataclasses import dataclass

from infer_daemon.domain.jobs import Tier


@dataclass(frozen=True, slots=True)
class Tenant:
    """The party that a request is charged to. Chosen by the key, never by the request."""

    name: str
    tier: Tier = Tier.INTERACTIVE
    """Of requests that name none."""
    tier_max: Tier = Tier.INTERACTIVE
    """The most urgent class that it may ask for."""
    models: frozenset[str] = frozenset()
    """Public names of the models that it may use; empty for all."""
    ttft_objective_s: float | None = None
    """When it would like its answers to begin, from their arrival."""
    deadline_s: float | None = None
    """When its answers must have begun, for requests that do not say."""

    def may_use(self, model: str) -> bool:
        """Whether it may use that model."""
        return not self.models or model in self.models
