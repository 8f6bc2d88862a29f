"""One engine under more work than it can do: who gets how much of it in the long run."""

import itertools
from collections import defaultdict
from dataclasses import dataclass

from infer_daemon.domain.jobs import EngineName, Job, JobId, Tier, WindowLimits
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.decisions import Decision, Grant
from infer_daemon.scheduling.policy import Policy
from tests.simulation.engine import Progress, SimEngine

ENGINE = EngineName("a")
STEP_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A tenant that always has as many jobs waiting, all alike."""

    tenant: str
    tier: Tier = Tier.INTERACTIVE
    prompt_tokens: int = 100
    output_tokens: int = 400
    waiting: int = 2


class Flood:
    """Sources, the core and an engine of ten output tokens a step and sequence."""

    def __init__(self, limits: WindowLimits, policy: Policy, *sources: Source) -> None:
        self.core = Core(policy)
        self.sources = list(sources)
        self._policy = policy
        self.now_s = 0.0
        #: What was served, weighed like the policy does.
        self.service: dict[str, float] = defaultdict(float)
        #: Tenants, in the order in which they were let in.
        self.granted: list[str] = []
        self._engine = SimEngine(ENGINE, limits, STEP_S, prefill_per_step=5000, output_per_step=10)
        self._by_job: dict[JobId, Source] = {}
        self._numbers = itertools.count()
        self.core.resize(ENGINE, limits, self.now_s)

    def run(self, steps: int) -> "Flood":
        for _ in range(steps):
            self.now_s += STEP_S
            self._come()
            for job_id, count, is_last in self._engine.step():
                self._token(job_id, count)
                if is_last:
                    self._finish(job_id)
            self.core.check()
        return self

    def share_of(self, tenant: str) -> float:
        """Of all the service so far."""
        return self.service[tenant] / sum(self.service.values())

    def _come(self) -> None:
        for source in self.sources:
            line = self.core.lines.get((source.tier, source.tenant), ())
            for _ in range(source.waiting - len(line)):
                job = Job(
                    id=JobId(f"{source.tenant}-{next(self._numbers)}"),
                    tenant=source.tenant,
                    tier=source.tier,
                    seqs=1,
                    prompt_tokens=source.prompt_tokens,
                    output_tokens_max=source.output_tokens,
                    due_s=self.now_s,
                    deadline_s=self.now_s + 1e9,
                )
                self._by_job[job.id] = source
                self._carry_out(self.core.submit(job, self.now_s))

    def _token(self, job_id: JobId, count: int) -> None:
        self.service[self._by_job[job_id].tenant] += self._policy.output_weight * count
        self._carry_out(self.core.token(job_id, count, self.now_s))

    def _finish(self, job_id: JobId) -> None:
        del self._engine.jobs[job_id], self._by_job[job_id]
        self._carry_out(self.core.finish(job_id, self.now_s))

    def _carry_out(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            assert isinstance(decision, Grant)
            source = self._by_job[decision.job]
            self.granted.append(source.tenant)
            self.service[source.tenant] += self._policy.input_weight * source.prompt_tokens
            job = self.core.running[decision.job].job
            outputs = [source.output_tokens]
            self._engine.jobs[decision.job] = Progress(job, source.prompt_tokens, outputs)
