"""Hours of devices, as they are written down."""

import asyncio
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from structlog.types import EventDict

from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.states import EngineState
from infer_daemon.ledger.book import Book
from infer_daemon.ledger.device_book import DeviceBook
from infer_daemon.ledger.devices import DOWN_DAYS_MAX, Device, DeviceHour, Line
from infer_daemon.ledger.periods import DAY_US, HOUR_US
from infer_daemon.ledger.pricing import HOUR_NS
from infer_daemon.ledger.reports.conservation import conservation
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.reports.verify import verify
from infer_daemon.ledger.sql.database import WriterDatabase
from infer_daemon.ledger.stopwatch import Stopwatch
from infer_daemon.settings.schema import LedgerSection
from tests.unit.ledger.sample import NOON_US, ask

A, B = EngineName("a"), EngineName("b")
GPU = Device("gpu-0", 2_000_000_000)


def row(engine: EngineName = A, device: Device = GPU, **lines: int) -> DeviceHour:
    """Of the hour that begins at noon."""
    one = DeviceHour(device, engine, NOON_US)
    for line, ns in lines.items():
        one.ns[Line(line)] = ns
    return one


def test_what_comes_to_an_hour_is_added_to_its_row(database: WriterDatabase, path: Path) -> None:
    assert database.devices_until_ns == {}
    database.add_device_hours([row(attributed=70, idle=30), row(B, down=5)], 100)
    database.add_device_hours([row(attributed=-20, waste=20, loading=9)], 109)

    columns = "engine, price_nano_usd_per_hour, attributed_ns, waste_ns, idle_ns, loading_ns"
    assert ask(path, f"SELECT {columns}, down_ns FROM device_hours ORDER BY engine") == [
        ("a", 2_000_000_000, 50, 20, 30, 9, 0),
        ("b", 2_000_000_000, 0, 0, 0, 0, 5),
    ]
    assert database.devices_until_ns == {"gpu-0": 109}


