"""Measure the daemon beside vLLM's own server on the same model, arguments and machine.

All are started in turn with the demo's engine and arguments, vLLM's server once by itself and once
in the environment that the daemon gives its engine. Figures of a shared or busy machine mean
little; what holds is the ratio of two figures of one run. Missing a target is a result, not a
failure: the exit code is 1 only if a server or a request failed.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from bench import demo, report
from bench.measure import Effort, Figures, figures
from infer_daemon.bench import launches
from infer_daemon.bench.report import busy
from infer_daemon.bench.servers import Launch, ServerProblem, running

MODELS = demo.REPOSITORY / "infer_daemon" / "demo" / "models"
PEERS = {"vllm": False, "vllm+env": True}
"""vLLM's own server by itself, and in the environment that the daemon gives its engine."""
FILE_WIDTH = 100


def main() -> int:
    """Run the benchmark. Returns the exit code."""
    options = _options()
    # Ended by a signal, it must still end its servers: an exception unwinds through them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(tempfile.mkdtemp(prefix="bench-peers-"))
    bench = Bench(options, demo.write(folder))
    try:
        problems = bench.run()
    except (ServerProblem, subprocess.CalledProcessError) as error:
        problems = [str(error)]
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"logs and configuration: {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


class Bench:
    """One run of the benchmark."""

    def __init__(self, options: argparse.Namespace, setup: demo.Demo) -> None:
        self._options = options
        self._setup = setup
        self._effort = Effort(runs=options.runs, stall_runs=options.stall_runs, unary=options.unary)
        self._figures: dict[str, Figures] = {}
        self._problems: list[str] = []
        self._log = Console(stderr=True, highlight=False)

    def run(self) -> list[str]:
        """Measure, print, and return what went wrong."""
        options = self._options
        machine = report.machine()
        if warning := busy(machine):
            self._log.print(f"[yellow]{warning}[/]")
        model_before = report.fingerprint(MODELS)
        if options.only != "peer":
            self._measure(launches.daemon(self._setup.config, self._setup.state_dir))
        if options.only != "daemon":
            for name, is_ours in PEERS.items():
                config = self._setup.config
                self._measure(launches.peer(config, name, our_environment=is_ours))
        if report.fingerprint(MODELS) != model_before:
            self._problems.append("the demo's models changed meanwhile: the figures do not compare")
        console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
        report.show(console, self._figures)
        text = json.dumps(report.as_json(self._figures, machine), indent=2)
        if options.json:
            options.json.write_text(text + "\n")
        else:
            print(text)
        return self._problems

    def _measure(self, launch: Launch) -> None:
        """Start one server, measure it by each of its addresses, and stop it."""
        self._log.print(f"[bold]{launch.name}[/] starts, log in {launch.log}")
        addresses = {launch.name: ""}
        if launch.name == "daemon" and self._options.socket:
            addresses["daemon, Unix socket"] = str(self._setup.socket)
        with running(launch) as server:
            self._log.print(f"  ready after {server.start_s:.1f} s")
            for name, unix_socket in addresses.items():
                found = self._figures[name] = figures(
                    server, self._setup.key, self._effort, self._say, unix_socket
                )
                if found.failed:
                    examples = "\n  ".join(found.failures[:5])
                    self._problems.append(f"{name}: {found.failed} failed:\n  {examples}")
        if server.left_behind:
            # The daemon promises to leave nothing; what vLLM leaves is only worth a word.
            text = f"{launch.name} left processes behind: {'; '.join(server.left_behind)}"
            self._log.print(f"  {text}")
            if launch.name == "daemon":
                self._problems.append(text)

    def _say(self, text: str) -> None:
        self._log.print(f"  {text}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_peers", description=__doc__)
    parser.add_argument(
        "--runs", type=_count, default=5, metavar="N", help="runs for the throughput (5)"
    )
    parser.add_argument(
        "--stall-runs", type=_count, default=20, metavar="N", help="runs to find stalls in (20)"
    )
    parser.add_argument(
        "--unary", type=_count, default=300, metavar="N", help="one-token requests (300)"
    )
    parser.add_argument("--quick", action="store_true", help="1 run, 2 for stalls, 50 requests")
    parser.add_argument("--only", choices=("daemon", "peer"), help="measure just this server")
    parser.add_argument(
        "--socket", action="store_true", help="measure the daemon over its Unix socket as well"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the JSON there instead of printing it"
    )
    options = parser.parse_args()
    if options.quick:
        options.runs, options.stall_runs, options.unary = 1, 2, 50
    return options


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count
