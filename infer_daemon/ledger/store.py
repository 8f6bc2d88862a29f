"""Where rows go: into the database; while that fails into the journal; while that fails too they
wait in memory. Nothing that was handed over is ever dropped, and what was confirmed outlives the
daemon. No thread, no queue and no timer: the writer has these.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Literal, TypeVar

import structlog

from infer_daemon.ledger.batch import Batch, batch_of
from infer_daemon.ledger.journal import Journal, line_of
from infer_daemon.ledger.problems import LedgerProblem, SettledTwice, explain
from infer_daemon.ledger.reserve import Reserve
from infer_daemon.ledger.rows import Row, Settlement
from infer_daemon.ledger.sql.database import Durability, WriterDatabase, open_database

log = structlog.get_logger()

DATABASE, JOURNAL, DAMAGED = "ledger.sqlite3", "ledger.journal", "ledger.journal.damaged"
RESERVE = "ledger.reserve"
BATCH_ROWS_MAX = 128
"""Rows of one transaction: a few milliseconds."""

Done = Callable[[LedgerProblem | None], None]
"""Told once that a row is durable, or why it was not taken."""
Told = list[tuple[Done, LedgerProblem | None]]
Entry = tuple[Row, Done | None]
"""`Done` is for settlements alone: nobody waits for an opening."""
T = TypeVar("T")

_ROWS_FAULT = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    TypeError,
    ValueError,
)
"""Errors that say nothing of the database, but that a row has what no column takes."""


State = Literal["ok", "spilling", "failing"]
"""spilling: they go to the journal. failing: they wait in memory, and so do their clients."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether rows reach the database."""

    state: State
    since_s: float
    """By the wall clock."""
    why: str = ""
    waiting: int = 0
    """Rows that are not in the database yet."""


@dataclass(frozen=True, slots=True)
class Started:
    """What an earlier run left."""

    lost: int
    """Requests that were open: settled as lost."""
    replayed: int
    """Rows of the journal that the database did not have."""


