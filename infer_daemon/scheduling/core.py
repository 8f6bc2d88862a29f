"""What becomes of whoever comes, waits or runs, and of the counters and the windows meanwhile.

Whose turn it is, says `next_turn`; who gives way to it, `preemption`.

Pure: events go in (`submit`, `token`, `finish`, `cancel`, `resize`, `expect`, `expire`, `change`),
decisions come out (`Grant`, `Evict`, `Reject`, `Preempt`). It never awaits, reads a clock, logs or
calls back; the caller carries the decisions out before the next event. One object per pool, used
from one thread, so it needs no lock.
"""

import heapq

from infer_daemon.domain.jobs import EngineName, Job, JobId, WindowLimits
from infer_daemon.scheduling.decisions import (
    Decision,
    Evict,
    EvictReason,
    Grant,
    Preempt,
    Reject,
    RejectReason,
)
from infer_daemon.scheduling.line import Line, Waiting
from infer_daemon.scheduling.next_turn import next_turn
from infer_daemon.scheduling.patience import Patience
from infer_daemon.scheduling.policy import Policy
from infer_daemon.scheduling.preemption import exchange, may_give_way
from infer_daemon.scheduling.state import BATCH, Running, State
from infer_daemon.scheduling.window import Window, need_of


class Core(State):
    """The lines, the counters and the windows of one pool."""

    def submit(self, job: Job, now_s: float) -> list[Decision]:
        """A job arrives. It is queued or rejected; either way every grant now due is returned."""
        assert job.id not in self.waiting, f"job {job.id} is already waiting"
        assert job.id not in self.running, f"job {job.id} is already running"
        if not self.windows and not self.is_engine_expected:
            return [Reject(job.id, RejectReason.NO_ENGINE)]
        if self.windows and job.seqs > self.seqs_max:
            return [Reject(job.id, RejectReason.NEVER_FITS)]
        if not job.is_resumed and self.is_full(job.tenant):
            return [Reject(job.id, RejectReason.QUEUE_FULL)]
        line = self.lines.get((job.tier, job.tenant))
        if line is None:
            line = self.lines[job.tier, job.tenant] = Line()
        waiting = self._join(line, job, now_s)
        if line.first is not waiting:
            return []  # whose turn it is concerns the first of each line only
        if not self.is_room_kept and not self.fits(waiting):
            return []  # it changes nothing for anybody else
        return self._fill(now_s)

    def token(self, job_id: JobId, count: int, now_s: float) -> list[Decision]:
        """A running job has generated that many tokens. Unknown ids are fine."""
        running = self.running.get(job_id)
        if running is None:
            return []
        if not running.generated:
            self._prompt_is_done(running)
            # It was charged when it went in, which is long before it counts for the pace.
            self._count(running, count, running.prompt_service, now_s)
            return self._fill(now_s)
        job, fairness = running.job, self.fairness[running.job.tier]
        batch_was = self.batch_share.level
        was_first = job.tenant in fairness.waiting and fairness.first == job.tenant
        self._count(running, count, 0.0, now_s)
        if batch_was is not self.batch_share.level:
            return self._fill(now_s)
        if was_first and (self.is_room_kept or fairness.first != job.tenant):
            return self._fill(now_s)
        return []  # nothing has changed for anybody: the hot path

    def finish(self, job_id: JobId, now_s: float) -> list[Decision]:
        """A running job has ended by itself. Unknown ids are fine."""
        running = self.running.get(job_id)
        if running is None:
            return self.cancel(job_id, now_s)
        job = running.job
        if job.output_tokens_max and not job.is_resumed:
            longest = -(-running.generated // job.seqs)
            self.estimates.learn(job.tenant, job.model, job.output_tokens_max, longest)
        if not running.generated:
            self.pace.note(running.prompt_service, now_s, is_backlogged=bool(self.waiting))
        self._leave_engine(running)
        return self._fill(now_s)

    def cancel(self, job_id: JobId, now_s: float) -> list[Decision]:
        """A job is given up, waiting or running. Unknown ids are fine."""
        if job_id in self.waiting:
            self._leave_line(job_id)
        elif (running := self.running.get(job_id)) is not None:
            self._leave_engine(running)
        return self._fill(now_s)

    def resize(
        self, engine: EngineName, limits: WindowLimits | None, now_s: float
    ) -> list[Decision]:
        """An engine opens, changes or (with None) closes its window.

        Jobs running in a closed engine stay known until they end. Waiting jobs that no window is
        large enough for any more are evicted: nobody can say when a larger one opens. While none is
        open and one is expected, they wait for that.
        """
        if limits is None:
            self.windows.pop(engine, None)
        elif engine in self.windows:
            self.windows[engine].change(limits, self.policy)
        else:
            window = self.windows[engine] = Window(limits, self.policy)
            for running in self.running.values():
                if running.engine == engine:
                    window.enter(running.need)
        self.seqs_max = max((window.limits.seqs for window in self.windows.values()), default=0)
        return [*self._strand(), *self._fill(now_s)]

    def expect(self, is_engine_expected: bool) -> list[Decision]:
        """Whether an engine may open its window although none has one now."""
        self.is_engine_expected = is_engine_expected
        return self._strand()

    def expire(self, now_s: float) -> list[Decision]:
        """Time has passed: evict whoever is at or past its deadline, and have batch work give way
        to whoever has waited long enough."""
        late: list[Decision] = []
        while self.deadlines and self.deadlines[0][0] <= now_s:
            deadline_s, job_id = heapq.heappop(self.deadlines)
            if self.is_deadline(deadline_s, job_id):
                self._leave_line(job_id)
                late.append(Evict(job_id, EvictReason.DEADLINE))
        self.patience.expire(now_s)
        # A large job at the head may have been what kept the others waiting.
        return [*late, *self._fill(now_s)]

    def change(self, policy: Policy, now_s: float) -> list[Decision]:
        """Another policy from now on. Nobody who waits or runs is refused for it."""
        self.policy = policy
        for window in self.windows.values():
            window.change(window.limits, policy)
        self.patience = Patience()
        for waiting in self.waiting.values():
            self._be_patient(waiting)
        return self._fill(now_s)

    def _strand(self) -> list[Decision]:
        """Evict who waits for nothing that could come."""
        if not self.windows and self.is_engine_expected:
            return []
        stranded = [job_id for job_id, w in self.waiting.items() if w.job.seqs > self.seqs_max]
        for job_id in stranded:
            self._leave_line(job_id)
        reason = EvictReason.NEVER_FITS if self.windows else EvictReason.NO_ENGINE
        return [Evict(job_id, reason) for job_id in stranded]

    def _fill(self, now_s: float) -> list[Decision]:
        """Grant while somebody fits, or can be made to. The one place where a job is given an
        engine."""
        decisions: list[Decision] = []
        while self.waiting:
            # Asked here and not there: a call for each decision, where seldom anybody gives way.
            if self.patience.over and self.giving_way and (exchanged := self._exchange(now_s)):
                decisions += exchanged
            elif (turn := next_turn(self)) is not None:
                decisions.append(self._enter(turn.waiting, turn.engine, turn.passed, now_s))
            else:
                break
        return decisions

    def _exchange(self, now_s: float) -> list[Decision]:
        """Have batch work give way, if there is somebody to whom it must."""
        found = exchange(self)
        if found is None:
            return []
        for victim in found.victims:
            self._leave_engine(victim)
        tier = found.waiting.job.tier
        grant = self._enter(found.waiting, found.engine, found.passed, now_s)
        return [*(Preempt(victim.job.id, tier) for victim in found.victims), grant]

    def _enter(
        self, waiting: Waiting, name: EngineName, passed: list[Waiting], now_s: float
    ) -> Grant:
        """Give the job that engine."""
        job, window = waiting.job, self.windows[name]
        for other in passed:
            # Whoever goes into room that is kept took nothing from those who may not use it.
            level = self.level(other.job.tier, other.job.tenant)
            if name not in self.windows_for(other.job):
                continue
            if window.takes(job, waiting.output_tokens, level):
                other.passed_by += 1
        self._leave_line(job.id)
        need = need_of(job, waiting.output_tokens, window.limits)
        window.admit(need)
        self.inside[job.tenant] = self.inside.get(job.tenant, 0) + 1
        paid: float | None = None
        if job.tier is BATCH and self.is_batch_in_the_way:
            paid = self.batch_share.take(waiting.service, self.policy.batch_share_min)
        service = self.policy.service(job, 0)
        running = Running(job, name, need, waiting.output_tokens, service, paid)
        self.running[job.id] = running
        if job.may_give_way and may_give_way(job):
            self.giving_way[job.id] = running
        self._charge(job, service if service > 1.0 else 1.0)
        return Grant(job.id, name)

    def _leave_engine(self, running: Running) -> None:
        """It needs its room no more."""
        job = running.job
        del self.running[job.id]
        if job.may_give_way:
            self.giving_way.pop(job.id, None)
        inside = self.inside.pop(job.tenant)
        if inside > 1:
            self.inside[job.tenant] = inside - 1
        if running.share_paid is not None:
            service = self.policy.service(job, running.generated)
            self.batch_share.settle(running.share_paid, service, self.policy.batch_share_min)
        if (window := self.windows.get(running.engine)) is not None:
            window.leave(running.need)

    def _charge(self, job: Job, service: float) -> None:
        self.fairness[job.tier].charge(job.tenant, service / self.policy.weight(job.tenant))
        if job.tier is not BATCH and self.fairness[BATCH].waiting:
            self.batch_share.others_served(service, self.policy.batch_share_min)

    def _prompt_is_done(self, running: Running) -> None:
        if (window := self.windows.get(running.engine)) is not None:
            window.read(running.need.prefill_tokens)
        running.need.prefill_tokens = 0

    def _count(self, running: Running, count: int, prompt_service: float, now_s: float) -> None:
        service = self.policy.output_weight * count
        is_backlogged = bool(self.waiting)
        self._charge(running.job, service)
        self.pace.note(prompt_service + service, now_s, is_backlogged=is_backlogged)
        if running.generated:
            gap_s = now_s - running.last_output_s
            self.pace.went_on(count / running.job.seqs, gap_s, is_backlogged=is_backlogged)
        running.generated += count
        running.last_output_s = now_s
        if running.generated > running.output_tokens * running.job.seqs:
            self._expect_more(running)

    def _expect_more(self, running: Running) -> None:
        """It is longer than was expected. Room is counted twice as far, so that this is rare; until
        that fits, nobody else enters."""
        job = running.job
        longest = -(-running.generated // job.seqs)
        running.output_tokens = max(longest, min(job.output_tokens_max, 2 * longest))
        window = self.windows.get(running.engine)
        limits = window.limits if window is not None else WindowLimits(seqs=1)
        need = need_of(job, running.output_tokens, limits)
        more = need.kv_tokens - running.need.kv_tokens
        running.need.kv_tokens += more
        if window is not None:
            window.grow(more)

    def _join(self, line: Line, job: Job, now_s: float) -> Waiting:
        if not line:
            self.fairness[job.tier].begin(job.tenant)
        output = self.estimates.expected(job.tenant, job.model, job.output_tokens_max)
        service = self.policy.service(job, output * job.seqs)
        waiting = self.waiting[job.id] = line.join(job, output, service, now_s)
        if self.policy.preempt_after_s:
            self._be_patient(waiting)
        self.backlog[job.tier] += service
        heapq.heappush(self.deadlines, (job.deadline_s, job.id))
        if len(self.deadlines) > 2 * len(self.waiting) + 64:
            self.deadlines = [(w.job.deadline_s, w.job.id) for w in self.waiting.values()]
            heapq.heapify(self.deadlines)
        return waiting

    def _be_patient(self, waiting: Waiting) -> None:
        after_s = self.policy.preempt_after_s.get(waiting.job.tier)
        if after_s is not None:
            self.patience.begin(waiting.job.id, waiting.since_s + after_s)

    def _leave_line(self, job_id: JobId) -> None:
        waiting = self.waiting.pop(job_id)
        if self.policy.preempt_after_s:  # else nobody's has begun
            self.patience.end(job_id)
        job = waiting.job
        self.backlog[job.tier] -= waiting.service
        line = self.lines[job.tier, job.tenant]
        line.leave(waiting)
        if not line:
            self.fairness[job.tier].end(job.tenant)
            if not self.fairness[job.tier].waiting:
                self.backlog[job.tier] = 0.0  # without the rounding of many sums
