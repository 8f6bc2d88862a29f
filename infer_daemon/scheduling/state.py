"""What the scheduler knows of one pool, and the rules that it always keeps."""

import heapq
from collections.abc import Iterator

import msgspec

from infer_daemon.domain.jobs import (
    FEW_IN_QUEUE,
    KEPT_IN_QUEUE,
    EngineName,
    Job,
    JobId,
    Tier,
)
from infer_daemon.scheduling.estimates import Estimates
from infer_daemon.scheduling.fairness import Fairness
from infer_daemon.scheduling.line import Line, Waiting
from infer_daemon.scheduling.pace import Pace
from infer_daemon.scheduling.patience import Patience
from infer_daemon.scheduling.policy import Policy
from infer_daemon.scheduling.share import MinimumShare
from infer_daemon.scheduling.window import Level, Need, Window

LOOK_PAST = 4
"""Tenants of a class that are looked at in one decision: a bound on its cost."""
PASSES_MAX = 8
"""Jobs that may take room before the eyes of one that needs more of it; then it is kept."""
LEAD_MAX = 2048.0
"""Service by weight that a tenant may be ahead of the first of its class and still pass it. Without
a bound, tenants of one job at a time would leave others behind for ever: they may go further."""


# By names of this module: to look a member up in its enumeration takes longer than all the rest of
# a line.
CRITICAL, INTERACTIVE, BATCH = Tier
_ORDINARY = Level.ORDINARY
_USUAL = (CRITICAL, INTERACTIVE, BATCH)
_BATCH_FIRST = (CRITICAL, BATCH, INTERACTIVE)
_HIGHEST = {CRITICAL: Level.CRITICAL, INTERACTIVE: Level.NEWCOMER}


class Running(msgspec.Struct, eq=False, gc=False):
    """A job in an engine."""

    job: Job
    engine: EngineName
    need: Need
    output_tokens: int
    """Room is counted for that many, per sequence."""
    prompt_service: float
    """What its prompt costs."""
    share_paid: float | None
    """What batch work paid of its minimum share when it went in; None if it kept nobody waiting."""
    generated: int = 0
    """Of all its sequences."""
    last_output_s: float = 0.0
    """When the last of that came."""


