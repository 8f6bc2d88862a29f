"""Writes down what each device's time went into, every few seconds, for as long as the daemon runs.

A daemon that is killed leaves at most that much untold; the next one books it as down, like all of
the time until its own start.
"""

import asyncio
import time

import structlog

from infer_daemon.ledger.book import Book
from infer_daemon.ledger.devices import DOWN_DAYS_MAX
from infer_daemon.ledger.periods import DAY_US
from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.stopwatch import Stopwatch

log = structlog.get_logger()

TELL_EVERY_S = 15.0
"""A transaction of a few rows; of an hour, that is 0.4 %."""


class DeviceBook:
    """You *must* `close` what you `start`, before the book that it writes to."""

    def __init__(self, stopwatch: Stopwatch, book: Book) -> None:
        self._stopwatch = stopwatch
        self._book = book
        self._telling: asyncio.Task[None] | None = None
        self._has_started = False

    async def start(self) -> None:
        """Go on where an earlier run has left each device, unless that is so long ago that it is a
        new beginning.

        Raises:
            LedgerProblem: the ledger cannot be read.
        """
        found = await self._book.run(lambda db: db.devices_until_ns)
        earliest_ns = time.time_ns() - DOWN_DAYS_MAX * DAY_US * 1000
        twice = self._stopwatch.resume({n: ns for n, ns in found.items() if ns >= earliest_ns})
        if twice:
            log.warning("clock_was_set_back", devices=sorted(twice))
            await self._book.run(lambda db: db.note_twice(twice))
        self._has_started = True
        await self._tell()

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(min(TELL_EVERY_S, self._stopwatch.hour_left_s))
            # Whoever cancels this does not cancel a transaction: `close` waits for it.
            self._telling = asyncio.create_task(self._tell(), name="tell-devices")
            await asyncio.shield(self._telling)

    async def close(self) -> None:
        """Tell the rest, up to now. Nothing if it could not start: it does not know where the run
        before it ended, and the next one is to find that."""
        if not self._has_started:
            return
        if self._telling is not None:
            await asyncio.wait({self._telling})
        await self._tell()

    async def _tell(self) -> None:
        rows, until_ns = self._stopwatch.take()
        try:
            await self._book.run(lambda db: db.add_device_hours(rows, until_ns))
        except LedgerProblem as error:
            self._stopwatch.give_back(rows)
            log.warning("devices_not_told", why=str(error), rows=len(rows))
