"""A model of its own beside the scheduler's core: who is alive, what everybody holds and had, in
plain sums over plain lists. It judges every decision by the rules as they are told, knows nothing
of how they are coded, and after each event sees whether one is missing."""

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from infer_daemon.domain.jobs import EngineName, Job, JobId, Tier, WindowLimits
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.decisions import (
    Decision,
    Evict,
    EvictReason,
    Grant,
    Preempt,
    Reject,
    RejectReason,
)
from infer_daemon.scheduling.policy import Policy
from tests.simulation import exchanges
from tests.simulation.laws import Laws

BATCH, ORDINARY, NEWCOMER, CRITICAL = range(4)
LOOK_PAST, PASSES_MAX, LEAD_MAX, CREDIT_MAX = 4, 8, 2048.0, 16_384.0


@dataclass(slots=True, eq=False)
class Case:
    """A job that waits or runs."""

    job: Job
    number: int
    expected: int
    service: float
    since_s: float
    is_impatient: bool = False
    """Whether it has waited longer than jobs of its class should for batch work."""
    passed_by: int = 0
    engine: EngineName | None = None
    generated: int = 0
    kv_tokens: int = 0
    prefill_tokens: int = 0
    """In an engine, until it has generated something."""
    paid: float | None = None

    @property
    def place(self) -> tuple[bool, float, int]:
        """In its tenant's line: who gave a place up has the next, the last to come is the last."""
        gave_way = self.job.preemptions > 0
        return not gave_way, 0.0 if gave_way else self.job.due_s, self.number

    def prefill_with(self, limits: WindowLimits) -> int:
        """A long prompt is in the way with what one step reads of it."""
        return min(max(1, self.job.prompt_tokens), limits.prompt_step_tokens)

    def kv_with(self, block: int) -> int:
        """With whole blocks for each sequence."""
        tokens = max(1, self.job.prompt_tokens) + self.expected
        return self.job.seqs * math.ceil(tokens / block) * block


