"""Answers one question from the ledger's file, beside the daemon or without one."""

import argparse
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.reports import requests
from infer_daemon.ledger.reports.answers import LIMIT_DEFAULT, answer, number
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.reports.requests import Tail
from infer_daemon.ledger.reports.spans import BadQuestion
from infer_daemon.ledger.sql.backup import backup
from infer_daemon.ledger.store import DATABASE, JOURNAL
from infer_daemon.reporting import forms

OK, FAILED, BAD_INPUT = 0, 1, 2
POLL_S = 0.5
_WORDS = (
    "by", "since", "until", "limit", "last", "api_input", "api_cached", "api_output", "gpu_hour",
    "engineering_usd_per_month", "maintenance_usd_per_month", "setup_usd",
)  # fmt: skip

Answer = dict[str, Any]


def run(arguments: argparse.Namespace, folder: Path) -> int:
    """Returns the exit code: 0 done, 1 failed or not true to itself, 2 bad input."""
    try:
        if arguments.question == "backup":
            return _backup(folder, arguments.target)
        with closing(Reader(folder / DATABASE)) as reader:
            return _answer(reader, arguments)
    except BadQuestion as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except LedgerProblem as error:
        print(error, file=sys.stderr)
        return FAILED


def _answer(reader: Reader, arguments: argparse.Namespace) -> int:
    if arguments.question == "request":
        return _request(reader, arguments)
    words = {
        name: value for name in _WORDS if (value := getattr(arguments, name, None)) is not None
    }
    if arguments.question == "tail" and arguments.follow:
        return _follow(reader, arguments, words.get("last", LIMIT_DEFAULT))
    found: Answer = answer(reader, arguments.question, words, time.time_ns() // 1000)
    forms.show(arguments.question, found, _form(arguments))
    return FAILED if found.get("ok") is False else OK


def _form(arguments: argparse.Namespace) -> forms.Form:
    return "json" if arguments.json else "csv" if arguments.csv else "table"


def _request(reader: Reader, arguments: argparse.Namespace) -> int:
    found = requests.request(reader, arguments.id)
    if found is None:
        print(
            f"the ledger has no request {arguments.id!r}: who was refused before it was admitted"
            " has no row (`infer-daemon story` tells of the last ones), nor has what is older than"
            " keep_days",
            file=sys.stderr,
        )
        return FAILED
    forms.show("request", found, _form(arguments))
    return OK


def _follow(reader: Reader, arguments: argparse.Namespace, last: str) -> int:
    """Until it is ended."""
    tail, form = Tail(reader), _form(arguments)
    rows = tail.last(number(last, "last"))
    is_begun = False
    try:
        while True:
            forms.show_lines(rows, form, head=not is_begun and (bool(rows) or form == "table"))
            is_begun = is_begun or bool(rows) or form == "table"
            time.sleep(POLL_S)
            rows = tail.more()
    except KeyboardInterrupt:
        return OK


def _backup(folder: Path, target: Path) -> int:
    backup(folder / DATABASE, target)
    print(f"{target}: {target.stat().st_size:,} bytes")
    journal = folder / JOURNAL
    if journal.exists() and journal.stat().st_size:
        print(f"rows that wait in {journal} are not in it", file=sys.stderr)
    return OK
