"""The one thread that owns the database, and the queue that the event loop hands rows over by.

Group commit: at once when idle; whatever comes in during a commit goes into the next one. To wake
the thread costs more than a row, so all that is handed over in one turn of the event loop goes to
it together; and it makes the rows, of what it is given for them. While many come, it gathers them
for a moment: each commit is a wake-up of either thread, and both take the interpreter in turns.
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
from infer_daemon.ledger.rows import Opening, Row, Settlement
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
"""Rows handed over or in memory above which no request may open: two for each in flight."""
BUSY_ROWS = 8
GATHER_S = 0.002
"""After a commit of so many rows more are about to come: it looks for them after that time. Whoever
is alone never waits for it."""
RETRY_S = 1.0
"""How often a database that failed is tried again."""

T = TypeVar("T")
Run = Callable[[Callable[[], None]], object]
"""Has it run, now or soon."""
Draft = tuple[Callable[[], Row], Done | None]
"""What makes the row, in the writer's thread; and whom to tell."""


def _at_once(work: Callable[[], None]) -> None:
    work()


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
    """Used from one thread, but for what says otherwise. You *must* `close` what you `start`."""

    def __init__(
        self,
        folder: Path,
        *,
        durability: Durability = "process",
        tell: Run,
        soon: Run = _at_once,
        on_commit: Callable[[int, float], None] = lambda rows, seconds: None,
        retry_s: float = RETRY_S,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """
        Args:
            folder: the state folder, whose lock is held.
            tell: runs what it is given where the callbacks of `settled` belong, once for each
                commit: `loop.call_soon_threadsafe`.
            soon: runs what it is given in the thread that hands rows over, when that has handed
                over all that it has just now: `loop.call_soon`.
            on_commit: told by the writer's thread how many rows a commit had and what it took.
            sleep: blocks the writer's thread for so many seconds, while it gathers.
        """
        self._store = Store(folder, durability=durability, clock=time.time)
        self._tell = tell
        self._soon = soon
        self._on_commit = on_commit
        self._sleep = sleep
        self._retry_s = retry_s
        self._retry_at_s = 0.0
        #: What has been handed over in this turn.
        self._crowd: list[Draft] = []
        self._queue: SimpleQueue[list[Draft] | _Task | None] = SimpleQueue()
        #: What the thread has taken out of it and not written yet.
        self._taken: list[Draft] = []
        #: How many rows were sent to the thread, and how many it has brought to the database or the
        #: journal; each is counted by one thread.
        self._sent_count = self._safe_count = 0
        self._taken_count = 0
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

    def opened(self, make: Callable[[], Opening]) -> None:
        """A request holds a reservation.

        Raises:
            LedgerFull: too many rows wait; the request must be refused.
        """
        if self._sent_count - self._safe_count + len(self._crowd) >= WAITING_MAX:
            raise LedgerFull(f"{WAITING_MAX} rows wait to be written: {self.health.why or 'busy'}")
        self._hand_over((make, None))

    def settled(self, make: Callable[[], Settlement], done: Done) -> None:
        """A request has ended. `done` is told once that it is durable, or why it was not taken.
        Always taken: there are no more of these than requests that opened."""
        self._hand_over((make, done))

    def _hand_over(self, draft: Draft) -> None:
        assert not self._is_closing, "nothing may be handed over to a ledger that closes"
        self._crowd.append(draft)
        if len(self._crowd) == 1:
            self._soon(self._send)

    def _send(self) -> None:
        """Wake the thread for all that was handed over."""
        if self._crowd:
            crowd, self._crowd = self._crowd, []
            self._sent_count += len(crowd)
            self._queue.put(crowd)

    def run(self, work: Callable[[WriterDatabase], T]) -> "Future[T]":
        """Do something else with the database, after everything that was handed over so far. Rows
        wait meanwhile: a few milliseconds at most.

        Fails with LedgerProblem while the database is out of use.
        """
        assert not self._is_closing, "nothing may be handed over to a ledger that closes"
        self._send()
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
        """For any thread."""
        waiting = self._sent_count - self._taken_count + self._store.waiting
        return replace(self._store.health, waiting=waiting)

    @property
    def settled_twice(self) -> int:
        """Settlements that came a second time, since the start."""
        return self._store.settled_twice

    def seal(self) -> None:
        """Nothing is handed over from now on; what was is on its way. Idempotent."""
        if not self._is_closing:
            self._send()
            self._is_closing = True
            self._queue.put(None)

    def close(self, timeout_s: float) -> int:
        """Write down everything that was handed over, and end. Blocks, for which any thread will do
        if it is sealed; idempotent.

        Returns:
            Rows that are neither in the database nor in the journal: 0 unless the disk fails.
        """
        if self._thread.ident is None:  # it never started
            return 0
        self.seal()
        self._thread.join(timeout_s)
        if left := self._sent_count - self._safe_count:
            log.critical("ledger_rows_unwritten", rows=left, why=self.health.why)
        return left

    def _work(self) -> None:
        """The thread."""
        while not self._is_over:
            drafts, task = self._take()
            if drafts:
                self._write(drafts)
            if task is not None:
                task.run(self._store)
            elif len(drafts) >= BUSY_ROWS:
                self._gather()
            if not self._is_ok and time.monotonic() >= self._retry_at_s:
                self._tell_all(self._store.retry())
                self._safe_count = self._taken_count - self._store.held
                self._retry_at_s = time.monotonic() + self._retry_s
        self._tell_all(self._store.close())
        self._safe_count = self._taken_count - self._store.held

    @property
    def _is_ok(self) -> bool:
        return self.state == "ok"

    def _take(self) -> tuple[list[Draft], _Task | None]:
        """Wait for something, then take what there is: rows for one commit, and the task that came
        after them."""
        taken = self._taken
        timeout_s = None if self._is_ok else max(0.0, self._retry_at_s - time.monotonic())
        try:
            while len(taken) < BATCH_ROWS_MAX:
                item = self._queue.get(not taken, timeout_s)
                if not isinstance(item, list):
                    self._taken, self._is_over = [], item is None
                    return taken, item
                taken += item
        except Empty:
            pass
        self._taken = taken[BATCH_ROWS_MAX:]
        return taken[:BATCH_ROWS_MAX], None

    def _write(self, drafts: list[Draft]) -> None:
        was_ok = self._is_ok
        begun_s = time.perf_counter()
        entries, told = _made(drafts)
        try:
            told += self._store.write(entries)
        except Exception as error:  # whatever it is, others wait for this thread
            log.exception("ledger_write_failed", rows=len(entries))
            told += [(done, _problem(error)) for _, done in entries if done is not None]
        self._taken_count += len(drafts)
        self._safe_count = self._taken_count - self._store.held
        self._on_commit(len(entries), time.perf_counter() - begun_s)
        self._tell_all(told)
        if was_ok and not self._is_ok:
            self._retry_at_s = time.monotonic() + self._retry_s
        self._store.rest()

    def _gather(self) -> None:
        """Let more come, unless there is enough for a commit already, or nothing comes any more."""
        if self._sent_count - self._taken_count < BATCH_ROWS_MAX and not self._is_closing:
            self._sleep(GATHER_S)

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


def _made(drafts: list[Draft]) -> tuple[list[Entry], Told]:
    """The rows, and who is to be told that its row cannot be made: the others go on."""
    entries: list[Entry] = []
    told: Told = []
    for make, done in drafts:
        try:
            entries.append((make(), done))
        except Exception as error:  # a mistake of ours
            log.exception("ledger_row_refused")
            if done is not None:
                told.append((done, _problem(error)))
    return entries, told


def _problem(error: Exception) -> LedgerProblem:
    return LedgerProblem(f"this row could not be written: {error}")