class State:
    """Read by whoever shows or foretells something; changed by `core.Core` alone."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        #: Every waiting job is in one line; a tenant with nobody in its line waits for nothing.
        self.waiting: dict[JobId, Waiting] = {}
        self.lines: dict[tuple[Tier, str], Line] = {}
        self.fairness = {tier: Fairness() for tier in Tier}
        #: Expected service of all waiting jobs of a class.
        self.backlog = dict.fromkeys(Tier, 0.0)
        #: Granted jobs. Disjoint from `waiting`.
        self.running: dict[JobId, Running] = {}
        #: Jobs in engines per tenant, without the tenants that have none.
        self.inside: dict[str, int] = {}
        #: Engines that take work. Each holds the needs of the jobs that run there.
        self.windows: dict[EngineName, Window] = {}
        #: Whether one may open while there is none.
        self.is_engine_expected = False
        #: Sequences of the largest window.
        self.seqs_max = 0
        #: Heap of deadlines. May hold jobs that wait no longer; each waiting job is in it.
        self.deadlines: list[tuple[float, JobId]] = []
        #: Who waits until batch work gives way.
        self.patience = Patience()
        #: Running jobs that may be taken out, in the order in which they went in.
        self.giving_way: dict[JobId, Running] = {}
        self.estimates = Estimates()
        self.pace = Pace()
        self.batch_share = MinimumShare()
        #: Whether room was left free for a job that has been passed by too often.
        self.is_room_kept = False

    def level(self, tier: Tier, tenant: str) -> Level:
        """How far into a window a job of that class and tenant may go, as things are."""
        if tier is INTERACTIVE and tenant in self.inside:
            return _ORDINARY
        return self.highest_level(tier)

    @property
    def is_batch_in_the_way(self) -> bool:
        """Whether somebody waits who would go before batch work, but for its minimum share."""
        return bool(self.fairness[CRITICAL].waiting or self.fairness[INTERACTIVE].waiting)

    def highest_level(self, tier: Tier) -> Level:
        """What the most urgent job of a class could have."""
        return self.batch_share.level if tier is BATCH else _HIGHEST[tier]

    def is_full(self, tenant: str) -> bool:
        """Whether the queue has no place for one more job of that tenant."""
        waiting, most = len(self.waiting), self.policy.queue_len_max
        if waiting < most - most // KEPT_IN_QUEUE:
            return False
        own = sum(len(self.lines.get((tier, tenant), ())) for tier in Tier)
        return waiting >= most or own > most // FEW_IN_QUEUE

    def tiers(self) -> tuple[Tier, ...]:
        """The classes in the order in which they go now."""
        return _BATCH_FIRST if self.batch_share.is_owed else _USUAL

    def next_tenants(self, tier: Tier) -> Iterator[str]:
        """Those of a class who are looked at, in the order of their turns: a few, but all that have
        critical work, since nobody below may have what that could use."""
        fairness = self.fairness[tier]
        for number in range(len(fairness.waiting) if tier is CRITICAL else LOOK_PAST):
            tenant = fairness.at(number)
            if tenant is None:
                break
            yield tenant

    def is_too_far_ahead(self, tier: Tier, tenant: str, first: str) -> bool:
        """Whether a tenant may not pass the first of its class, though that does not fit."""
        counters = self.fairness[tier].counters
        return counters[tenant] > counters[first] + LEAD_MAX

    @property
    def next_deadline_s(self) -> float | None:
        """The earliest moment at which `expire` would have something to do."""
        while self.deadlines and not self.is_deadline(*self.deadlines[0]):
            heapq.heappop(self.deadlines)
        if not self.deadlines:
            return None
        deadline_s, patience_s = self.deadlines[0][0], self.patience.next_s
        return deadline_s if patience_s is None else min(deadline_s, patience_s)

    def is_deadline(self, deadline_s: float, job_id: JobId) -> bool:
        """Not that of a job which has left, or of one that came again under the same id."""
        waiting = self.waiting.get(job_id)
        return waiting is not None and waiting.job.deadline_s == deadline_s

    def check(self) -> None:
        """Assert every rule of this object; tests call it after each event."""
        assert not self.waiting.keys() & self.running.keys(), "a job both waits and runs"
        assert sum(map(len, self.lines.values())) == len(self.waiting), "a line holds a stranger"
        for tier, fairness in self.fairness.items():
            fairness.check(
                {tenant for (of, tenant), line in self.lines.items() if of is tier and line}
            )
        deadlines = {(waiting.job.deadline_s, job_id) for job_id, waiting in self.waiting.items()}
        assert deadlines <= set(self.deadlines), "a waiting job has no deadline in the heap"
        self.patience.check(set(self.waiting))
        assert self.giving_way.keys() <= self.running.keys(), "who gives way does not run"
        self._check_windows()
        self._check_nobody_waits_in_vain()

    def _check_windows(self) -> None:
        inside: dict[str, int] = {}
        for running in self.running.values():
            inside[running.job.tenant] = inside.get(running.job.tenant, 0) + 1
        assert inside == self.inside, f"counted in engines: {self.inside}, are: {inside}"
        for name, window in self.windows.items():
            needs = [running.need for running in self.running.values() if running.engine == name]
            held = (window.seqs, window.kv_tokens, window.prefill_tokens)
            summed = tuple(
                sum(parts)
                for parts in zip(
                    (0, 0, 0),
                    *((n.seqs, n.kv_tokens, n.prefill_tokens) for n in needs),
                    strict=True,
                )
            )
            assert held == summed, f"engine {name} counts {held}, runs {summed}"

    def _check_nobody_waits_in_vain(self) -> None:
        """Whoever is next in a class has no window that its first job fits into, unless that room
        is kept for somebody who has been passed by too often, or by too much."""
        kept_up_to = -1
        for tier in self.tiers():
            first: str | None = None
            for tenant in self.next_tenants(tier):
                if first is None:
                    first = tenant
                    waiting, level = self.lines[tier, first].first, self.level(tier, first)
                    assert level <= kept_up_to or not self.fits(waiting), (
                        f"{waiting.job.id} is next, fits and was not granted"
                    )
                    if waiting.passed_by >= PASSES_MAX:
                        kept_up_to = max(kept_up_to, level)
                elif self.is_too_far_ahead(tier, tenant, first):
                    kept_up_to = max(kept_up_to, self.level(tier, first))

    def fits(self, waiting: Waiting) -> bool:
        """Whether some window takes the job as things are."""
        job = waiting.job
        level = self.level(job.tier, job.tenant)
        for window in self.windows_for(job).values():
            if window.takes(job, waiting.output_tokens, level):
                return True
        return False

    def windows_for(self, job: Job) -> dict[EngineName, Window]:
        """Those that it may enter: of engines that have not failed it, if there are any."""
        if not job.avoids:
            return self.windows
        others = {name: w for name, w in self.windows.items() if name not in job.avoids}
        return others or self.windows
