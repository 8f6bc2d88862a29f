"""Who waits for rows that are never written: this book has not been started."""

import asyncio
from pathlib import Path

import pytest
from structlog.types import EventDict

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.ledger.book import COMMIT_TIMEOUT_S, Book
from infer_daemon.ledger.pricing import Bill
from infer_daemon.settings.schema import LedgerSection

pytestmark = pytest.mark.looptime


def a_book(folder: Path) -> Book:
    loop = asyncio.get_running_loop()
    return Book(folder, LedgerSection(), loop=loop, on_commit=lambda *_: None)


def settle(book: Book, request_id: str) -> "asyncio.Future[None]":
    """A request comes and goes at once. Returns what its client waits for."""
    clock = asyncio.get_running_loop().time
    record = RequestRecord(
        id=request_id, endpoint=Endpoint.CHAT, accepted_s=clock(), clock=clock, outcome=Outcome.OK
    )
    book.open(record)
    safe = book.settle(record, Bill())
    assert safe is not None
    return safe


async def test_each_client_waits_its_own_time_and_no_longer(
    tmp_path: Path, log_lines: list[EventDict]
) -> None:
    book, loop = a_book(tmp_path), asyncio.get_running_loop()
    began_s = loop.time()
    first = settle(book, "first")
    await asyncio.sleep(4)
    second = settle(book, "second")
    await first
    assert loop.time() - began_s == pytest.approx(COMMIT_TIMEOUT_S)
    assert not second.done()
    await second

    assert loop.time() - began_s == pytest.approx(COMMIT_TIMEOUT_S + 4)
    late = [(line["event"], line["id"]) for line in log_lines if line["event"] == "ledger_late"]
    assert late == [("ledger_late", "first"), ("ledger_late", "second")]
    assert book.snapshot()["lag_s"] == pytest.approx(COMMIT_TIMEOUT_S + 4)


async def test_one_that_comes_when_all_others_have_given_up_is_waited_for_as_long(
    tmp_path: Path,
) -> None:
    book, loop = a_book(tmp_path), asyncio.get_running_loop()
    await settle(book, "first")
    await asyncio.sleep(100)
    began_s = loop.time()
    await settle(book, "second")

    assert loop.time() - began_s == pytest.approx(COMMIT_TIMEOUT_S)


async def test_who_went_away_while_it_waited_is_not_late(
    tmp_path: Path, log_lines: list[EventDict]
) -> None:
    book = a_book(tmp_path)
    settle(book, "gone").cancel()
    await settle(book, "there")

    late = [line["id"] for line in log_lines if line["event"] == "ledger_late"]
    assert late == ["there"]


async def test_a_request_that_was_never_opened_waits_for_nothing(tmp_path: Path) -> None:
    clock = asyncio.get_running_loop().time
    record = RequestRecord(id="x", endpoint=Endpoint.CHAT, accepted_s=0.0, clock=clock)

    assert a_book(tmp_path).settle(record, Bill()) is None
