"""Runs one bench: a folder for it, its tables and verdicts, and nothing left of it afterwards."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console

from infer_daemon.bench import decision, fairness, isolation, ledger, overload, priority, report
from infer_daemon.bench.cli import FILE_WIDTH
from infer_daemon.bench.crowd import LoadProblem
from infer_daemon.bench.run import Report, Run
from infer_daemon.bench.servers import ServerProblem

BENCHES = {
    "isolation": isolation.bench,
    "overload": overload.bench,
    "fairness": fairness.bench,
    "priority": priority.bench,
    "decision": decision.bench,
    "ledger": ledger.bench,
}


def measure(arguments: argparse.Namespace) -> int:
    """Run the bench that was asked for. Returns the exit code."""
    # Ended by a signal, it must still end its servers: an exception unwinds through them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    machine = report.machine()
    if warning := report.busy(machine):
        log.print(f"[yellow]{warning}[/]")
    run = Run(
        folder=folder,
        say=log.print,
        runs=arguments.runs,
        seconds=arguments.seconds,
        victim_requests=arguments.victim_requests,
        peer=arguments.peer,
        kind=arguments.kind,
    )
    try:
        found = BENCHES[arguments.bench](run)
    except (ServerProblem, LoadProblem) as error:
        log.print(f"[red]{error}[/]\nlogs and configuration: {folder}")
        return 1
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        return 128 + signal.SIGINT
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _show(found)
    if arguments.json:
        whole = {"bench": arguments.bench, "machine": machine, **_as_json(found)}
        arguments.json.write_text(json.dumps(whole, indent=2) + "\n")
    for problem in found.problems:
        log.print(f"[red]{problem}[/]")
    if found.problems:
        log.print(f"logs and configuration: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def _show(found: Report) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    for table in found.tables:
        console.print(table)
    console.print(report.target_table(found.targets))


def _as_json(found: Report) -> dict[str, object]:
    return {
        "targets": msgspec.to_builtins(found.targets),
        "problems": found.problems,
        "figures": msgspec.to_builtins(found.figures),
    }
