"""What one scheduling decision costs, by how many jobs wait.

One process, no engine, no event loop: the core alone. CPU time, so that what else the machine does
counts little, less what it takes to read that clock; the garbage collector waits meanwhile.
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
    """Of one cycle: a job comes, the oldest one inside ends, and the next one is granted its place.
    Before it ends, it generates its first token, which is told by itself."""

    waiting: int
    tenants: int
    mean_us: float
    p99_us: float
    first_token_us: float


COST_MAX_US = 25.0
COST_AT = 10_000
GROWTH_MAX = 4.0
"""From 10 to 100,000 jobs: the logarithm of one is five times that of the other."""


def bench(run: Run) -> Report:
    """Measure and judge; `runs` times, the least of each size, since others only add to it."""
    rows = [min(row, key=lambda cost: cost.mean_us) for row in zip(*_repeat(run.runs), strict=True)]
    found = report.table("Submit, grant, finish: CPU time", "waiting", *_COLUMNS)
    for row in rows:
        figures_us = (row.mean_us, row.p99_us, row.first_token_us)
        figures = [f"{figure_us:.1f}" for figure_us in figures_us]
        found.add_row(f"{row.waiting:,}", f"{row.tenants:,}", *figures)
    cost_us = {row.waiting: row.mean_us for row in rows}
    name = f"cost at {COST_AT:,} waiting jobs of {TENANTS_MAX:,} tenants, us"
    targets = [
        report.at_most(name, cost_us[COST_AT], COST_MAX_US),
        report.at_most("growth from 10 to 100,000", cost_us[WAITING[-1]] / cost_us[10], GROWTH_MAX),
    ]
    return Report(tables=[found], targets=targets, figures=rows, problems=[])


_COLUMNS = ("tenants", "mean, us", "p99, us", "first token, us")


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
        clock_ns = _clock_ns()
        spent = [_cycle(core, job, inside, now_s / 1000) for now_s, job in enumerate(coming)]
    spent_ns = [decided_ns - 2 * clock_ns for decided_ns, _ in spent]
    token_ns = [token_ns - clock_ns for _, token_ns in spent]
    assert len(core.waiting) == waiting, "a cycle did not let in one job for one"
    return DecisionCost(
        waiting=waiting,
        tenants=tenants,
        mean_us=sum(spent_ns) / cycles / 1000,
        p99_us=sorted(spent_ns)[int(0.99 * (cycles - 1))] / 1000,
        first_token_us=sum(token_ns) / cycles / 1000,
    )


def _cycle(core: Core, job: Job, inside: deque[JobId], now_s: float) -> tuple[int, int]:
    """CPU time in nanoseconds, that of the clock among it: of the decision, two readings apart, and
    of the first token."""
    oldest = inside.popleft()
    begun_ns = time.process_time_ns()
    came = core.submit(job, now_s)
    came_ns = time.process_time_ns()
    spoke = core.token(oldest, 1, now_s)
    spoke_ns = time.process_time_ns()
    ended = core.finish(oldest, now_s)
    ended_ns = time.process_time_ns()
    for decisions in (came, spoke, ended):
        _note_granted(decisions, inside)
    return came_ns - begun_ns + ended_ns - spoke_ns, spoke_ns - came_ns


def _clock_ns() -> float:
    """What one reading of the clock takes of the time that it tells: a call of the kernel."""
    begun_ns = time.process_time_ns()
    for _ in range(CYCLES):
        time.process_time_ns()
    return (time.process_time_ns() - begun_ns) / CYCLES


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
