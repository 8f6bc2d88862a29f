"""A world in virtual time around the scheduler's core: tenants that come, flood, give up; engines
that step, shrink, die and return; clocks that jump. All of it from one seed."""

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import replace

from infer_daemon.domain.jobs import EngineName, Job, JobId, Tier, WindowLimits
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.decisions import Decision, Evict, Grant, Preempt, Reject
from infer_daemon.scheduling.outlook import Outlook, snapshot
from infer_daemon.scheduling.policy import Policy
from tests.simulation.engine import Progress, SimEngine
from tests.simulation.judge import Judge

UNBOUNDED = 1 << 60
DAY_S = 86_400.0


class World:
    """One life of a pool, from the first arrival until nobody is left."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)
        self.is_uniform = chance.random() < 0.2
        """Jobs of one size and no room for newcomers: nobody can pass anybody."""
        self.scale = chance.choice([1, 1, 30, 300])
        self.tenants = [f"t{number}" for number in range(chance.choice([1, 2, 3, 4, 7]))]
        self.habits = {tenant: chance.choice([0.1, 0.5, 1.0]) for tenant in self.tenants}
        self.tiers = {tenant: self._some_tiers() for tenant in self.tenants}
        self.time_s, self.shift_s = 0.0, 0.0
        self.is_coarse = chance.random() < 0.2
        self.jumps = chance.random() < 0.15
        self.preemptions = 0
        self.jobs_left = chance.choice([10, 30, 60, 100])
        self.policy = self._some_policy()
        self.core, self.judge = Core(self.policy), Judge(self.policy)
        self._note_policy()
        #: Outputs that jobs have before them which gave their places up.
        self._left: dict[JobId, list[int]] = {}
        self.engines = [self._some_engine(name) for name in "abc"[: chance.choice([1, 1, 2, 3])]]
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0

    # What it is made of.

    def _some_tiers(self) -> list[Tier]:
        every = list(Tier)
        return self.chance.choice([[Tier.INTERACTIVE], [Tier.BATCH], every, every[:2], every[1:]])

    def _some_policy(self) -> Policy:
        chance, kept = self.chance, self.chance.choice([0.0, 0.1])
        return Policy(
            queue_len_max=chance.choice([2, 20, 60, 60]),
            weights={
                tenant: chance.choice([0.5, 2.0, 5.0])
                for tenant in self.tenants
                if chance.random() < 0.3
            },
            output_weight=chance.choice([2.0, 2.0, 4.0]),
            batch_share_min=chance.choice([0.0, 0.05, 0.3]),
            kept_for_critical=chance.choice([0.0, 0.05, 0.2]),
            kept_for_newcomers=0.0 if self.is_uniform else kept,
            kept_from_batch=chance.choice([0.0, 0.15]),
            preempt_after_s={
                tier: chance.choice([0.0, 0.5, 2.0])
                for tier in (Tier.CRITICAL, Tier.INTERACTIVE)
                if chance.random() < 0.7
            },
        )

    def _some_limits(self) -> WindowLimits:
        chance = self.chance
        return WindowLimits(
            seqs=chance.choice([1, 3, 8, 8, 24]),
            kv_tokens=chance.choice([UNBOUNDED, 200, 800]) * self.scale,
            prefill_tokens=chance.choice([UNBOUNDED, 60, 300]) * self.scale,
            kv_block_tokens=chance.choice([1, 16]),
            prompt_step_tokens=chance.choice([UNBOUNDED, UNBOUNDED, 30]) * self.scale,
        )

    def _some_engine(self, name: str) -> SimEngine:
        return SimEngine(
            EngineName(name),
            self._some_limits(),
            step_s=self.chance.choice([0.1, 0.25]),
            prefill_per_step=self.chance.choice([40, 200]) * self.scale,
            output_per_step=self.chance.choice([3, 8, 20]) * self.scale,
        )

    def _some_job(self, tenant: str, now_s: float) -> Job:
        chance, scale = self.chance, self.scale
        due_s = now_s + chance.choice([0.0, 0.0, 0.5, 3.0])
        prompt, output, seqs = 30 * scale, 40 * scale, 1
        if not self.is_uniform:
            prompt = chance.choice([0, 10, 10, 40, 40, 250]) * scale
            output = chance.choice([0, 5, 40, 40, 100]) * scale
            seqs = chance.choice([1, 1, 1, 1, 1, 2, 3, 7])
        tier = chance.choice(self.tiers[tenant])
        return Job(
            id=self._fresh_id(),
            tenant=tenant,
            tier=tier,
            may_give_way=tier is Tier.BATCH and not self.is_uniform and chance.random() < 0.8,
            model=chance.choice("mn"),
            seqs=seqs,
            prompt_tokens=prompt,
            output_tokens_max=output,
            due_s=due_s,
            deadline_s=due_s + chance.choice([0.0, 5.0, 60.0, 60.0]),
        )

    # How it goes.

    def run(self) -> "World":
        """Until everybody has gone."""
        for engine in self.engines:
            self._open(engine)
        for tenant in self.tenants:
            self._soon(2.0, lambda tenant=tenant: self._arrive(tenant))
        self._soon(5.0, self._trouble)
        while self._agenda or self.core.next_deadline_s is not None:
            self._advance()
        self._nothing_is_left()
        return self

    def _advance(self) -> None:
        deadline_s = self.core.next_deadline_s
        next_s = self._agenda[0][0] if self._agenda else math.inf
        if deadline_s is not None and deadline_s - self.shift_s <= next_s:
            # The shell's timer, which brings its deadline along, may come late.
            self.time_s = max(self.time_s, deadline_s - self.shift_s)
            if not self._agenda or self.chance.random() < 0.9:
                now_s = max(deadline_s, self._now_s())
                decisions = self.core.expire(now_s)
                self.judge.expire(now_s, decisions)
                self._carry_out(decisions)
                return
        self.time_s, _, event = heapq.heappop(self._agenda)
        event()

    def _soon(self, mean_s: float, event: Callable[[], None]) -> None:
        delay_s = self.chance.choice([0.0, self.chance.expovariate(1 / mean_s)])
        self._after(delay_s, event)

    def _after(self, delay_s: float, event: Callable[[], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._agenda, (self.time_s + delay_s, self._numbers, event))

    def _now_s(self) -> float:
        now_s = self.time_s + self.shift_s
        if self.is_coarse:
            return math.floor(now_s)
        if self.jumps and self.chance.random() < 0.05:
            return now_s - 0.05
        return now_s

    def _fresh_id(self) -> JobId:
        self._numbers += 1
        return JobId(f"j{self._numbers}")

    # Who comes and who gives up.

    def _arrive(self, tenant: str) -> None:
        for _ in range(self.chance.choice([1, 1, 1, 4, 12])):
            self.jobs_left -= 1
            self._submit(self._some_job(tenant, self._now_s()))
        if self.jobs_left > 0:
            self._soon(1.0, lambda: self._arrive(tenant))

    def _submit(self, job: Job) -> None:
        now_s = self._now_s()
        decisions = self.core.submit(job, now_s)
        self.judge.submit(job, now_s, decisions)
        if self.chance.random() < 0.1:
            self._soon(2.0, lambda: self._cancel(job.id))
        self._carry_out(decisions)

    def _cancel(self, job_id: JobId) -> None:
        """Of a job that waits, runs, or is no more."""
        for engine in self.engines:
            engine.jobs.pop(job_id, None)
        self._left.pop(job_id, None)
        decisions = self.core.cancel(job_id, self._now_s())
        self.judge.cancel(job_id, decisions)
        self._carry_out(decisions)

    def _carry_out(self, decisions: list[Decision]) -> None:
        """Like the shell: all of them, before the next event."""
        cancelled, preempted = [], []
        for decision in decisions:
            match decision:
                case Grant(job=job_id, engine=name):
                    self._enter(self.core.running[job_id].job, name)
                    if self.chance.random() < 0.03:
                        cancelled.append(job_id)
                case Preempt(job=job_id):
                    preempted.append(self._take_out(job_id))
                case Evict() | Reject():
                    pass
        self.judge.compare(self.core)
        if self.chance.random() < 0.02:
            self._look()
        for job_id in cancelled:
            self._cancel(job_id)
        for job in preempted:
            self._come_back(job)

    def _take_out(self, job_id: JobId) -> Job:
        """What is left to do of a job that gave its place up."""
        self.preemptions += 1
        (progress,) = (e.jobs.pop(job_id) for e in self.engines if job_id in e.jobs)
        job, left = progress.job, progress.outputs_left
        # A cut before the last token was told: it comes again.
        left = self._left[job_id] = left if any(left) else [1] * job.seqs
        made = math.ceil(self.judge.preempted[job_id].generated / job.seqs)
        return replace(
            job,
            prompt_tokens=job.prompt_tokens + made,
            output_tokens_max=max(job.output_tokens_max - made, *left),
            is_resumed=True,
            preemptions=job.preemptions + 1,
        )

    def _come_back(self, job: Job) -> None:
        """At once, or when its reader has time; or it was given up."""
        if self.chance.random() < 0.1:
            self._cancel(job.id)
        elif self.chance.random() < 0.2:
            self._soon(1.0, lambda: self._submit_again(job))
        else:
            self._submit_again(job)

    def _submit_again(self, job: Job) -> None:
        if job.id in self.judge.preempted:  # not given up meanwhile
            deadline_s = max(job.deadline_s, self._now_s() + 60.0)
            self._submit(replace(job, deadline_s=deadline_s))

    def _look(self) -> None:
        """Looking changes nothing, and foretells nothing impossible."""
        snapshot(self.core)
        outlook = Outlook(self.core)
        for job_id, waiting in self.core.waiting.items():
            prospect = outlook.prospect(job_id)
            assert prospect is not None
            line = self.core.lines[waiting.job.tier, waiting.job.tenant]
            assert 1 <= prospect.position <= len(line)
            assert 0 <= prospect.wait_s < math.inf
        self.judge.compare(self.core)

    # Engines.

    def _enter(self, job: Job, name: EngineName) -> None:
        (engine,) = (engine for engine in self.engines if engine.name == name)
        habit = 1.0 if self.is_uniform else self.habits[job.tenant] * self.chance.choice([0.5, 1])
        lengths = [math.ceil(job.output_tokens_max * habit) for _ in range(job.seqs)]
        lengths = self._left.pop(job.id, lengths)
        if self.chance.random() < 0.02:
            lengths[0] += 1  # longer than it was asked for
        engine.jobs[job.id] = Progress(job, job.prompt_tokens, lengths)
        inside = sum(
            progress.job.seqs * progress.job.prompt_tokens
            + self.core.running[job_id].generated
            + sum(progress.outputs_left)
            for engine in self.engines
            for job_id, progress in engine.jobs.items()
            if job_id in self.core.running
        )
        self.judge.laws.inside_most = max(self.judge.laws.inside_most, inside)
        if not engine.is_stepping:
            engine.is_stepping = True
            self._after(engine.step_s, lambda: self._step(engine))

    def _step(self, engine: SimEngine) -> None:
        for job_id, count, is_last in engine.step() if engine.is_alive else []:
            if count and job_id in engine.jobs:
                decisions = self.core.token(job_id, count, self._now_s())
                self.judge.token(job_id, count, decisions)
                self._carry_out(decisions)
            if is_last and engine.jobs.pop(job_id, None):
                decisions = self.core.finish(job_id, self._now_s())
                self.judge.finish(job_id, decisions)
                self._carry_out(decisions)
        engine.is_stepping = bool(engine.jobs)
        if engine.is_stepping:
            self._after(engine.step_s, lambda: self._step(engine))

    def _open(self, engine: SimEngine) -> None:
        engine.is_alive = True
        self._resize(engine, engine.limits)

    def _resize(self, engine: SimEngine, limits: WindowLimits | None) -> None:
        decisions = self.core.resize(engine.name, limits, self._now_s())
        self.judge.resize(engine.name, limits, decisions)
        self._carry_out(decisions)

    # What goes wrong.

    def _trouble(self) -> None:
        if self.jobs_left <= 0:
            return
        engine = self.chance.choice(self.engines)
        kinds = [self._drain, self._die, self._die, self._shrink, self._shrink, self._shrink]
        trouble = self.chance.choice([*kinds, *(self._reload,) * 3])
        trouble(engine)
        if self.jumps and self.chance.random() < 0.5:
            self.shift_s += self.chance.choice([1.0, DAY_S])
        self._soon(4.0, self._trouble)

    def _drain(self, engine: SimEngine) -> None:
        """Nobody enters; who is inside goes on."""
        self._resize(engine, None)
        self._soon(2.0, lambda: self._open(engine))

    def _shrink(self, engine: SimEngine) -> None:
        """Or grow, also while it is closed."""
        engine.limits = self._some_limits()
        self._resize(engine, engine.limits)

    def _die(self, engine: SimEngine) -> None:
        """What was inside comes again under its old name, or not at all; the window closes before,
        after or amid that."""
        engine.is_alive = False
        lost = [progress.job for progress in engine.jobs.values()]
        closed_at = self.chance.randint(0, len(lost))
        for number, job in enumerate(lost):
            if number == closed_at:
                self._resize(engine, None)
            self._cancel(job.id)
            if self.chance.random() < 0.5 and job.id not in self.core.waiting:
                due_s = job.due_s + self.chance.choice([0.0, 1.0])
                self._submit(replace(job, due_s=due_s, deadline_s=max(due_s, job.deadline_s)))
        self._resize(engine, None)
        for job_id in list(engine.jobs):
            self._cancel(job_id)
        self._soon(3.0, lambda: self._open(engine))

    def _reload(self, _: SimEngine) -> None:
        self.policy = self._some_policy()
        decisions = self.core.change(self.policy, self._now_s())
        self.judge.change(self.policy, decisions)
        self._note_policy()
        self._carry_out(decisions)

    def _note_policy(self) -> None:
        laws, policy = self.judge.laws, self.policy
        laws.nobody_passes = self.is_uniform
        laws.input_weight_most = max(laws.input_weight_most, policy.input_weight)
        laws.output_weight_most = max(laws.output_weight_most, policy.output_weight)
        laws.weight_least = min([laws.weight_least, 1.0, *policy.weights.values()])

    def _nothing_is_left(self) -> None:
        core, judge = self.core, self.judge
        assert not judge.laws.open.total(), f"never ended: {+judge.laws.open}"
        assert not judge.preempted
        assert not core.waiting
        assert not core.running
        assert not core.inside
        assert not any(core.backlog.values()), core.backlog
        assert not any(len(line) for line in core.lines.values())
        assert not any(fairness.waiting for fairness in core.fairness.values())
        for window in core.windows.values():
            assert (window.seqs, window.kv_tokens, window.prefill_tokens) == (0, 0, 0)