class Judge:
    """Is told each event with what the core decided."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.waiting: dict[JobId, Case] = {}
        self.running: dict[JobId, Case] = {}
        #: Gave their places up and have not come again.
        self.preempted: dict[JobId, Case] = {}
        self.engines: dict[EngineName, WindowLimits] = {}
        self.counters: dict[tuple[Tier, str], float] = {}
        self.credit = 0.0
        self.lengths: dict[tuple[str, str, int], list[int]] = {}
        self.laws = Laws()
        self._begun: dict[tuple[Tier, str], int] = {}
        self._last: dict[Tier, str] = {}
        self._events = 0

    # Events.

    def submit(self, job: Job, now_s: float, decisions: list[Decision]) -> None:
        self._events += 1
        reason: RejectReason | None = None
        if not self.engines:
            reason = RejectReason.NO_ENGINE
        elif all(job.seqs > limits.seqs for limits in self.engines.values()):
            reason = RejectReason.NEVER_FITS
        elif not job.is_resumed and self._is_full(job.tenant):
            reason = RejectReason.QUEUE_FULL
        if self.preempted.pop(job.id, None) is None:
            self.laws.submitted(job.id)
        if reason is not None:
            assert decisions == [Reject(job.id, reason)], f"it is to be rejected: {reason}"
            self.laws.ended(job.id)
            return
        self._begin(job.tier, job.tenant)
        expected = self._expected(job)
        service = self._prompt_service(job) + self.policy.output_weight * expected * job.seqs
        self.waiting[job.id] = Case(job, self._events, expected, service, now_s)
        self._follow(decisions)

    def token(self, job_id: JobId, count: int, decisions: list[Decision]) -> None:
        case = self.running.get(job_id)
        if case is not None:
            self._charge(case.job, self.policy.output_weight * count)
            case.generated += count
            case.prefill_tokens = 0
            if case.generated > case.expected * case.job.seqs:
                longest = math.ceil(case.generated / case.job.seqs)
                case.expected = max(longest, min(case.job.output_tokens_max, 2 * longest))
                limits = self.engines.get(case.engine or EngineName(""))
                case.kv_tokens = case.kv_with(limits.kv_block_tokens if limits else 1)
        self._follow(decisions)

    def finish(self, job_id: JobId, decisions: list[Decision]) -> None:
        case = self.running.get(job_id)
        if case is not None and case.job.output_tokens_max and not case.job.is_resumed:
            magnitude = len(f"{case.job.output_tokens_max:b}")
            known = self.lengths.setdefault((case.job.tenant, case.job.model, magnitude), [])
            known.append(math.ceil(case.generated / case.job.seqs))
        self.cancel(job_id, decisions)

    def cancel(self, job_id: JobId, decisions: list[Decision]) -> None:
        if job_id in self.waiting:
            self._leave_line(job_id)
            self.laws.ended(job_id)
        elif job_id in self.running:
            self._leave_engine(self.running[job_id])
            self.laws.ended(job_id)
        elif self.preempted.pop(job_id, None):
            self.laws.ended(job_id)
        self._follow(decisions)

    def resize(
        self, engine: EngineName, limits: WindowLimits | None, decisions: list[Decision]
    ) -> None:
        self.engines.pop(engine, None)
        if limits is not None:
            self.engines[engine] = limits
        largest = max((open.seqs for open in self.engines.values()), default=0)
        lost = [job_id for job_id, case in self.waiting.items() if case.job.seqs > largest]
        reason = EvictReason.NEVER_FITS if self.engines else EvictReason.NO_ENGINE
        self._follow(self._evicted(lost, reason, decisions))

    def expire(self, now_s: float, decisions: list[Decision]) -> None:
        late = [job_id for job_id, case in self.waiting.items() if case.job.deadline_s <= now_s]
        decisions = self._evicted(late, EvictReason.DEADLINE, decisions)
        for case in self.waiting.values():
            case.is_impatient = case.is_impatient or self._patience_end_s(case) <= now_s
        self._follow(decisions)

    def change(self, policy: Policy, decisions: list[Decision]) -> None:
        self.policy = policy
        for case in self.waiting.values():
            case.is_impatient = False  # until it is looked at again
        self._follow(decisions)

    # What is compared after each of them.

    def compare(self, core: Core) -> None:
        """The core knows the same jobs, and counts for each engine what is in it."""
        core.check()
        assert core.waiting.keys() == self.waiting.keys(), "others wait"
        assert core.running.keys() == self.running.keys(), "others run"
        assert core.windows.keys() == self.engines.keys(), "other engines are open"
        for name, window in core.windows.items():
            counted = (window.seqs, window.kv_tokens, window.prefill_tokens)
            assert counted == self.held(name), f"{name} holds {self.held(name)}, not {counted}"
            inside = [case for case in self.running.values() if case.engine == name]
            real = sum(case.job.seqs * case.job.prompt_tokens + case.generated for case in inside)
            assert real <= window.kv_tokens, f"{name} holds {real} tokens of {window.kv_tokens}"
        for tier, backlog in core.backlog.items():
            real = sum(case.service for case in self.waiting.values() if case.job.tier is tier)
            assert math.isclose(backlog, real, abs_tol=1e-3), f"{tier} is not {backlog} behind"
        ends = [case.job.deadline_s for case in self.waiting.values()]
        ends += [self._patience_end_s(w) for w in self.waiting.values() if not w.is_impatient]
        assert core.next_deadline_s == min(ends, default=None), "a deadline is lost"

    def held(self, engine: EngineName, without: Collection[Case] = ()) -> tuple[int, int, int]:
        """Sequences, KV tokens and prefill tokens of the jobs in an engine."""
        inside = [
            case for case in self.running.values() if case.engine == engine and case not in without
        ]
        return (
            sum(case.job.seqs for case in inside),
            sum(case.kv_tokens for case in inside),
            sum(case.prefill_tokens for case in inside),
        )

    # The rules.

    def level(self, job: Job) -> int:
        match job.tier:
            case Tier.CRITICAL:
                return CRITICAL
            case Tier.INTERACTIVE:
                inside = {case.job.tenant for case in self.running.values()}
                return ORDINARY if job.tenant in inside else NEWCOMER
            case Tier.BATCH:
                if self.credit > CREDIT_MAX / 2:
                    return NEWCOMER
                return ORDINARY if self.credit > 0 else BATCH

    def fits(
        self, case: Case, engine: EngineName, level: int, without: Collection[Case] = ()
    ) -> bool:
        """Under each limit without what is kept for others; a job that is alone may exceed that."""
        limits, policy, held = self.engines[engine], self.policy, self.held(engine, without)
        kept = {
            CRITICAL: 0.0,
            NEWCOMER: policy.kept_for_critical,
            ORDINARY: policy.kept_for_critical + policy.kept_for_newcomers,
            BATCH: policy.kept_for_critical + policy.kept_for_newcomers + policy.kept_from_batch,
        }[level]
        needs = (case.job.seqs, case.kv_with(limits.kv_block_tokens), case.prefill_with(limits))
        bounds = (limits.seqs, limits.kv_tokens, limits.prefill_tokens)
        return case.job.seqs <= limits.seqs and all(
            not has or has + need <= bound - int(bound * kept)
            for has, need, bound in zip(held, needs, bounds, strict=True)
        )

    def heads(self, tier: Tier) -> list[Case]:
        """The first job of each tenant of a class that waits, in the order of their turns."""
        first: dict[str, Case] = {}
        for case in self.waiting.values():
            if case.job.tier is tier:
                other = first.setdefault(case.job.tenant, case)
                if case.place < other.place:
                    first[case.job.tenant] = case
        return sorted(
            first.values(),
            key=lambda case: (
                self.counters[tier, case.job.tenant],
                self._begun[tier, case.job.tenant],
            ),
        )

    def turns(self, *, firsts_only: bool = False) -> tuple[list[Case], list[Case]]:
        """Who may be granted next, in order, and everybody who was looked at."""
        tiers = [Tier.CRITICAL, Tier.INTERACTIVE, Tier.BATCH]
        if self.credit > 0:
            tiers = [Tier.CRITICAL, Tier.BATCH, Tier.INTERACTIVE]
        may, seen = [], []
        closed = -1
        for tier in tiers:
            heads = self.heads(tier)
            for case in heads if tier is Tier.CRITICAL else heads[:LOOK_PAST]:
                first, counter = heads[0], self.counters[tier, case.job.tenant]
                if counter > self.counters[tier, first.job.tenant] + LEAD_MAX:
                    closed = max(closed, self.level(first.job))
                    break
                if self.level(case.job) > closed and (case is first or not firsts_only):
                    may.append(case)
                seen.append(case)
                if case is first and case.passed_by >= PASSES_MAX:
                    closed = max(closed, self.level(case.job))
        return may, seen

    def _follow(self, decisions: Iterable[Decision]) -> None:
        grants, preempted = list(decisions), list[Preempt]()
        for decision in grants:
            if isinstance(decision, Preempt):
                preempted.append(decision)
                continue
            assert isinstance(decision, Grant), f"nobody should hear {decision}"
            if preempted:
                self._follow_exchange(preempted, decision)
                preempted = []
                continue
            may, seen = self.turns()
            case = next((case for case in may if self.where(case)), None)
            assert case is not None, f"nobody may go, and {decision.job} does"
            assert decision.job == case.job.id, f"{case.job.id} is next, not {decision.job}"
            assert decision.engine in self.where(case), f"{decision.engine} is not the emptiest"
            exchanges.nobody_is_kept_waiting(self, case)
            self._grant(case, decision.engine, seen)
        assert not preempted, f"{preempted} were made for nobody"
        # What streams changes the order; of those behind the first nobody is looked for each time.
        may, _ = self.turns(firsts_only=not grants)
        for case in may:
            assert not self.where(case), f"{case.job.id} was not granted"
        _, seen = self.turns()
        if grants or (seen and exchanges.helped(self) is seen[0]):
            exchanges.nobody_is_kept_waiting(self, None)

    def _patience_end_s(self, case: Case) -> float:
        return case.since_s + self.policy.preempt_after_s.get(case.job.tier, math.inf)

    def _follow_exchange(self, preempted: list[Preempt], grant: Grant) -> None:
        _, seen = self.turns()
        case, victims = exchanges.judged(self, preempted, grant)
        for victim in victims:
            self.laws.preempted(victim.job)
            self._leave_engine(victim)
            self.preempted[victim.job.id] = victim
        self._grant(case, grant.engine, seen)

    def _leave_engine(self, case: Case) -> None:
        del self.running[case.job.id]
        if case.paid is not None:
            service = self._prompt_service(case.job)
            service += self.policy.output_weight * case.generated
            self._add_credit(case.paid - service * (1 - self.policy.batch_share_min))

    def _prompt_service(self, job: Job) -> float:
        """Once, however often it is read."""
        return 0.0 if job.preemptions else self.policy.input_weight * job.prompt_tokens

    def where(self, case: Case) -> set[EngineName]:
        """The emptiest engines that it fits into."""
        level = self.level(case.job)
        free = {
            name: 1 - self.held(name)[0] / limits.seqs
            for name, limits in self.engines.items()
            if self.fits(case, name, level)
        }
        return {name for name, share in free.items() if share == max(free.values())}

    def _grant(self, case: Case, engine: EngineName, seen: list[Case]) -> None:
        self.laws.judge_grant(self, case, engine)
        for other in seen[: seen.index(case)]:
            other.passed_by += self.fits(case, engine, self.level(other.job))
        self._leave_line(case.job.id)
        case.engine, case.kv_tokens = engine, case.kv_with(self.engines[engine].kv_block_tokens)
        case.prefill_tokens = case.prefill_with(self.engines[engine])
        self.running[case.job.id] = case
        others_wait = any(other.job.tier is not Tier.BATCH for other in self.waiting.values())
        if case.job.tier is Tier.BATCH and others_wait:
            case.paid = case.service * (1 - self.policy.batch_share_min)
            self._add_credit(-case.paid)
        self._charge(case.job, max(1.0, self._prompt_service(case.job)))

    def _evicted(
        self, lost: list[JobId], reason: EvictReason, decisions: list[Decision]
    ) -> list[Decision]:
        told = [decision for decision in decisions if decision.job in lost]
        assert sorted(told, key=lambda of: of.job) == [Evict(job, reason) for job in sorted(lost)]
        for job_id in lost:
            self._leave_line(job_id)
            self.laws.ended(job_id)
        return [decision for decision in decisions if decision.job not in lost]

    def _charge(self, job: Job, service: float) -> None:
        by_weight = service / self.policy.weight(job.tenant)
        self.counters[job.tier, job.tenant] += by_weight
        self.laws.served(job, by_weight)
        batch_waits = any(case.job.tier is Tier.BATCH for case in self.waiting.values())
        if job.tier is not Tier.BATCH and batch_waits:
            self._add_credit(service * self.policy.batch_share_min)

    def _add_credit(self, service: float) -> None:
        self.credit = min(CREDIT_MAX, max(-CREDIT_MAX, self.credit + service))

    def _is_full(self, tenant: str) -> bool:
        most = self.policy.queue_len_max
        if len(self.waiting) < most - most // 10:
            return False
        own = sum(case.job.tenant == tenant for case in self.waiting.values())
        return len(self.waiting) >= most or own > most // 100

    def _expected(self, job: Job) -> int:
        magnitude = len(f"{job.output_tokens_max:b}") if job.output_tokens_max else 0
        known = sorted(self.lengths.get((job.tenant, job.model, magnitude), [])[-64:])
        if len(known) < 8:
            return job.output_tokens_max
        return min(job.output_tokens_max, known[math.ceil(0.9 * len(known)) - 1])

    def _waits(self, tier: Tier, tenant: str) -> bool:
        return any((w.job.tier, w.job.tenant) == (tier, tenant) for w in self.waiting.values())

    def _begin(self, tier: Tier, tenant: str) -> None:
        """A tenant that begins to wait starts no lower than the others stand."""
        if self._waits(tier, tenant):
            return
        beside = [self.counters[tier, case.job.tenant] for case in self.heads(tier)]
        if not beside and tier in self._last:
            beside = [self.counters[tier, self._last[tier]]]
        own = self.counters.get((tier, tenant), 0.0)
        self.counters[tier, tenant] = max(own, min(beside, default=0.0))
        self._begun[tier, tenant] = self._events
        self.laws.began(tier, tenant)

    def _leave_line(self, job_id: JobId) -> None:
        job = self.waiting.pop(job_id).job
        if not self._waits(job.tier, job.tenant):
            self._last[job.tier] = job.tenant
            self.laws.waits_no_more(job.tier, job.tenant)
