"""Runs faults, one after the other, and reports: tables, a verdict for each promise, exit code."""

import argparse
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from subprocess import SubprocessError

import msgspec
import uvloop
from rich.console import Console
from rich.markup import escape

from infer_daemon.bench import report
from infer_daemon.bench.servers import ServerProblem
from infer_daemon.chaos import endings, engines, loading, storage, visitors
from infer_daemon.chaos.engine_log import Overdue
from infer_daemon.chaos.run import Fault, Figures, Findings, Run

FAULTS: Mapping[str, Fault] = {
    "kill-core": engines.kill_core,
    "kill-worker": engines.kill_worker,
    "hang": engines.hang,
    "kill-start": engines.kill_start,
    "only-engine": engines.only_engine,
    "bad-lora": loading.bad_lora,
    "bad-weights": loading.bad_weights,
    "no-memory": loading.no_memory,
    "disk-full": storage.disk_full,
    "ledger-locked": storage.ledger_locked,
    "vanish": visitors.clients_vanish,
    "slow-readers": visitors.slow_readers,
    "trickle": visitors.clients_trickle,
    "drain": endings.drain,
    "kill-daemon": endings.kill_daemon,
    "clock": storage.clock_stepped,
}
OK, FAILED = 0, 1
FILE_WIDTH = 120


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 1 when something did not hold."""
    arguments = _parser().parse_args(argv)
    # Ended by a signal, it must still end its daemons: an exception unwinds through them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    machine = report.machine()
    run = Run(
        folder=folder,
        say=lambda text: log.print(escape(text)),
        requests=arguments.requests,
        blows=arguments.blows,
        seconds=arguments.seconds,
        clients=arguments.clients,
        kind=arguments.kind,
    )
    found = {}
    for name in arguments.faults or FAULTS:
        log.print(f"[bold]{name}[/]: {_what(FAULTS[name])}")
        found[name] = uvloop.run(_one(FAULTS[name], run))
        _show(name, found[name])
    if arguments.json:
        whole = {"machine": machine, "faults": msgspec.to_builtins(found)}
        arguments.json.write_text(json.dumps(whole, indent=2) + "\n")
    if all(map(_holds, found.values())):
        shutil.rmtree(folder)
        return OK
    log.print(f"logs and configurations: {folder}")
    return FAILED


async def _one(fault: Fault, run: Run) -> Figures:
    findings = Findings()
    try:
        await fault(run, findings)
    except (ServerProblem, Overdue, SubprocessError, OSError) as error:
        findings.problems.append(f"{type(error).__name__}: {error}")
        findings.targets.append(report.target("came to its end", 0, "1", met=False))
    return findings.figures


def _holds(figures: Figures) -> bool:
    return all(target.verdict == "met" for target in figures.targets)


def _show(name: str, figures: Figures) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
    table = report.target_table(figures.targets)
    table.title = f"{name}: {figures.requests:,} requests, {figures.failed:,} failed"
    console.print(table)
    for line in (*figures.notes, *figures.problems):
        console.print(f"  {escape(line)}", soft_wrap=True)


def _what(fault: Fault) -> str:
    return (fault.__doc__ or "").partition("\n")[0]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/chaos",
        description="Hurts a daemon under load, in every way it must bear. All faults, or some:",
        epilog="\n".join(f"{name:14} {_what(fault)}" for name, fault in FAULTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("faults", nargs="*", choices=[[], *FAULTS], metavar="FAULT", default=[])
    count = partial(parser.add_argument, type=_count, metavar="N")
    count("--requests", default=2000, help="at least so many, of faults that are repeated (2000)")
    count("--blows", default=5, help="how often these are done (5)")
    count("--clients", default=4, help="of each of three tenants (4)")
    parser.add_argument("--seconds", type=float, default=4.0, metavar="S", help="of peace between")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was found there")
    # Simulated engines have no processes to be hurt; for tests of all the rest.
    parser.add_argument("--kind", choices=("vllm", "sim"), default="vllm", help=argparse.SUPPRESS)
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)
