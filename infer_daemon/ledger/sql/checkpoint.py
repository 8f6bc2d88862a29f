"""Copies the write-ahead log into the database, beside the writer.

The copy waits for the disk, which takes hundreds of milliseconds at times: on the writer's thread
every client would wait with it. A passive checkpoint on another connection holds up nobody, but
under a load that never pauses it never quite catches up, and a log that is never wholly copied is
never begun anew: when it is long, the writer copies the small rest itself (`is_rest_due`).
"""

import sqlite3
import threading
from pathlib import Path

import structlog

log = structlog.get_logger()

ROWS = 12_000
"""Rows after which the log is copied: some 40 megabytes of it."""
LOG_PAGES_MAX = 25_000
"""Above this the writer lends a hand: 100 megabytes."""


class Checkpointer:
    """A thread with a connection of its own. You *must* close it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = 0
        self._log_pages = 0
        """As long as the log was when it was last copied."""
        self._is_over = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ledger-checkpoint", daemon=True)
        self._thread.start()

    def wrote(self, rows: int) -> None:
        """The writer's log is longer by so many rows."""
        self._rows += rows
        if self._rows >= ROWS:
            self._rows = 0
            self._wake.set()

    @property
    def is_rest_due(self) -> bool:
        """Whether the log has just been copied, and is so long that it should begin anew."""
        return self._log_pages > LOG_PAGES_MAX

    def copy_rest(self, writer: sqlite3.Connection) -> None:
        """Raises: sqlite3.Error"""
        self._log_pages = 0
        copy(writer)

    def close(self) -> None:
        """Waits for the copy that is being made."""
        self._is_over = True
        self._wake.set()
        self._thread.join()

    def _work(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._is_over:
                return
            try:
                connection = sqlite3.connect(self._path, isolation_level=None, timeout=0.0)
                try:
                    self._log_pages = copy(connection)
                finally:
                    connection.close()
            except sqlite3.Error as error:  # what is wrong with it, the writer finds out by itself
                log.warning("ledger_checkpoint_failed", why=str(error))


def copy(connection: sqlite3.Connection) -> int:
    """Copy what no reader holds back. Returns how many pages the log has.

    Raises:
        sqlite3.Error: the database cannot be written.
    """
    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return int(pages)