class Store:
    """Used by one thread at a time; `health` and `waiting` may be read by any."""

    def __init__(self, folder: Path, *, durability: Durability, clock: Callable[[], float]) -> None:
        """Args: clock: seconds since the epoch."""
        self.path = folder / DATABASE
        self._durability: Durability = durability
        self._clock = clock
        self._database: WriterDatabase | None = None
        self._journal = Journal(folder / JOURNAL, is_synced=durability == "power")
        self._damaged = folder / DAMAGED
        self._reserve = Reserve(folder / RESERVE)
        self._held: list[tuple[Row, Done | None, bytes]] = []
        """Rows and their lines that neither the database nor the journal took."""
        self.settled_twice = 0
        """Settlements that came a second time, since the start."""
        self.refused = 0
        """Rows that no table takes, since the start."""
        self.health = Health("ok", clock())

    @property
    def waiting(self) -> int:
        """Rows that are not in the database yet."""
        return len(self._held) + self._journal.waiting

    @property
    def held(self) -> int:
        """Rows that are nowhere but in memory."""
        return len(self._held)

    def open(self) -> Started:
        """Open or create the database and take in what an earlier run left. You *must* hold the
        state folder's lock.

        Raises:
            LedgerProblem: it cannot be used; says why.
        """
        try:
            self._database = open_database(self.path, self._durability)
            replayed = self._replay(self._database)
            lost = self._database.settle_lost()
        except (sqlite3.Error, OSError) as error:
            self._close_database()
            raise LedgerProblem(explain(error, self.path)) from error
        self._reserve.hold()
        if lost or replayed:
            log.warning("ledger_recovered", lost=lost, replayed=replayed)
        return Started(lost, replayed)

    def write(self, entries: Sequence[Entry]) -> Told:
        """Take these rows. Returns whom to tell what; who is missing is told later."""
        if self._database is None:
            return self._spill(entries)
        try:
            if not self._database.is_in_place:
                raise _gone()
            return self._commit(self._database, entries)
        except (sqlite3.Error, OSError) as error:
            self._close_database()
            self._change("spilling", explain(error, self.path))
            return self._spill(entries)

    def _commit(self, database: WriterDatabase, entries: Sequence[Entry]) -> Told:
        """Raises: sqlite3.Error, OSError: none of these rows is known to be in the database."""
        batch = batch_of(row for row, _ in entries)
        try:
            before = database.write(batch)
        except _ROWS_FAULT as error:
            return self._commit_each(database, entries, error)
        if not before and not batch.again:
            return [(done, None) for _, done in entries if done is not None]
        return [
            (done, problem)
            for row, done in entries
            for problem in [self._if_again(row, batch, before)]
            if done is not None
        ]

    def _commit_each(
        self, database: WriterDatabase, entries: Sequence[Entry], error: Exception
    ) -> Told:
        """One of these rows is at fault: take the others."""
        if len(entries) > 1:
            return [told for entry in entries for told in self._commit(database, [entry])]
        return self._refuse(entries[0], error)

    def _refuse(self, entry: Entry, error: Exception) -> Told:
        row, done = entry
        self.refused += 1
        log.error("ledger_row_refused", id=row.id, why=str(error), row=repr(row))
        problem = LedgerProblem(f"request {row.id} cannot be written down: {error}")
        return [(done, problem)] if done is not None else []

    def _if_again(self, row: Row, batch: Batch, before: set[str]) -> SettledTwice | None:
        if not isinstance(row, Settlement):
            return None
        if row.id not in before and batch.settlements[row.id] is row:
            return None
        self.settled_twice += 1
        log.error("ledger_settled_twice", id=row.id, outcome=row.outcome)
        return SettledTwice(f"request {row.id} is settled already")

    def _spill(self, entries: Sequence[Entry]) -> Told:
        """Rows that wait in memory go first, so that the journal has them in order."""
        told: Told = []
        for row, done in entries:
            try:
                self._held.append((row, done, line_of(row)))
            except _ROWS_FAULT as error:
                told += self._refuse((row, done), error)
        if self._held and not self._append_held():
            return told
        if self.health.state == "failing" and not self._reserve.is_given:
            self._change("spilling", self.health.why.partition("; ")[0])
        told += [(done, None) for _, done, _ in self._held if done is not None]
        self._held.clear()
        return told

    def _append_held(self) -> bool:
        """Whether the journal has taken them. If it has no room, there is the reserve: once, for
        those who run."""
        lines = [line for _, _, line in self._held]
        try:
            self._journal.append(lines)
        except OSError as error:
            self._change("failing", f"{self.health.why}; {explain(error, self._journal.path)}")
            if error.errno not in (ENOSPC, EDQUOT) or not self._reserve.give():
                return False
            with suppress(OSError):
                self._journal.append(lines)
                return True
            return False
        return True

    def retry(self) -> Told:
        """Try the database again, if it is out of use. To be called every second."""
        if self._database is not None:
            return []
        if self._reserve.is_given and not self._reserve.hold():
            return self._still(self.health.why)  # others would take the room that is left
        try:
            database = open_database(self.path, self._durability)
        except LedgerProblem as problem:
            return self._still(str(problem))
        try:
            replayed = self._replay(database) if self._journal.waiting else 0
            held, self._held = self._held, []
            try:
                entries = [(row, done) for row, done, _ in held]
                told = self._commit(database, entries) if held else []
            except BaseException:
                self._held = held
                raise
        except (sqlite3.Error, OSError) as error:
            database.close()
            return self._still(explain(error, self.path))
        self._database = database
        for_s = round(self._clock() - self.health.since_s, 1)
        log.info("ledger_back", replayed=replayed, held=len(held), for_s=for_s)
        self.health = Health("ok", self._clock())
        return told

    def _still(self, why: str) -> Told:
        if self.health.state == "spilling":
            self.health = Health("spilling", self.health.since_s, why)
        return self._spill([])

    def _replay(self, database: WriterDatabase) -> int:
        """Take in the journal; what the database has of it already changes nothing. Killed in the
        middle, the next start begins again. Returns how many rows were new or may have been."""
        rows = 0
        for chunk in self._journal.read(BATCH_ROWS_MAX):
            self._commit_quietly(database, chunk)
            rows += len(chunk)
        if self._journal.damaged:
            log.error(
                "ledger_journal_damaged", lines=self._journal.damaged, kept=str(self._damaged)
            )
        self._journal.clear(keep_as=self._damaged if self._journal.damaged else None)
        return rows

    def _commit_quietly(self, database: WriterDatabase, rows: Sequence[Row]) -> None:
        """A settlement that is there already is no mistake here."""
        try:
            database.write(batch_of(rows))
        except _ROWS_FAULT as error:
            if len(rows) > 1:
                for row in rows:
                    self._commit_quietly(database, [row])
                return
            self._refuse((rows[0], None), error)

    def run(self, work: Callable[[WriterDatabase], T]) -> T:
        """Do something else with the database.

        Raises:
            LedgerProblem: the database is out of use, or the work failed in it; nothing was done.
        """
        if self._database is None:
            raise LedgerProblem(self.health.why)
        if not self._database.is_in_place:
            self._close_database()
            self._change("spilling", explain(_gone(), self.path))
            raise LedgerProblem(self.health.why)
        try:
            return work(self._database)
        except sqlite3.Error as error:
            raise LedgerProblem(explain(error, self.path)) from error

    def rest(self) -> None:
        """Between commits: what keeps the files short."""
        if self._database is not None:
            try:
                self._database.checkpoint()
            except sqlite3.Error as error:
                log.warning("ledger_checkpoint_failed", why=explain(error, self.path))

    def close(self) -> Told:
        """Write down what waits, if that is possible now, and close the files."""
        told = self.retry()
        self._close_database()
        self._journal.close()
        self._reserve.give()
        return told

    def _close_database(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _change(self, state: Literal["spilling", "failing"], why: str) -> None:
        if state != self.health.state:
            log.error(f"ledger_{state}", why=why)
            self.health = Health(state, self._clock(), why)


def _gone() -> OSError:
    return FileNotFoundError(0, "it was removed or replaced while it was open")
