"""The book: every request that is admitted is a row, and its client has the end of its answer only
when that row is settled and safe.

The shell around the writer: it knows the event loop, which waits here for commits, and decides what
becomes of new requests while nothing can be written down.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import structlog

from infer_daemon.domain.errors import LedgerUnavailable
from infer_daemon.domain.record import RequestRecord
from infer_daemon.ledger.budgets import Spend
from infer_daemon.ledger.entries import opening_of, settlement_of
from infer_daemon.ledger.periods import DAY_US
from infer_daemon.ledger.pricing import Bill
from infer_daemon.ledger.problems import LedgerFull, LedgerProblem
from infer_daemon.ledger.sql.database import WriterDatabase
from infer_daemon.ledger.store import DATABASE, Health, Started
from infer_daemon.ledger.writer import Writer
from infer_daemon.settings.schema import LedgerSection

log = structlog.get_logger()

COMMIT_TIMEOUT_S = 10.0
"""A client waits no longer for its row to be safe than that."""
CLOSE_TIMEOUT_S = 10.0
PRUNE_PAUSE_S = 0.05
PRUNE_EVERY_S = 3600.0
QUIET_EVERY_S = 60.0
"""How often a busy daemon looks whether it is quiet now."""
RETRY_AFTER_S = 5.0

T = TypeVar("T")


class Book:
    """Used from one event loop. You *must* `close` what you `start`."""

    def __init__(
        self,
        folder: Path,
        section: LedgerSection,
        *,
        loop: asyncio.AbstractEventLoop,
        on_commit: Callable[[int, float], None],
    ) -> None:
        """
        Args:
            folder: the state folder, whose lock is held.
            on_commit: rows and seconds of each, told in the writer's thread.
        """
        self._path = folder / DATABASE
        self._section = section
        self._loop = loop
        self._open: set[str] = set()
        #: Of settled requests: since when their rows wait for the disk, and what their clients wait
        #: for; the oldest first.
        self._waiting: dict[str, tuple[float, asyncio.Future[None]]] = {}
        #: The same of those whose clients wait no more.
        self._late: dict[str, float] = {}
        #: One for all who wait: each of its own would cost more than all else that is done for it.
        self._patience: asyncio.TimerHandle | None = None
        self._writer = Writer(
            folder,
            durability=section.durability,
            tell=loop.call_soon_threadsafe,
            soon=loop.call_soon,
            on_commit=on_commit,
        )

    async def start(self) -> Started:
        """Open the ledger and take in what an earlier run left.

        Raises:
            LedgerProblem: it cannot be used; says why.
        """
        return await asyncio.to_thread(self._writer.start)

    async def close(self) -> None:
        """Write down everything that was handed over."""
        self._writer.seal()
        await asyncio.to_thread(self._writer.close, CLOSE_TIMEOUT_S)

    async def spent(self, now_us: int) -> list[Spend]:
        """What tenants have used of the periods that are now, as settled rows have it. For the time
        before the first request.

        Raises:
            LedgerProblem: it cannot be read.
        """
        reading = self._writer.run(lambda database: database.spent(now_us))
        return await asyncio.wrap_future(reading)

    @property
    def health(self) -> Health:
        """Whether rows reach the database."""
        return self._writer.health

    def snapshot(self) -> dict[str, object]:
        """For operators: its health, what is open, since when the oldest settled row waits for the
        disk, and how large the files are."""
        since_s = next(chain(self._late.values(), (s for s, _ in self._waiting.values())), None)
        return {
            **asdict(self.health),
            "open": len(self._open),
            "lag_s": 0.0 if since_s is None else round(self._loop.time() - since_s, 4),
            "bytes": _size(self._path),
            "log_bytes": _size(self._path.with_name(f"{DATABASE}-wal")),
        }

    def open(self, record: RequestRecord) -> None:
        """An admitted request begins. You *must* settle it.

        Raises:
            LedgerUnavailable: it could not be written down.
        """
        state = self._writer.state
        # Where even the journal fails, an answer would wait in vain to be written down.
        if state == "failing" or (state != "ok" and self._section.on_error == "refuse"):
            raise LedgerUnavailable(retry_after_s=RETRY_AFTER_S)
        age_us = round((record.clock() - record.accepted_s) * 1e6)
        record.accepted_at_us = time.time_ns() // 1000 - age_us
        try:
            self._writer.opened(opening_of(record))
        except LedgerFull as error:
            raise LedgerUnavailable(retry_after_s=RETRY_AFTER_S) from error
        self._open.add(record.id)

    def settle(self, record: RequestRecord, bill: Bill) -> "asyncio.Future[None] | None":
        """A request has ended, and came to that. What is returned is done when its row is safe:
        wait for it before the client has its end. It is not to be waited for for ever: it is done
        then, too, and the log says so. None for one that was never opened."""
        request_id = record.id
        if request_id not in self._open:
            return None
        self._open.remove(request_id)
        safe = self._loop.create_future()
        self._waiting[request_id] = self._loop.time(), safe
        if self._patience is None:
            self._patience = self._loop.call_later(COMMIT_TIMEOUT_S, self._give_up)
        self._writer.settled(settlement_of(record, bill), partial(self._is_safe, request_id))
        return safe

    def _is_safe(self, request_id: str, problem: LedgerProblem | None) -> None:
        """Or nothing will make it so."""
        waiting = self._waiting.pop(request_id, None)
        if problem is not None:
            log.error("ledger_refused", id=request_id, why=str(problem))
        if waiting is None:
            del self._late[request_id]
        elif not waiting[1].done():  # else its task was cancelled
            waiting[1].set_result(None)

    def _give_up(self) -> None:
        """Who has waited long enough waits no more."""
        self._patience = None
        now_s = self._loop.time()
        while self._waiting:
            request_id, (since_s, safe) = next(iter(self._waiting.items()))
            left_s = since_s + COMMIT_TIMEOUT_S - now_s
            if left_s > 0:
                self._patience = self._loop.call_later(left_s, self._give_up)
                return
            del self._waiting[request_id]
            self._late[request_id] = since_s
            if not safe.done():  # else its task was cancelled
                why = self.health.why
                log.error("ledger_late", id=request_id, why=why, timeout_s=COMMIT_TIMEOUT_S)
                safe.set_result(None)

    async def run(self, work: Callable[[WriterDatabase], T]) -> T:
        """Do something else with the database, in the writer's thread and after everything that was
        handed over so far. Rows wait meanwhile: you *must* take a few milliseconds at most.

        Raises:
            LedgerProblem: the database is out of use, or failed; nothing was done.
        """
        return await asyncio.wrap_future(self._writer.run(work))

    async def prune(self, is_quiet: Callable[[], bool]) -> None:
        """Delete what is older than it is to be kept, a little at a time, for ever: while it is
        quiet, and what is a day overdue at any time.

        Args: is_quiet: whether few would notice.
        """
        keep_us = self._section.keep_days * DAY_US
        while True:
            quiet = is_quiet()
            older_than_us = time.time_ns() // 1000 - keep_us - (0 if quiet else DAY_US)
            pruned = 0
            try:
                pruned = await asyncio.wrap_future(self._writer.prune(older_than_us))
            except LedgerProblem as error:
                log.warning("ledger_not_pruned", why=str(error))
            pause_s = PRUNE_EVERY_S if quiet else QUIET_EVERY_S
            await asyncio.sleep(PRUNE_PAUSE_S if pruned else pause_s)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it was moved away
        return 0
