"""The options of `infer-daemon ledger report | top | request | tail | breakeven | verify | backup`.

Imports nothing heavy: every command passes through here. Values go on as words, since the
operators' socket takes the same.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infer_daemon.settings.state_folder import StateFolder

FolderOf = Callable[[argparse.Namespace], "StateFolder"]

_QUESTIONS = {
    "report": "who used what, and what it cost",
    "top": "the tenants that were charged most",
    "request": "everything that is known of one request",
    "tail": "the last requests, as they settle",
    "breakeven": "what this would have cost at an API's prices, and when one's own devices pay",
    "verify": "whether the ledger is true to itself; exit 1 if not",
    "backup": "copy the ledger, also while the daemon runs",
}
_PRICES = {
    "api-input": "dollars per million input tokens of the API",
    "api-cached": "of cached ones (as other input)",
    "api-output": "dollars per million output tokens of the API",
    "gpu-hour": "dollars per hour of a device here, instead of what is configured",
    "engineering-usd-per-month": "work on running it oneself (0)",
    "maintenance-usd-per-month": "other cost of that (0)",
    "setup-usd": "spent before the first month (0)",
}


def add_to(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", folder_of: FolderOf
) -> None:
    """Add the command. Args: folder_of: the state folder that the options name."""
    ledger = commands.add_parser("ledger", help="what requests cost, from the ledger itself")
    questions = ledger.add_subparsers(required=True, metavar="QUESTION", dest="question")
    for name, what in _QUESTIONS.items():
        one = questions.add_parser(name, help=what)
        one.set_defaults(run=partial(_run, folder_of))
        where = one.add_mutually_exclusive_group()
        where.add_argument(
            "--state-dir", type=Path, metavar="DIR", help="the state folder, if not the default one"
        )
        where.add_argument("--config", type=Path, metavar="FILE", help="the configuration")
        _add_options(name, one)
        if name != "backup":
            form = one.add_mutually_exclusive_group()
            form.add_argument("--json", action="store_true", help="as JSON")
            form.add_argument("--csv", action="store_true", help="as CSV")


def _add_options(name: str, one: argparse.ArgumentParser) -> None:
    if name == "report":
        by = "tenant, model, class, day, hour, endpoint or outcome, with commas between (tenant)"
        one.add_argument("--by", metavar="NAMES", help=by)
    if name in ("report", "top", "breakeven"):
        since = "an age (30m, 24h, 7d, 4w), a day (2026-11-01) or a moment of UTC (7d)"
        one.add_argument("--since", metavar="WHEN", help=since)
        one.add_argument("--until", metavar="WHEN", help="likewise (now)")
    if name == "top":
        one.add_argument("--limit", metavar="N", help="how many (10)")
    if name == "tail":
        one.add_argument("--last", metavar="N", help="how many of the last (10)")
        one.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    if name == "breakeven":
        for option, what in _PRICES.items():
            required = option in ("api-input", "api-output")
            one.add_argument(f"--{option}", metavar="USD", help=what, required=required)
    if name == "request":
        one.add_argument("id", metavar="ID", help="x-request-id, or the id in the response")
    if name == "backup":
        one.add_argument("target", type=Path, metavar="TARGET", help="a file that is not there yet")


def _run(folder_of: FolderOf, arguments: argparse.Namespace) -> int:
    from infer_daemon.reporting import command

    return command.run(arguments, folder_of(arguments).root)
