"""What one scheduling decision costs, by how many jobs wait.

One process, no engine, no event loop: the core alone. CPU time, so that what else the machine does
counts little; the garbage collector waits meanwhile.
"""

import gc
import itertools
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from infer_daemon.bench import report
from infer_daemon.bench.run import Report, Run
from infer_daemon.domain.jobs import EngineName, Job, JobId, WindowLimits
from infer_daemon.scheduling.core import Core
from infer_daemon.scheduling.decisions import Decision, Grant
from infer_daemon.scheduling.policy import Policy

WAITING = (10, 100, 1000, 10_000, 100_000)
TENANTS_MAX = 1000
CYCLES = 2000
_LIMITS = WindowLimits(seqs=64, kv_tokens=200_000, prefill_tokens=8192, kv_block_tokens=16)


@dataclass(frozen=True, slots=True)
class DecisionCost:
    """Of one cycle: a job comes, the oldest one inside generates its first token and ends, and the
    next one is granted its place."""

    waiting: int
    tenants: int
    mean_us: float
    p99_us: float


COST_MAX_US = 25.0
COST_AT = 10_000
GROWTH_MAX = 4.0
"""From 10 to 100,000 jobs: the logarithm of one is five times that of the other."""


def bench(run: Run) -> Report:
    """Measure and judge; `runs` times, the least of each size, since others only add to it."""
    rows = [min(row, key=lambda cost: cost.mean_us) for row in zip(*_repeat(run.runs), strict=True)]
    found = report.table("Submit, first token, finish, grant: CPU time", "waiting", *_COLUMNS)
    for row in rows:
        figures = (f"{row.tenants:,}", f"{row.mean_us:.1f}", f"{row.p99_us:.1f}")
        found.add_row(f"{row.waiting:,}", *figures)
    cost_us = {row.waiting: row.mean_us for row in rows}
    name = f"cost at {COST_AT:,} waiting jobs of {TENANTS_MAX:,} tenants, us"
    targets = [
        report.at_most(name, cost_us[COST_AT], COST_MAX_US),
        report.at_most("growth from 10 to 100,000", cost_us[WAITING[-1]] / cost_us[10], GROWTH_MAX),
    ]
    return Report(tables=[found], targets=targets, figures=rows, problems=[])


_COLUMNS = ("tenants", "mean, us", "p99, us")


def _repeat(runs: int) -> list[list["DecisionCost"]]:
    return [decision_costs() for _ in range(runs)]


def decision_costs(waiting: Sequence[int] = WAITING, *, cycles: int = CYCLES) -> list[DecisionCost]:
    """One row for each number of waiting jobs; a few seconds for all of them."""
    return [_cost(number, cycles) for number in waiting]


def _cost(waiting: int, cycles: int) -> DecisionCost:
    tenants = min(waiting, TENANTS_MAX)
    jobs = (_job(number, tenants) for number in itertools.count())
    core = Core(Policy(queue_len_max=waiting + cycles))
    core.resize(EngineName("bench"), _LIMITS, 0.0)
    inside: deque[JobId] = deque()
    while len(core.waiting) < waiting:
        _note_granted(core.submit(next(jobs), 0.0), inside)
    coming = [next(jobs) for _ in range(cycles)]
    with _no_collector():
        spent_ns = [_cycle(core, job, inside, now_s / 1000) for now_s, job in enumerate(coming)]
    assert len(core.waiting) == waiting, "a cycle did not let in one job for one"
    return DecisionCost(
        waiting=waiting,
        tenants=tenants,
        mean_us=sum(spent_ns) / cycles / 1000,
        p99_us=sorted(spent_ns)[int(0.99 * (cycles - 1))] / 1000,
    )


def _cycle(core: Core, job: Job, inside: deque[JobId], now_s: float) -> int:
    """Its CPU time in nanoseconds."""
    oldest = inside.popleft()
    start_ns = time.process_time_ns()
    came = core.submit(job, now_s)
    spoke = core.token(oldest, 1, now_s)
    ended = core.finish(oldest, now_s)
    spent_ns = time.process_time_ns() - start_ns
    for decisions in (came, spoke, ended):
        _note_granted(decisions, inside)
    return spent_ns


def _note_granted(decisions: list[Decision], inside: deque[JobId]) -> None:
    inside.extend(decision.job for decision in decisions if isinstance(decision, Grant))


def _job(number: int, tenants: int) -> Job:
    return Job(
        id=JobId(f"job-{number}"),
        tenant=f"tenant-{number % tenants}",
        model="bench",
        seqs=1,
        prompt_tokens=100,
        output_tokens_max=200,
        due_s=number / 1000,
        deadline_s=number / 1000 + 60,
    )


@contextmanager
def _no_collector() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
