"""Old rows are deleted off-peak: by a book that writes in its thread."""

import asyncio
import time
from pathlib import Path

from infer_daemon.ledger.batch import batch_of
from infer_daemon.ledger.book import Book
from infer_daemon.ledger.periods import DAY_US
from infer_daemon.settings.schema import LedgerSection
from tests.unit.ledger.sample import outcomes, settlement

AGE_DAYS = {"fresh": 0.5, "old": 1.5, "overdue": 2.5}
WAIT_S = 10.0


async def test_rows_are_deleted_when_it_is_quiet_and_when_they_are_a_day_overdue(
    path: Path,
) -> None:
    loop, now_us = asyncio.get_running_loop(), time.time_ns() // 1000
    book = Book(path.parent, LedgerSection(keep_days=1), loop=loop, on_commit=lambda *_: None)
    await book.start()
    rows = [
        settlement(name, accepted_at_us=now_us - round(days * DAY_US))
        for name, days in AGE_DAYS.items()
    ]
    await book.run(lambda database: database.write(batch_of(rows)))
    left: list[set[str]] = []
    is_done = asyncio.Event()

    def is_quiet() -> bool:
        left.append(set(outcomes(path)))
        if len(left) == 3:
            is_done.set()
        return len(left) > 1

    pruning = asyncio.create_task(book.prune(is_quiet))
    async with asyncio.timeout(WAIT_S):
        await is_done.wait()
    pruning.cancel()
    await asyncio.wait({pruning})
    await book.close()

    assert left == [{"fresh", "old", "overdue"}, {"fresh", "old"}, {"fresh"}]