def test_an_hour_in_which_the_price_changed_has_the_mean(
    database: WriterDatabase, path: Path
) -> None:
    database.add_device_hours([row(idle=HOUR_NS // 4)], 1)
    database.add_device_hours([row(device=Device("gpu-0", 6_000_000_000), idle=HOUR_NS // 4)], 2)

    assert ask(path, "SELECT price_nano_usd_per_hour FROM device_hours") == [(4_000_000_000,)]


class Clock:
    """A monotonic clock that is set by hand; the hour that begins at noon is its beginning."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class Run:
    """A ledger and a stopwatch, for as long as one daemon lives."""

    def __init__(
        self, folder: Path, epoch_ns: int = NOON_US * 1000, devices: Sequence[Device] = (GPU,)
    ) -> None:
        self.clock = Clock()
        loop = asyncio.get_running_loop()
        self.book = Book(folder, LedgerSection(), loop=loop, on_commit=lambda *_: None)
        self.watch = Stopwatch({A: devices}, clock_ns=self.clock, epoch_ns=epoch_ns)
        self.devices = DeviceBook(self.watch, self.book)

    async def start(self) -> "Run":
        await self.book.start()
        await self.devices.start()
        return self

    async def close(self) -> None:
        await self.devices.close()
        await self.book.close()


def hours(folder: Path) -> list[tuple[int, ...]]:
    """(hours after noon, idle, down) of each row."""
    sql = "SELECT (hour_at_us - ?) / ?, idle_ns, down_ns FROM device_hours ORDER BY hour_at_us"
    return ask(folder / "ledger.sqlite3", sql, NOON_US, HOUR_US)


async def test_the_end_of_a_run_is_told_up_to_its_last_moment(tmp_path: Path) -> None:
    run = await Run(tmp_path).start()
    run.watch.change(A, EngineState.READY)
    run.clock.now_ns = HOUR_NS + 7
    await run.close()

    assert hours(tmp_path) == [(0, HOUR_NS, 0), (1, 7, 0)]


async def test_the_time_between_two_runs_is_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: NOON_US * 1000 + 2 * HOUR_NS)
    first = await Run(tmp_path).start()
    first.watch.change(A, EngineState.READY)
    first.clock.now_ns = 40
    await first.close()
    second = await Run(tmp_path, NOON_US * 1000 + HOUR_NS + 10).start()
    second.watch.change(A, EngineState.READY)
    second.clock.now_ns = 5
    await second.close()

    assert hours(tmp_path) == [(0, 40, HOUR_NS - 40), (1, 5, 10)]


async def test_a_run_that_could_not_start_leaves_the_time_before_it_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: NOON_US * 1000 + HOUR_NS)
    first = await Run(tmp_path).start()
    first.clock.now_ns = 40
    await first.close()
    failed = Run(tmp_path, NOON_US * 1000 + 50)
    await failed.book.start()  # and no more
    await failed.close()
    second = await Run(tmp_path, NOON_US * 1000 + 70).start()
    await second.close()

    assert hours(tmp_path) == [(0, 0, 70)]


async def test_a_clock_that_was_set_back_between_two_runs_explains_hours_with_too_much_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: NOON_US * 1000 + HOUR_NS)
    for begun_ns in (0, HOUR_NS // 2, HOUR_NS // 4):  # the second ends at half past one
        run = await Run(tmp_path, NOON_US * 1000 + begun_ns).start()
        run.clock.now_ns = HOUR_NS if begun_ns else HOUR_NS // 2
        await run.close()
    path = tmp_path / "ledger.sqlite3"

    assert [down_ns for _, _, down_ns in hours(tmp_path)] == [7 * HOUR_NS // 4, 3 * HOUR_NS // 4]
    with closing(Reader(path)) as reader:
        assert conservation(reader) == []
        assert "set back from 2024-10-04T13:30:00Z to 2024-10-04T12:15:00Z" in str(
            verify(reader, NOON_US)["notes"]
        )
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "UPDATE device_hours SET down_ns = down_ns + 1 WHERE hour_at_us = ?", [NOON_US]
        )
    with closing(Reader(path)) as reader:
        assert [row for row, _ in conservation(reader)] == ["device_hours gpu-0 2024-10-04T12:00Z"]


@pytest.mark.parametrize("days", [DOWN_DAYS_MAX, DOWN_DAYS_MAX + 1, 365])
async def test_who_comes_back_after_long_has_not_paid_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    first = await Run(tmp_path).start()
    first.clock.now_ns = HOUR_NS // 2
    await first.close()
    later_ns = NOON_US * 1000 + HOUR_NS // 2 + days * DAY_US * 1000
    monkeypatch.setattr("time.time_ns", lambda: later_ns)
    second = await Run(tmp_path, later_ns).start()
    second.watch.change(A, EngineState.READY)
    second.clock.now_ns = HOUR_NS
    await second.close()

    down_ns = sum(down_ns for _, _, down_ns in hours(tmp_path)) - HOUR_NS // 2
    assert down_ns == (days * DAY_US * 1000 if days <= DOWN_DAYS_MAX else 0)
    with closing(Reader(tmp_path / "ledger.sqlite3")) as reader:
        assert conservation(reader) == []


async def test_a_device_that_was_left_out_for_a_while_was_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Device("gpu-1", 2_000_000_000)
    monkeypatch.setattr("time.time_ns", lambda: NOON_US * 1000 + 9 * HOUR_NS)
    for number, devices in enumerate([(GPU, other), (GPU,), (GPU, other)]):
        begun_ns = NOON_US * 1000 + 3 * number * HOUR_NS + HOUR_NS // 2
        run = await Run(tmp_path, begun_ns, devices).start()
        run.watch.change(A, EngineState.READY)
        run.clock.now_ns = HOUR_NS
        await run.close()

    with closing(Reader(tmp_path / "ledger.sqlite3")) as reader:
        assert conservation(reader) == []
        found = reader.rows(
            "SELECT device, sum(idle_ns), sum(down_ns) FROM device_hours GROUP BY 1"
        )
    assert [tuple(row.values()) for row in found] == [
        ("gpu-0", 3 * HOUR_NS, 4 * HOUR_NS),
        ("gpu-1", 2 * HOUR_NS, 5 * HOUR_NS),
    ]


async def test_what_cannot_be_written_is_told_later(
    tmp_path: Path, log_lines: list[EventDict]
) -> None:
    run = await Run(tmp_path).start()
    run.watch.change(A, EngineState.READY)
    run.clock.now_ns = 40
    database = tmp_path / "ledger.sqlite3"
    blocker = WriterDatabase(database, "process")
    with blocker.transaction():
        await run.devices._tell()
    blocker.close()
    assert [line["event"] for line in log_lines if "devices" in line["event"]] == [
        "devices_not_told"
    ]
    run.clock.now_ns = 50
    await run.close()

    assert hours(tmp_path) == [(0, 50, 0)]
