"""A copy of the ledger while it is written. Imports nothing that writes: it may run anywhere."""

import sqlite3
from contextlib import closing
from pathlib import Path

from infer_daemon.ledger.problems import LedgerProblem, explain

STEP_PAGES = 256
"""A megabyte at a time, between which others get the disk."""
STEP_S = 0.002


def backup(source: Path, target: Path) -> None:
    """Copy the ledger as it is at this moment to a file that must not exist yet. Blocks for as long
    as that takes; the writer goes on, and its write-ahead log grows meanwhile.

    Raises:
        LedgerProblem: there is no ledger, the target exists, or one of them fails.
    """
    if target.exists():
        raise LedgerProblem(f"{target} exists already; a backup overwrites nothing")
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with closing(_opened(source)) as reader:
            # One snapshot for the whole copy: else each commit would make it begin again.
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM meta").fetchone()
            _copy(reader, partial)
        partial.rename(target)
    except sqlite3.Error as error:
        raise LedgerProblem(f"no backup was made: {explain(error, source)}") from error
    except OSError as error:
        raise LedgerProblem(f"no backup was made: {explain(error, target)}") from error


def _copy(reader: sqlite3.Connection, target: Path) -> None:
    """What goes wrong from here on is the fault of the place it is to go to."""
    try:
        with closing(sqlite3.connect(target)) as copy:
            reader.backup(copy, pages=STEP_PAGES, sleep=STEP_S)
            copy.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.Error as error:
        why = explain(error, target)
        target.unlink(missing_ok=True)
        raise LedgerProblem(f"no backup was made: {why}") from error


def _opened(source: Path) -> sqlite3.Connection:
    if not source.exists():
        raise LedgerProblem(f"{source}: there is no ledger here")
    return sqlite3.connect(source, isolation_level=None)
