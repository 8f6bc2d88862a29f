"""`infer-daemon bench isolation | overload | fairness | priority | decision | ledger`.

Imports nothing heavy before a bench is chosen: every command passes through here. Missing a target
is a result, not a failure; the exit code is 1 only if a server or a request failed.
"""

import argparse
from pathlib import Path

BENCHES = {
    "isolation": "what a flood of one tenant does to another's one-line request",
    "overload": "what is answered in time when far more is asked than can be",
    "fairness": "whether tenants that always want more get what their weights say",
    "priority": "whether the urgent comes first, and the rest not never",
    "decision": "what the scheduler itself costs, by how many wait",
    "ledger": "what it costs to write every request down",
}
SECONDS = {
    "isolation": 30.0,
    "overload": 60.0,
    "fairness": 60.0,
    "priority": 60.0,
    "decision": 1.0,
    "ledger": 10.0,
}
FILE_WIDTH = 120


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    bench = commands.add_parser("bench", help="measure what the daemon promises, on this machine")
    names = bench.add_subparsers(required=True, metavar="BENCH", dest="bench")
    for name, what in BENCHES.items():
        one = names.add_parser(name, help=what)
        one.set_defaults(run=_bench)
        one.add_argument("--runs", type=_count, default=3, metavar="N", help="(3)")
        one.add_argument(
            "--seconds",
            type=_positive,
            default=SECONDS[name],
            metavar="S",
            help=f"length of a measurement ({SECONDS[name]:g})",
        )
        one.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
        # The simulated engine is for tests of the benches themselves: its figures say nothing.
        one.add_argument("--kind", choices=("vllm", "sim"), default="vllm", help=argparse.SUPPRESS)
        one.set_defaults(victim_requests=300, peer=False)
        if name == "isolation":
            one.add_argument(
                "--victim-requests", type=_count, metavar="N", help="in each run (300)"
            )
        if name in ("isolation", "overload"):
            one.add_argument("--peer", action="store_true", help="measure vLLM's own server too")


def _bench(arguments: argparse.Namespace) -> int:
    from infer_daemon.bench import command

    return command.measure(arguments)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds up to 3600")
    return number
