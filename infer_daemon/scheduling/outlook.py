"""What somebody who waits, or would, has to expect. Pure; reads the state and changes nothing."""

from dataclasses import dataclass
from math import inf

from infer_daemon.domain.jobs import JobId, Tier
from infer_daemon.scheduling.preemption import gives_way_to
from infer_daemon.scheduling.state import Running, State


@dataclass(frozen=True, slots=True)
class Prospect:
    """Of one waiting job."""

    position: int
    """In its tenant's own line, from 1."""
    wait_s: float
    """Until its turn; 0 while nothing is known of the engines' pace."""


class Outlook:
    """As things are at one moment; good for as many questions as come before the next event."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._left_s: list[float] | None = None

    def expected_wait_s(self, tenant: str, tier: Tier, due_s: float, *, coming: int = 0) -> float:
        """How long a job of that tenant and class would wait if it came now and were due then: of
        its tenant's own work, what is due earlier goes before it.

        Args: coming: jobs of theirs that are not in line yet and will be before it.
        """
        state = self._state
        line = state.lines.get((tier, tenant))
        if line:
            return self._wait_s(tenant, tier, line.service_before(due_s), coming)
        level = state.level(tier, tenant)
        is_open = [w for w in state.windows.values() if w.open_from <= level]
        beyond = coming - sum(window.limits.seqs - window.seqs for window in is_open)
        if is_open and beyond < 0:
            return 0.0
        return self._wait_s(tenant, tier, 0.0, max(0, beyond))

    def prospect(self, job_id: JobId) -> Prospect | None:
        """What a job has to expect; None if it does not wait."""
        waiting = self._state.waiting.get(job_id)
        if waiting is None:
            return None
        job = waiting.job
        line = self._state.lines[job.tier, job.tenant]
        position = line.position(waiting)
        before = line.service * (position - 1) / len(line)
        return Prospect(position, self._wait_s(job.tenant, job.tier, before))

    def _wait_s(self, tenant: str, tier: Tier, before: float, coming: int = 0) -> float:
        """Whatever is in the classes above, and what goes before it in its own. Batch work waits
        for the classes above no longer than until its minimum share has reached it; others no
        longer than until it gives way, while there is some for each who goes before."""
        state = self._state
        per_s = state.pace.service_per_s
        if not per_s:
            return 0.0
        above = sum(state.backlog[of] for of in Tier if of.rank < tier.rank)
        to_come = coming * self._mean if coming else 0.0
        others = self._others_before(tenant, tier, before + to_come)
        beside = min(state.backlog[tier], before + others) + to_come
        if tier is Tier.BATCH:
            share_min = state.policy.batch_share_min
            above = min(above, state.batch_share.others_before(beside, share_min))
        wait_s = self._until_place_s(above + beside, per_s)
        after_s = state.policy.preempt_after_s.get(tier, inf)
        if after_s < wait_s and self._jobs(above + beside) < gives_way_to(state, tier):
            return after_s
        return wait_s

    def _others_before(self, tenant: str, tier: Tier, before: float) -> float:
        """Service that the other tenants of a class get until one of them has had `before` more:
        each until its counter is as far as that one's then is, and one job beyond it."""
        state = self._state
        fairness, weight = state.fairness[tier], state.policy.weight
        reached = fairness.counter_of(tenant) + before / weight(tenant)
        service = 0.0
        for other in fairness.up_to(reached):
            if other != tenant:
                line = state.lines[tier, other]
                ahead = (reached - fairness.counters[other]) * weight(other)
                service += min(line.service, ahead + line.first.service)
        return service

    def _until_place_s(self, before: float, per_s: float) -> float:
        """Until a place is free for whoever comes after so much waiting work.

        Jobs that went in together end together, so how far those inside have come counts as much
        as how many wait: places are filled in rounds, each when its job has ended.
        """
        state = self._state
        places = len(state.running)
        if not places:
            return before / per_s
        place_per_s = per_s / places
        if self._left_s is None:
            running = state.running.values()
            self._left_s = sorted(_left_s(state, one, place_per_s) for one in running)
        rounds, place = divmod(self._jobs(before), places)
        return rounds * self._mean / place_per_s + self._left_s[place]

    @property
    def _mean(self) -> float:
        """What a waiting job is expected to cost; if none waits, what those inside were."""
        state = self._state
        if state.waiting:
            return sum(state.backlog.values()) / len(state.waiting)
        inside = state.running.values()
        service = state.policy.service
        whole = sum(service(one.job, one.output_tokens * one.job.seqs) for one in inside)
        return whole / max(1, len(inside))

    def _jobs(self, service: float) -> int:
        """About how many waiting jobs come to that."""
        return round(service / self._mean) if self._mean > 0 else 0


def _left_s(state: State, running: Running, place_per_s: float) -> float:
    """For how long a job in an engine is still expected to be there. Once its prompt is done, by
    the time that output takes: that is far less service a second than prompts are.

    Args: place_per_s: service that a place gives in a second, prompts and output together.
    """
    job, token_s = running.job, state.pace.output_token_s
    if running.generated and token_s is not None:
        return max(0.0, running.output_tokens - running.generated / job.seqs) * token_s
    whole = state.policy.service(job, running.output_tokens * job.seqs)
    done = state.policy.service(job, running.generated) if running.generated else 0.0
    return max(0.0, whole - done) / place_per_s


def snapshot(state: State) -> dict[str, object]:
    """Plain values for `infer-daemon state` and metrics."""
    outlook = Outlook(state)
    return {
        "waiting": len(state.waiting),
        "running": len(state.running),
        "service_per_s": round(state.pace.service_per_s or 0.0, 1),
        "classes": {tier.value: _tenants(state, tier, outlook) for tier in Tier},
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


def _tenants(state: State, tier: Tier, outlook: Outlook) -> dict[str, dict[str, object]]:
    """Whoever ever used this class: how many wait and run, the counter, the wait of one
    more that is due last."""
    running: dict[str, int] = {}
    for job in (running.job for running in state.running.values() if running.job.tier is tier):
        running[job.tenant] = running.get(job.tenant, 0) + 1
    return {
        tenant: {
            "waiting": len(state.lines.get((tier, tenant), ())),
            "running": running.get(tenant, 0),
            "counter": round(counter, 1),
            "expected_wait_s": round(outlook.expected_wait_s(tenant, tier, inf), 2),
        }
        for tenant, counter in state.fairness[tier].counters.items()
    }
