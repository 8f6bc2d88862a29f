"""What `verify` finds: nothing in a ledger that is true, and each thing that must not be."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from infer_daemon.ledger.periods import DAY_US, HOUR_US, SECOND_US
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.reports.verify import verify
from infer_daemon.ledger.sql.database import WriterDatabase
from tests.unit.ledger.reports import seeded
from tests.unit.ledger.reports.seeded import FIRST_US, NOW_US

SOME = next(row for row in seeded.requests() if row.outcome == "ok")
SOME_ID = SOME.id
S = 10**9


def check(path: Path) -> dict[str, Any]:
    with closing(Reader(path)) as reader:
        return verify(reader, NOW_US)


def breaches(path: Path) -> list[tuple[str, str]]:
    """Which checks found something, and its row."""
    found = check(path)
    assert found["ok"] == (not found["breaches"])
    return [(one["check"], one["row"]) for one in found["breaches"]]


def change(database: WriterDatabase, sql: str, *values: object) -> None:
    database.connection.execute("PRAGMA foreign_keys = OFF")
    database.connection.execute(sql, values)


def add_hours(database: WriterDatabase, *hours: tuple[int, int, int]) -> None:
    """Of one device with two engines: (hour, seconds of one, of the other)."""
    sql = "INSERT INTO device_hours (device, hour_at_us, engine, idle_ns) VALUES ('gpu', ?, ?, ?)"
    for hour, one_s, other_s in hours:
        for engine, seconds in (("a", one_s), ("b", other_s)):
            change(database, sql, FIRST_US + hour * HOUR_US, engine, seconds * S)


def test_a_ledger_that_the_store_wrote_is_true(database: WriterDatabase, path: Path) -> None:
    found = check(path)

    assert (found["ok"], found["breaches"]) == (True, [])
    assert {one["breaches"] for one in found["checks"]} == {0}
    assert (found["requests"], found["open"], found["lost"]) == (seeded.REQUESTS + 2, 1, 1)
    assert "1 requests are open" in found["notes"][0]


@pytest.mark.parametrize("into_hour_us", [0, 20 * 60 * SECOND_US])
def test_so_is_one_that_was_pruned(database: WriterDatabase, path: Path, into_hour_us: int) -> None:
    while database.prune(FIRST_US + 50 * HOUR_US + into_hour_us, 500):
        pass

    assert breaches(path) == []


def test_so_is_one_that_keeps_a_day_and_was_pruned_inside_an_hour(
    database: WriterDatabase, path: Path
) -> None:
    now_us = NOW_US - 40 * 60 * SECOND_US
    while database.prune(now_us - DAY_US, 500):
        pass

    with closing(Reader(path)) as reader:
        assert verify(reader, now_us)["breaches"] == []


@pytest.mark.parametrize(
    ("sql", "checks"),
    [
        # Settled twice: its hour has it two times.
        (f"UPDATE hours SET requests = requests + 1 WHERE hour_at_us > {NOW_US - 2 * HOUR_US}",
         {"hours"}),
        ("UPDATE hours SET price_nano_usd = 2 * price_nano_usd WHERE tenant = 'acme'",
         {"hours", "spend"}),
        (f"DELETE FROM requests WHERE id = '{SOME_ID}'", {"hours"}),
        (f"UPDATE requests SET prompt_tokens = 1 + prompt_tokens WHERE id = '{SOME_ID}'",
         {"hours"}),
        (f"UPDATE requests SET price_output_nano_usd = 0 WHERE id = '{SOME_ID}'", {"hours"}),
        ("UPDATE spend SET nano_usd = nano_usd + 1 WHERE period = 'day'", {"spend"}),
        ("UPDATE spend SET tokens = tokens + 1000000 WHERE period = 'month'", {"spend"}),
        ("UPDATE spend SET tokens = -1 WHERE period = 'day'", {"spend"}),
        ("DELETE FROM spend WHERE period = 'month'", {"spend"}),
        ("DELETE FROM spend WHERE tenant = 'acme'", {"spend"}),
        (f"UPDATE requests SET tenant = 'nobody' WHERE id = '{SOME_ID}'",
         {"foreign keys", "hours"}),
        ("INSERT INTO feedback (request_id, tenant, accepted, at_us) VALUES ('x', 'acme', 0, 1)",
         {"foreign keys"}),
        (f"UPDATE requests SET outcome = 'fine' WHERE id = '{SOME_ID}'", {"requests", "hours"}),
        (f"UPDATE requests SET settled_us = NULL WHERE id = '{SOME_ID}'", {"requests"}),
        (f"UPDATE requests SET price_cached_nano_usd = 9 WHERE id = '{seeded.OPEN_ID}'",
         {"requests"}),
        ("UPDATE requests SET outcome = 'engine_error' WHERE id = "
         "(SELECT id FROM settled WHERE price_nano_usd > 0 LIMIT 1)", {"requests", "hours"}),
        (f"UPDATE requests SET reserved_tokens = 9 WHERE id = '{seeded.LOST_ID}'", {"requests"}),
        (f"UPDATE requests SET reasoning_tokens = -1 WHERE id = '{SOME_ID}'", {"requests"}),
    ],
)  # fmt: skip
def test_what_must_not_be_is_found_by_its_row(
    database: WriterDatabase, path: Path, sql: str, checks: set[str]
) -> None:
    change(database, sql)

    found = breaches(path)

    assert {check for check, _ in found} == checks
    if "requests" in checks:
        assert any(row.startswith("request ") for _, row in found)


def test_an_opinion_of_another_tenant_is_found(database: WriterDatabase, path: Path) -> None:
    row = seeded.requests()[5]
    other = "globex" if row.tenant == "acme" else "acme"
    sql = "INSERT INTO feedback (request_id, tenant, accepted, at_us) VALUES (?, ?, 0, 1)"
    change(database, sql, row.id, other)

    assert breaches(path) == [("feedback", f"feedback {row.id}")]


def test_devices_whose_every_second_is_told_are_true(database: WriterDatabase, path: Path) -> None:
    add_hours(database, (0, 20, 30), (1, 3600, 0), (2, 1800, 1765), (3, 0, 1))

    assert breaches(path) == []


@pytest.mark.parametrize(
    ("hours", "row"),
    [
        ([(0, 3000, 601)], "00:00Z"),
        ([(0, 1, 1), (1, 1800, 1763), (2, 1, 1)], "01:00Z"),
        ([(0, 1, 1), (3, 1, 1)], "03:00Z"),
        ([(0, -1, 3)], "00:00Z a"),
    ],
)
def test_seconds_too_many_too_few_or_missing_are_found(
    database: WriterDatabase, path: Path, hours: list[tuple[int, int, int]], row: str
) -> None:
    add_hours(database, *hours)

    assert breaches(path) == [("devices", f"device_hours gpu 2024-10-04T{row}")]


def test_a_damaged_file_is_a_breach(database: WriterDatabase, path: Path) -> None:
    database.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages = bytearray(path.read_bytes())
    for at in range(40 * 4096, len(pages), 3 * 4096):
        pages[at : at + 64] = b"\xff" * 64
    path.write_bytes(pages)

    found = check(path)

    assert not found["ok"]
    assert {one["check"] for one in found["breaches"]} == {"integrity"}


def test_rows_that_wait_beside_the_database_are_told_and_no_breach(
    database: WriterDatabase, path: Path
) -> None:
    path.with_name("ledger.journal").write_text("{}\n")
    path.with_name("ledger.journal.damaged").write_text("x\n")

    found = check(path)

    assert found["ok"]
    assert "they are not in the database yet" in found["notes"][1]
    assert "could not be read" in found["notes"][2]


def test_what_a_daemon_writes_meanwhile_is_no_breach(database: WriterDatabase, path: Path) -> None:
    with closing(Reader(path)) as reader, reader.moment():
        assert reader.rows("SELECT count(*) FROM hours")
        change(database, "DELETE FROM hours")
        assert not check(path)["ok"]
        total = reader.rows("SELECT sum(requests) AS n FROM hours")[0]["n"]
    assert total == seeded.REQUESTS + 1
