"""What must hold whatever the rules say about a single decision: nobody ends twice or starves, and
nobody gets more than a fair share. Seen from outside, by who was granted and what was served."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from infer_daemon.domain.jobs import EngineName, Job, JobId, Tier

if TYPE_CHECKING:
    from tests.simulation.judge import Case, Judge

PASSES_EVER = 8
"""Grants to those who may go no further that may take room before the eyes of a job which is the
first of its class."""
LEAD_MAX = 2048.0
PREEMPTIONS_EVER = 2

Pair = tuple[Tier, str, str]


class Laws:
    """Sums that only ever grow, and what they must not exceed."""

    def __init__(self) -> None:
        self.open: Counter[JobId] = Counter()
        #: Service by weight of each tenant of a class.
        self.service: dict[tuple[Tier, str], float] = {}
        self.prompt_tokens_most = 0
        #: Told by the world: the most tokens that the jobs in its engines have when they end.
        self.inside_most = 0
        self.input_weight_most = self.output_weight_most = 0.0
        self.weight_least = math.inf
        #: Whether nobody can pass anybody: the bound is that of the paper itself.
        self.nobody_passes = False
        #: Widest gaps, as share of what is allowed: whether the world was worth its time.
        self.widest = 0.0
        self._backlogged: dict[Tier, set[str]] = {tier: set() for tier in Tier}
        #: Lowest and highest difference of two tenants since both have work that waits.
        self._gaps: dict[Pair, tuple[float, float]] = {}
        self._passes: Counter[JobId] = Counter()
        self._preemptions: Counter[JobId] = Counter()

    def submitted(self, job_id: JobId) -> None:
        assert not self.open[job_id], f"{job_id} is there twice"
        self.open[job_id] += 1

    def ended(self, job_id: JobId) -> None:
        self.open[job_id] -= 1
        assert not self.open[job_id], f"{job_id} has ended twice"
        self._passes.pop(job_id, None)
        self._preemptions.pop(job_id, None)

    def preempted(self, job: Job) -> None:
        """It gave its place up, and has not ended."""
        assert job.tier is Tier.BATCH, f"{job.id} is no batch work"
        assert job.may_give_way, f"{job.id} cannot go on elsewhere"
        self._preemptions[job.id] += 1
        assert self._preemptions[job.id] <= PREEMPTIONS_EVER, f"{job.id} gives way for ever"

    def judge_grant(self, judge: Judge, case: Case, engine: EngineName) -> None:
        """Before it is carried out."""
        self._judge_window(judge, case, engine)
        if case.job.tier is not Tier.CRITICAL:
            for other in judge.heads(Tier.CRITICAL):
                assert not judge.fits(other, engine, 3), (
                    f"critical {other.job.id} waits behind {case.job.id}, which goes into {engine}"
                )
        order = [Tier.CRITICAL, Tier.INTERACTIVE, Tier.BATCH]
        if judge.credit > 0:
            order = [Tier.CRITICAL, Tier.BATCH, Tier.INTERACTIVE]
        for tier in order[: order.index(case.job.tier) + 1]:
            for first in judge.heads(tier)[:1]:
                if first is not case and judge.level(case.job) <= judge.level(first.job):
                    self._passes[first.job.id] += 1
                    assert self._passes[first.job.id] <= PASSES_EVER, f"{first.job.id} starves"
        self.prompt_tokens_most = max(self.prompt_tokens_most, case.job.prompt_tokens)

    def _judge_window(self, judge: Judge, case: Case, engine: EngineName) -> None:
        limits, (seqs, kv_tokens, prefill_tokens) = judge.engines[engine], judge.held(engine)
        assert seqs + case.job.seqs <= limits.seqs, f"{engine} has too many sequences"
        assert kv_tokens <= limits.kv_tokens or not seqs, f"{engine} has grown over its limit"
        if seqs:
            more = case.kv_with(limits.kv_block_tokens)
            assert kv_tokens + more <= limits.kv_tokens, f"{engine} has too many KV tokens"
        if prefill_tokens:
            more = case.prefill_with(limits)
            assert prefill_tokens + more <= limits.prefill_tokens, f"{engine} prefills too much"

    def began(self, tier: Tier, tenant: str) -> None:
        """The tenant has work that waits, in this class."""
        had = self.service.setdefault((tier, tenant), 0.0)
        for other in self._backlogged[tier]:
            gap = had - self.service[tier, other]
            self._gaps[tier, tenant, other] = (gap, gap)
            self._gaps[tier, other, tenant] = (-gap, -gap)
        self._backlogged[tier].add(tenant)

    def waits_no_more(self, tier: Tier, tenant: str) -> None:
        self._backlogged[tier].discard(tenant)
        for other in self._backlogged[tier]:
            del self._gaps[tier, tenant, other], self._gaps[tier, other, tenant]

    def served(self, job: Job, by_weight: float) -> None:
        """VTC's theorem, for every interval in which both have work that waits."""
        tier, tenant = job.tier, job.tenant
        self.service[tier, tenant] += by_weight
        if tenant not in self._backlogged[tier]:
            return
        most = max(
            self.input_weight_most * max(1, self.prompt_tokens_most),
            self.output_weight_most * self.inside_most,
        )
        bound = 2 * (most / self.weight_least + (0.0 if self.nobody_passes else LEAD_MAX))
        for other in self._backlogged[tier] - {tenant}:
            gap = self.service[tier, tenant] - self.service[tier, other]
            low, high = self._gaps[tier, tenant, other]
            low, high = min(low, gap), max(high, gap)
            self._gaps[tier, tenant, other] = (low, high)
            self._gaps[tier, other, tenant] = (-high, -low)
            self.widest = max(self.widest, (high - low) / bound)
            assert high - low <= bound, f"{tenant} is served {high - low:.0f} more than {other}"
