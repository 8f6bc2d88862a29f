"""The desk beside the event loop: what nobody waits for any more ends, wherever it is."""

import asyncio
import threading
from pathlib import Path

import pytest

from infer_daemon.domain.errors import LedgerUnavailable
from infer_daemon.ledger.reports.desk import Desk
from infer_daemon.ledger.reports.reader import Reader, Row
from infer_daemon.ledger.sql.database import WriterDatabase

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
WAIT_S = 10.0


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_question_that_takes_too_long_ends_in_its_thread_too(
    database: WriterDatabase, path: Path, has_begun: bool
) -> None:
    may_begin, has_ended = threading.Event(), threading.Event()
    if has_begun:
        may_begin.set()

    def work(reader: Reader) -> list[Row]:
        try:
            may_begin.wait(WAIT_S)
            return reader.rows(ENDLESS)
        finally:
            has_ended.set()

    with pytest.raises(LedgerUnavailable, match="takes longer than"):
        await Desk(path)._read(work, asyncio.Lock(), 0.05)
    may_begin.set()

    assert await asyncio.to_thread(has_ended.wait, WAIT_S)


async def test_who_waits_for_others_too_long_is_told_so(
    database: WriterDatabase, path: Path
) -> None:
    desk, turn, may_end = Desk(path), asyncio.Lock(), threading.Event()
    first = asyncio.create_task(desk._read(lambda _: may_end.wait(WAIT_S), turn, WAIT_S))
    await asyncio.sleep(0)  # it has the turn

    with pytest.raises(LedgerUnavailable, match="others' questions") as refused:
        await desk._read(lambda _: True, turn, 0.05)
    may_end.set()

    assert refused.value.retry_after_s is not None
    assert await first
    assert await desk._read(lambda _: True, turn, WAIT_S)
