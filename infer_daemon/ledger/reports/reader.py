"""The ledger's file, opened to be read: beside a daemon that writes it, or without one."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from infer_daemon import __version__
from infer_daemon.ledger.problems import LedgerProblem, explain
from infer_daemon.ledger.sql.schema import VERSION

BUSY_S = 5.0
"""How long another program's lock is waited for. The daemon's own never holds up a reader."""
STEPS = 100_000
"""Of SQLite's machine, before it asks whether it should go on: a few milliseconds. Each time it
must get the interpreter's lock, which a busy event loop holds for as long."""

Row = dict[str, Any]


class Reader:
    """A connection that cannot write, of the thread that opens it; you *must* `close` it there."""

    def __init__(self, path: Path, is_over: Callable[[], bool] | None = None) -> None:
        """
        Args:
            is_over: asked every now and then; once it is true, whatever is being read, or is to be
                read, ends with a LedgerProblem.

        Raises:
            LedgerProblem: there is none, it cannot be read, or another version wrote it.
        """
        self.path = path
        if not path.exists():
            raise LedgerProblem(
                f"{path}: there is no ledger here (--state-dir, if it is elsewhere)"
            )
        with self._explained():
            self._connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=ro",
                uri=True,
                timeout=BUSY_S,
                isolation_level=None,
            )
        if is_over is not None:
            self._connection.set_progress_handler(is_over, STEPS)
        try:
            self._check_version()
        except BaseException:
            self.close()
            raise

    def _check_version(self) -> None:
        (found,) = self.rows("PRAGMA user_version")[0].values()
        if found == VERSION:
            return
        if found == 0:
            raise LedgerProblem(f"{self.path}: this is no ledger, or one that is still being made")
        way_out = (
            "read it with that"
            if found > VERSION
            else "a daemon of this version brings it up to date"
        )
        wrote = [row["value"] for row in self._meta("daemon_version")] or ["of an unknown version"]
        raise LedgerProblem(
            f"{self.path} has schema version {found}, written by infer-daemon {wrote[0]}; this is"
            f" infer-daemon {__version__}, which reads schema version {VERSION}: {way_out}"
        )

    def _meta(self, key: str) -> list[Row]:
        known = self.rows("SELECT name FROM sqlite_schema WHERE name = 'meta'")
        return self.rows("SELECT value FROM meta WHERE key = ?", key) if known else []

    def rows(self, sql: str, *values: object) -> list[Row]:
        """What a query finds, each row by its columns' names.

        Raises:
            LedgerProblem: the database cannot be read; says why.
        """
        with self._explained():
            cursor = self._connection.execute(sql, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    @contextmanager
    def moment(self) -> Iterator[None]:
        """All that is read inside is of the same moment, whatever is written meanwhile."""
        with self._explained():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Idempotent."""
        self._connection.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerProblem(explain(error, self.path)) from error
