"""What somebody who waits, or would, has to expect. Pure; reads the state and changes nothing."""

from dataclasses import dataclass

from infer_daemon.domain.jobs import JobId, Tier
from infer_daemon.scheduling.state import State


@dataclass(frozen=True, slots=True)
class Prospect:
    """Of one waiting job."""

    position: int
    """In its tenant's own line, from 1."""
    wait_s: float
    """Until its turn; 0 while nothing is known of the engines' pace."""


def expected_wait_s(state: State, tenant: str, tier: Tier) -> float:
    """How long a job of that tenant and class would wait if it came now."""
    return _expected_wait_s(state, tenant, tier, _weights(state, tier))


def prospect(state: State, job_id: JobId) -> Prospect | None:
    """What a job has to expect; None if it does not wait."""
    waiting = state.waiting.get(job_id)
    if waiting is None:
        return None
    job = waiting.job
    line = state.lines[job.tier, job.tenant]
    position = line.position(waiting)
    before = line.service * (position - 1) / len(line)
    return Prospect(
        position, _wait_s(state, job.tenant, job.tier, before, _weights(state, job.tier))
    )


def _weights(state: State, tier: Tier) -> float:
    """Of all who wait in a class, together."""
    return sum(map(state.policy.weight, state.fairness[tier].waiting))


def _expected_wait_s(state: State, tenant: str, tier: Tier, weights: float) -> float:
    line = state.lines.get((tier, tenant))
    if line:
        return _wait_s(state, tenant, tier, line.service, weights)
    level = state.level(tier, tenant)
    if any(window.open_from <= level for window in state.windows.values()):
        return 0.0
    return _wait_s(state, tenant, tier, 0.0, weights)


def _wait_s(state: State, tenant: str, tier: Tier, before: float, weights: float) -> float:
    """The tenant's own work before this job, at the tenant's share of the pace, but never more than
    all the work of its class; and whatever is in the classes above."""
    per_s = state.pace.service_per_s
    if per_s is None:
        return 0.0
    above = sum(state.backlog[of] for of in Tier if of.rank < tier.rank)
    own = before * weights / state.policy.weight(tenant)
    return (above + min(state.backlog[tier], own)) / per_s


def snapshot(state: State) -> dict[str, object]:
    """Plain values for `infer-daemon state` and metrics."""
    return {
        "waiting": len(state.waiting),
        "running": len(state.running),
        "service_per_s": round(state.pace.service_per_s or 0.0, 1),
        "classes": {tier.value: _tenants(state, tier) for tier in Tier},
        "windows": {
            name: {
                "seqs": window.seqs,
                "seqs_max": window.limits.seqs,
                "kv_tokens": window.kv_tokens,
                "kv_tokens_max": window.limits.kv_tokens,
                "prefill_tokens": window.prefill_tokens,
                "prefill_tokens_max": window.limits.prefill_tokens,
            }
            for name, window in state.windows.items()
        },
    }


def _tenants(state: State, tier: Tier) -> dict[str, dict[str, object]]:
    """Whoever ever used this class: how many wait and run, the counter, one more's wait."""
    running: dict[str, int] = {}
    for job in (running.job for running in state.running.values() if running.job.tier is tier):
        running[job.tenant] = running.get(job.tenant, 0) + 1
    weights = _weights(state, tier)
    return {
        tenant: {
            "waiting": len(state.lines.get((tier, tenant), ())),
            "running": running.get(tenant, 0),
            "counter": round(counter, 1),
            "expected_wait_s": round(_expected_wait_s(state, tenant, tier, weights), 2),
        }
        for tenant, counter in state.fairness[tier].counters.items()
    }
