"""The one connection that writes. Each method is one transaction: all of it, or an exception."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from infer_daemon.ledger import batch as batches
from infer_daemon.ledger.batch import Batch
from infer_daemon.ledger.budgets import STEP_BACK_MAX_US, Spend
from infer_daemon.ledger.devices import DeviceHour
from infer_daemon.ledger.periods import Period, period_starts
from infer_daemon.ledger.problems import LedgerProblem, explain
from infer_daemon.ledger.rows import OPENING_COLUMNS, SETTLEMENT_COLUMNS, Opening, Settlement
from infer_daemon.ledger.sql import device_hours, statements
from infer_daemon.ledger.sql.checkpoint import Checkpointer
from infer_daemon.ledger.sql.schema import upgrade

Durability = Literal["process", "power"]
"""What a committed row outlives: the death of the daemon, or that of the machine."""

BUSY_S = 0.1
"""How long one try waits for another program's lock."""
PRUNE_MAX = 500
"""Rows that may be deleted in one transaction."""
_VACUUM_PAGES = 500


class WriterDatabase:
    """The ledger's file, opened for writing. Used by one thread at a time."""

    def __init__(self, path: Path, durability: Durability) -> None:
        """Open or create it, and bring it up to date.

        Raises:
            LedgerProblem: a newer version of the daemon wrote it.
            sqlite3.Error: it cannot be opened, read or written.
        """
        self.path = path
        self.connection = sqlite3.connect(
            path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        self._names: dict[str, set[str]] = {"tenants": set(), "models": set(), "engines": set()}
        try:
            self._prepare(durability)
            self._inode = path.stat().st_ino
        except BaseException:
            self.connection.close()
            raise
        self._checkpointer = Checkpointer(path)

    def _prepare(self, durability: Durability) -> None:
        run = self.connection.execute
        run("PRAGMA foreign_keys = ON")
        # Before any table, and in this order: a write-ahead log fixes what auto_vacuum is.
        upgrade(self.connection, self.path)
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
        run("PRAGMA wal_autocheckpoint = 0")  # see `checkpoint`
        run("PRAGMA cache_size = -65536")
        with self.transaction():
            pass  # one that is locked, or may only be read, is found out here

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of what is done inside, or nothing."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def write(self, batch: Batch) -> set[str]:
        """Write a batch down. Returns the ids in it that were settled before: of these nothing is
        changed, and they cost and count nothing."""
        seen: dict[str, set[str]] = {}
        with self.transaction():
            before = self._settled_among(batch.settlements)
            rows = [row for row in batch.settlements.values() if row.id not in before]
            if rows or batch.openings:
                seen = self._insert_names([*rows, *batch.openings])
            width = len(OPENING_COLUMNS)
            openings = [msgspec.structs.astuple(row)[:width] for row in batch.openings]
            statements.OPEN_REQUESTS.run(self.connection, openings)
            width = len(SETTLEMENT_COLUMNS)
            settled = [msgspec.structs.astuple(row)[:width] for row in rows]
            statements.SETTLE_REQUESTS.run(self.connection, settled)
            statements.ADD_HOURS.run(self.connection, batches.hours(rows))
            statements.ADD_SPEND.run(self.connection, batches.spend(rows))
        for table, names in seen.items():
            self._names[table] |= names
        self._checkpointer.wrote(len(rows) + len(openings))
        return before

    def _settled_among(self, ids: Iterable[str]) -> set[str]:
        listed = msgspec.json.encode(list(ids)).decode()
        (found,) = self.connection.execute(statements.SETTLED_AMONG, (listed,)).fetchone()
        return set(msgspec.json.decode(found, type=list[str]))

    def _insert_names(self, rows: list[Opening | Settlement]) -> dict[str, set[str]]:
        """Returns what is new; it is known only when it is committed."""
        seen = {
            "tenants": {row.tenant for row in rows},
            "models": {row.model for row in rows},
            "engines": {e for row in rows if (e := getattr(row, "engine", None)) is not None},
        }
        for table, names in seen.items():
            names -= self._names[table]
            for name in sorted(names):
                self.connection.execute(f"INSERT OR IGNORE INTO {table} VALUES (?)", (name,))
        return seen

    def add_device_hours(self, rows: Sequence[DeviceHour], until_ns: int) -> None:
        """Add to the hours of devices, which are then told up to this moment since the epoch."""
        with self.transaction():
            device_hours.add(self.connection, rows, until_ns)
        self._checkpointer.wrote(1 + len(rows))

    def note_twice(self, twice: Mapping[str, tuple[int, int]]) -> None:
        """These devices will have the time from one moment to the other twice."""
        with self.transaction():
            device_hours.note_twice(self.connection, twice)
        self._checkpointer.wrote(len(twice))

    @property
    def devices_until_ns(self) -> dict[str, int]:
        """Up to which moment each device is told that ever was."""
        return device_hours.until_ns(self.connection)

    def settle_lost(self) -> int:
        """Settle what is still open as lost. Returns how many."""
        with self.transaction():
            self.connection.execute(statements.ADD_LOST_HOURS)
            return self.connection.execute(statements.LOSE_REQUESTS).rowcount

    def spent(self, now_us: int) -> list[Spend]:
        """Settled use of the day and the month that are now, and of one that has begun by a clock
        that was set back since."""
        latest_us = now_us + STEP_BACK_MAX_US
        found = self.connection.execute(
            statements.SPENT, (*period_starts(now_us), latest_us)
        ).fetchall()
        return [Spend(tenant, Period(period), *rest) for tenant, period, *rest in found]

    def prune(self, older_than_us: int, rows_max: int) -> int:
        """Delete settled requests that were accepted before this; their hours are kept.

        Returns how many: ask again until it is 0, with a pause.
        """
        assert 0 < rows_max <= PRUNE_MAX, "whoever waits for a commit would wait for this too"
        with self.transaction():
            values = (older_than_us, rows_max)
            pruned = self.connection.execute(statements.PRUNE_REQUESTS, values).rowcount
        self._checkpointer.wrote(pruned)
        # A statement by itself would stop after the first page.
        self.connection.executescript(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})")
        return pruned

    def checkpoint(self) -> None:
        """Between commits: keep the write-ahead log from growing without bound."""
        if self._checkpointer.is_rest_due:
            self._checkpointer.copy_rest(self.connection)

    @property
    def is_in_place(self) -> bool:
        """Whether what is open is still what the path names."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        """Idempotent; empties the write-ahead log unless somebody reads."""
        self._checkpointer.close()
        self.connection.close()


def open_database(path: Path, durability: Durability) -> WriterDatabase:
    """Raises: LedgerProblem: it cannot be used, in words."""
    try:
        return WriterDatabase(path, durability)
    except (sqlite3.Error, OSError) as error:
        raise LedgerProblem(explain(error, path)) from error
