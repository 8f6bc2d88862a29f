"""The one thread that owns the database, and the queue that the event loop hands rows over by.

Group commit: at once when idle; whatever comes in during a commit goes into the next one.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import structlog

from infer_daemon.ledger.problems import LedgerFull, LedgerProblem
from infer_daemon.ledger.rows import Opening, Settlement
from infer_daemon.ledger.sql.database import PRUNE_MAX, Durability, WriterDatabase
from infer_daemon.ledger.store import (
    BATCH_ROWS_MAX,
    Done,
    Entry,
    Health,
    Started,
    State,
    Store,
    Told,
)

log = structlog.get_logger()

WAITING_MAX = 20_000
"""Rows in the queue or in memory above which no request may open: two for each in flight."""
RETRY_S = 1.0
"""How often a database that failed is tried again."""

T = TypeVar("T")
Tell = Callable[[Callable[[], None]], object]


class _Task:
    """Work for the writer's thread, in its turn."""

    __slots__ = ("future", "work")

    def __init__(self, work: Callable[[WriterDatabase], Any]) -> None:
        self.work = work
        self.future: Future[Any] = Future()

    def run(self, store: Store) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(store.run(self.work))
        except Exception as error:  # noqa: BLE001 - whoever asked gets it
            self.future.set_exception(error)


class Writer:
    """Takes rows from any thread. You *must* `close` what you `start`."""

    def __init__(
        self,
        folder: Path,
        *,
        durability: Durability = "process",
        tell: Tell,
        on_commit: Callable[[int, float], None] = lambda rows, seconds: None,
        retry_s: float = RETRY_S,
    ) -> None:
        """
        Args:
            folder: the state folder, whose lock is held.
            tell: runs what it is given where the callbacks of `settled` belong, once for each
                commit: `loop.call_soon_threadsafe`.
            on_commit: told by the writer's thread how many rows a commit had and what it took.
        """
        self._store = Store(folder, durability=durability, clock=time.time)
        self._tell = tell
        self._on_commit = on_commit
        self._retry_s = retry_s
        self._retry_at_s = 0.0
        self._queue: SimpleQueue[Entry | _Task | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._is_closing = False
        self._is_over = False

    def start(self) -> Started:
        """Open the database, take in what an earlier run left, begin. Blocks.

        Raises:
            LedgerProblem: the ledger cannot be used; says why.
        """
        started = self._store.open()
        self._thread.start()
        return started

    def opened(self, row: Opening) -> None:
        """A request holds a reservation.

        Raises:
            LedgerFull: too many rows wait; the request must be refused.
        """
        if self._queue.qsize() + self._store.held >= WAITING_MAX:
            raise LedgerFull(f"{WAITING_MAX} rows wait to be written: {self.health.why or 'busy'}")
        self._hand_over((row, None))

    def settled(self, row: Settlement, done: Done) -> None:
        """A request has ended. `done` is told once that it is durable, or why it was not taken.
        Always taken: there are no more of these than requests that opened."""
        self._hand_over((row, done))

    def _hand_over(self, entry: Entry) -> None:
        assert not self._is_closing, "nothing may be handed over to a ledger that closes"
        self._queue.put(entry)

    def run(self, work: Callable[[WriterDatabase], T]) -> "Future[T]":
        """Do something else with the database, after everything that was handed over so far. Rows
        wait meanwhile: a few milliseconds at most.

        Fails with LedgerProblem while the database is out of use.
        """
        assert not self._is_closing, "nothing may be handed over to a ledger that closes"
        task = _Task(work)
        self._queue.put(task)
        return task.future

    def prune(self, older_than_us: int, rows_max: int = PRUNE_MAX) -> "Future[int]":
        """Delete a few of the requests that were accepted before this; see `WriterDatabase`."""
        return self.run(lambda database: database.prune(older_than_us, rows_max))

    @property
    def state(self) -> State:
        """That of `health`, for whoever asks at each request."""
        return self._store.health.state

    @property
    def health(self) -> Health:
        waiting = self._queue.qsize() + self._store.waiting
        return replace(self._store.health, waiting=waiting)

    @property
    def settled_twice(self) -> int:
        """Settlements that came a second time, since the start."""
        return self._store.settled_twice

    def close(self, timeout_s: float) -> int:
        """Write down everything that was handed over, and end. Blocks; idempotent.

        Returns:
            Rows that are neither in the database nor in the journal: 0 unless the disk fails.
        """
        if self._thread.ident is None:  # it never started
            return 0
        if not self._is_closing:
            self._is_closing = True
            self._queue.put(None)
        self._thread.join(timeout_s)
        left = self._queue.qsize() + self._store.held
        if left:
            log.critical("ledger_rows_unwritten", rows=left, why=self.health.why)
        return left

    def _work(self) -> None:
        """The thread."""
        while not self._is_over:
            entries, task = self._take()
            if entries:
                self._write(entries)
            if task is not None:
                task.run(self._store)
            if not self._is_ok and time.monotonic() >= self._retry_at_s:
                self._tell_all(self._store.retry())
                self._retry_at_s = time.monotonic() + self._retry_s
        self._tell_all(self._store.close())

    @property
    def _is_ok(self) -> bool:
        return self.state == "ok"

    def _take(self) -> tuple[list[Entry], _Task | None]:
        """Wait for something, then take what there is: rows, and the task that came after them."""
        entries: list[Entry] = []
        timeout_s = None if self._is_ok else max(0.0, self._retry_at_s - time.monotonic())
        try:
            item = self._queue.get(timeout=timeout_s)
            while isinstance(item, tuple):
                entries.append(item)
                if len(entries) == BATCH_ROWS_MAX:
                    return entries, None
                item = self._queue.get_nowait()
        except Empty:
            return entries, None
        self._is_over = item is None
        return entries, item

    def _write(self, entries: list[Entry]) -> None:
        was_ok = self._is_ok
        begun_s = time.perf_counter()
        try:
            told = self._store.write(entries)
        except Exception as error:  # whatever it is, others wait for this thread
            log.exception("ledger_write_failed", rows=len(entries))
            problem = LedgerProblem(f"this row could not be written: {error}")
            told = [(done, problem) for _, done in entries if done is not None]
        self._on_commit(len(entries), time.perf_counter() - begun_s)
        self._tell_all(told)
        if was_ok and not self._is_ok:
            self._retry_at_s = time.monotonic() + self._retry_s
        self._store.rest()

    def _tell_all(self, told: Told) -> None:
        if not told:
            return

        def run() -> None:
            for done, problem in told:
                try:
                    done(problem)
                except Exception:  # the others are to be told all the same
                    log.exception("ledger_tell_failed")

        try:
            self._tell(run)
        except Exception:  # the rows are safe, and others wait for this thread
            log.exception("ledger_tell_failed", rows=len(told))
