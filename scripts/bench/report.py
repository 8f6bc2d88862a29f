"""Compares what was measured with what was aimed at, and shows it: tables and one JSON object."""

import hashlib
import statistics
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from bench.demo import DEMO_CONFIG, REPOSITORY
from bench.load import Run
from bench.measure import STALL_GAP_S, STALL_TTFT_S, Figures
from infer_daemon.bench import report
from infer_daemon.bench.report import Target, at_least, at_most, table, target_table

THROUGHPUT_RATIO_MIN = 1.15
UNARY_RATIO_MAX = 1.25
STAGES = ("authenticate", "read", "route", "render", "wait", "generate", "stream", "settle")
"""In the order of a request. `wait` is the gate; `generate` and `stream` hold the engine's work."""


def targets(figures: Mapping[str, Figures]) -> list[Target]:
    """Every target that these figures can tell about."""
    found = []
    daemon = figures.get("daemon")
    for name, peer in figures.items():
        if daemon is None or name.startswith("daemon"):
            continue
        ratio = _tokens_per_s(daemon) / _tokens_per_s(peer)
        found.append(at_least(f"output tokens/s, ratio to {name}", ratio, THROUGHPUT_RATIO_MIN))
        ratio = daemon.unary.p50_s / peer.unary.p50_s
        found.append(at_most(f"one-token request p50, ratio to {name}", ratio, UNARY_RATIO_MAX))
    if daemon and daemon.stalls:
        worst_ttft_s = max(run.ttft_max_s for run in daemon.stalls)
        worst_gap_s = max(run.gap_max_s for run in daemon.stalls)
        row = f"in {len(daemon.stalls)} runs in a row, s"
        found.append(at_most(f"worst TTFT {row}", worst_ttft_s, STALL_TTFT_S))
        found.append(at_most(f"worst gap {row}", worst_gap_s, STALL_GAP_S))
    return found


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
        console.print(target_table(found))


def _throughput_table(figures: Mapping[str, Figures]) -> Table:
    rows = table(
        "64 streams of 64 tokens, 256 requests a run",
        "server", "runs", "tokens/s median", "min", "max", "TTFT p50 ms", "gap p99 ms",
    )  # fmt: skip
    for name, each in figures.items():
        rates = [run.tokens_per_s for run in each.throughput]
        rows.add_row(
            name,
            str(len(rates)),
            f"{statistics.median(rates):,.0f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
            _ms(statistics.median(run.ttft_p50_s for run in each.throughput)),
            _ms(statistics.median(run.gap_p99_s for run in each.throughput)),
        )
    return rows


def _unary_table(figures: Mapping[str, Figures]) -> Table:
    rows = table("One-token requests, ms", "server", "p50", "p95", "max")
    for name, each in figures.items():
        unary = each.unary
        rows.add_row(name, _ms(unary.p50_s), _ms(unary.p95_s), _ms(unary.max_s))
    return rows


def _stall_table(figures: Mapping[str, Figures]) -> Table:
    rows = table(
        f"Stalls: TTFT above {STALL_TTFT_S} s or a gap above {STALL_GAP_S} s",
        "server", "runs", "with a stall", "worst TTFT ms", "worst gap ms", "client's own lag ms",
    )  # fmt: skip
    for name, each in figures.items():
        if each.stalls:
            rows.add_row(
                name,
                str(len(each.stalls)),
                str(each.runs_with_stall),
                _ms(max(run.ttft_max_s for run in each.stalls)),
                _ms(max(run.gap_max_s for run in each.stalls)),
                _ms(max(run.client_lag_max_s for run in each.stalls)),
            )
    return rows


def _stage_table(name: str, stages_us: Mapping[str, Mapping[str, float]]) -> Table:
    rows = table(f"{name}: mean us per request", "stage", *stages_us)
    known = {stage for means in stages_us.values() for stage in means}
    for stage in (*STAGES, *sorted(known.difference(STAGES))):
        if stage in known:
            means = [load.get(stage) for load in stages_us.values()]
            rows.add_row(stage, *("-" if mean is None else f"{mean:,.0f}" for mean in means))
    return rows


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
    return {
        **report.machine(),
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
