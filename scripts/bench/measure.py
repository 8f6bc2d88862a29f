"""Puts one server under load and collects what is to be known of it."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from bench.demo import MODEL, SCRIPTS
from bench.load import Job, Result, Run, Unary
from infer_daemon.bench.servers import HOST, Server
from infer_daemon.bench.wire import Address

_STAGE = re.compile(r'^infer_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)$', re.MULTILINE)
STALL_TTFT_S, STALL_GAP_S = 1.0, 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is measured."""

    runs: int
    stall_runs: int
    unary: int
    warmup_unary: int = 50


class Figures(msgspec.Struct, kw_only=True):
    """What was measured of one server, by one address."""

    throughput: list[Run]
    unary: Unary
    stalls: list[Run]
    stages_us: dict[str, dict[str, float]] = {}
    """Load -> stage -> mean microseconds per request, from the daemon's own metrics."""

    @property
    def failed(self) -> int:
        """Requests that were not answered as they must be."""
        return self.unary.failed + sum(run.failed for run in (*self.throughput, *self.stalls))

    @property
    def failures(self) -> list[str]:
        """The first few of each run, in words."""
        runs = (*self.throughput, *self.stalls)
        return [*self.unary.failures, *(text for run in runs for text in run.failures)]

    @property
    def runs_with_stall(self) -> int:
        """Among the runs in a row."""
        return sum(
            run.ttft_max_s > STALL_TTFT_S or run.gap_max_s > STALL_GAP_S for run in self.stalls
        )


def figures(
    server: Server, key: str, effort: Effort, say: Callable[[str], None], unix_socket: str = ""
) -> Figures:
    """Measure a running server.

    Args:
        say: told what goes on.
        unix_socket: measure through this and not over TCP.
    """
    job = Job(
        address=Address(HOST, server.launch.port, unix_socket),
        key=key,
        model=MODEL,
        warmup_unary=effort.warmup_unary,
    )
    replace = msgspec.structs.replace
    say(f"{effort.runs} runs of {job.requests} streams, {job.streams} at a time, after a warm-up")
    _work(replace(job, runs=1))
    before = _stages(server)
    streamed = _work(replace(job, runs=effort.runs))
    between = _stages(server)
    say(f"{effort.unary} one-token requests, one by one")
    unary = _work(replace(job, unary=effort.unary)).unary
    after = _stages(server)
    say(f"{effort.stall_runs} runs in a row, looking for stalls")
    stalls = _work(replace(job, runs=effort.stall_runs))
    assert unary is not None, "the job asked for it"
    stages_us = {
        "streams": _means_us(before, between),
        "unary": _means_us(between, after),
    }
    return Figures(
        throughput=streamed.runs,
        unary=unary,
        stalls=stalls.runs,
        stages_us={load: means for load, means in stages_us.items() if means},
    )


def _work(job: Job) -> Result:
    """Have the load generator work through a job."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        cwd=SCRIPTS,
        input=msgspec.json.encode(job),
        stdout=subprocess.PIPE,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=Result)


def _stages(server: Server) -> dict[str, tuple[float, float]]:
    """Stage -> seconds and requests so far; empty where the server has no such metrics."""
    _, text = server.get("/metrics")
    found: dict[str, dict[str, float]] = {}
    for kind, stage, value in _STAGE.findall(text):
        found.setdefault(stage, {})[kind] = float(value)
    return {stage: (kinds["sum"], kinds["count"]) for stage, kinds in found.items()}


def _means_us(
    before: dict[str, tuple[float, float]], after: dict[str, tuple[float, float]]
) -> dict[str, float]:
    means = {}
    for stage, (seconds, count) in after.items():
        seconds_before, count_before = before.get(stage, (0.0, 0.0))
        if count > count_before:
            means[stage] = (seconds - seconds_before) / (count - count_before) * 1e6
    return means
