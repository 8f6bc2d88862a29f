"""What can be wrong with the ledger, in words that an operator understands."""

import shutil
import sqlite3
from pathlib import Path


class LedgerProblem(Exception):
    """The ledger cannot do this; the message says why and, where there is one, the way out."""


class LedgerFull(LedgerProblem):
    """Too many rows wait to be written down: no new request may begin."""


class SettledTwice(LedgerProblem):
    """This request is settled already; nothing was changed."""


_WAY_OUT = "move it away with its -wal and -shm files, or put a backup in its place"
_WORDS = {
    "SQLITE_FULL": "the disk is full",
    "SQLITE_BUSY": "another program holds a lock on it",
    "SQLITE_LOCKED": "another program holds a lock on it",
    "SQLITE_READONLY": "it cannot be written, only read",
    "SQLITE_CORRUPT": f"it is damaged; {_WAY_OUT}",
    "SQLITE_NOTADB": f"this is no SQLite database; {_WAY_OUT}",
    "SQLITE_CANTOPEN": "it can be neither opened nor created",
    "SQLITE_PERM": "the permissions forbid it",
    "SQLITE_IOERR": "the disk reports an error",
}


ROOM_BYTES = 1 << 20
"""Where less is free, that is why a file cannot be written or opened: a database in use takes room
for its index of the log even to be read."""
_MAY_MEAN_FULL = ("SQLITE_IOERR", "SQLITE_CANTOPEN")


def explain(error: sqlite3.Error | OSError, path: Path) -> str:
    """What is wrong with this file, starting with its path."""
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or error}"
    name: str = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(_MAY_MEAN_FULL) and _is_full(path.parent):
        return f"{path}: {_WORDS['SQLITE_FULL']} ({error})"
    for known, words in _WORDS.items():
        if name.startswith(known):
            return f"{path}: {words} ({error})"
    return f"{path}: {error}"


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < ROOM_BYTES
    except OSError:
        return False
