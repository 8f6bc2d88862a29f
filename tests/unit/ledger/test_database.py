"""The database by itself: what it takes, and what it is made of."""

import sqlite3
import time
from pathlib import Path

import pytest

from infer_daemon import __version__
from infer_daemon.ledger.batch import batch_of
from infer_daemon.ledger.budgets import Spend
from infer_daemon.ledger.periods import DAY_US, HOUR_US, Period
from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.rows import OPENING_COLUMNS, SETTLEMENT_COLUMNS, Row
from infer_daemon.ledger.sql.database import WriterDatabase, open_database
from infer_daemon.ledger.sql.schema import MIGRATIONS, VERSION
from infer_daemon.ledger.sql.views import VIEWS
from tests.unit.ledger.sample import NOON_US, ask, assert_sums, opening, outcomes, settlement


def write(database: WriterDatabase, *rows: Row) -> set[str]:
    return database.write(batch_of(rows))


def salt(path: Path) -> bytes:
    """What the log's header has, which is another each time that it begins anew."""
    return path.with_name(path.name + "-wal").read_bytes()[16:24]


def test_an_opening_is_completed_by_its_settlement(database: WriterDatabase, path: Path) -> None:
    write(database, opening("a"))
    assert outcomes(path) == {"a": "open"}

    assert write(database, settlement("a", code="", recipe_hash="f00d")) == set()

    columns = "outcome, engine, recipe_hash, prompt_tokens, reserved_tokens, settled_us"
    assert ask(path, f"SELECT {columns} FROM requests") == [("ok", "a", "f00d", 7, 100, 9000)]
    assert_sums(path)


def test_a_settlement_whose_opening_was_lost_is_whole(database: WriterDatabase, path: Path) -> None:
    write(database, settlement("a"))

    assert outcomes(path) == {"a": "ok"}
    assert_sums(path)


def test_a_second_settlement_changes_nothing(database: WriterDatabase, path: Path) -> None:
    write(database, settlement("a"))

    again = settlement("a", outcome="cancelled", prompt_tokens=1000)
    assert write(database, again, settlement("b"), opening("a")) == {"a"}

    assert outcomes(path) == {"a": "ok", "b": "ok"}
    assert_sums(path)


def test_any_number_of_rows_goes_into_one_transaction(database: WriterDatabase, path: Path) -> None:
    for size in (1, 3, 4, 21, 63, 64, 149):
        ids = [f"{size}-{number}" for number in range(size)]
        write(database, *map(opening, ids))
        write(database, *map(settlement, ids))

    assert set(outcomes(path).values()) == {"ok"}
    assert ask(path, "SELECT count(*) FROM requests") == [(305,)]
    assert_sums(path)


def test_a_batch_that_fails_leaves_nothing_and_can_be_repeated(
    database: WriterDatabase, path: Path
) -> None:
    rows = [settlement("a", tenant="new"), settlement("b", prompt_tokens="many")]
    with pytest.raises((sqlite3.IntegrityError, TypeError)):
        write(database, *rows)
    assert outcomes(path) == {}

    write(database, rows[0])

    assert outcomes(path) == {"a": "ok"}
    assert_sums(path)


def test_rows_hold_every_column_of_the_table(database: WriterDatabase, path: Path) -> None:
    columns = {name for (name,) in ask(path, "SELECT name FROM pragma_table_info('requests')")}

    assert set(SETTLEMENT_COLUMNS) == columns
    assert set(OPENING_COLUMNS) < columns


def test_what_is_still_open_is_settled_as_lost(database: WriterDatabase, path: Path) -> None:
    write(database, opening("a"), opening("b", tenant="globex"), settlement("c"))

    assert database.settle_lost() == 2
    assert database.settle_lost() == 0

    assert outcomes(path) == {"a": "lost", "b": "lost", "c": "ok"}
    held = "SELECT sum(reserved_tokens), sum(reserved_nano_usd) FROM requests WHERE outcome = ?"
    assert ask(path, held, "lost") == [(0, 0)]
    assert ask(path, "SELECT tenant, requests, errors FROM hours ORDER BY tenant") == [
        ("acme", 2, 1),
        ("globex", 1, 1),
    ]
    assert_sums(path)


def test_old_requests_are_pruned_and_their_hours_stay(database: WriterDatabase, path: Path) -> None:
    old = [settlement(f"old-{number}", accepted_at_us=NOON_US - HOUR_US) for number in range(5)]
    write(database, *old, settlement("new"), opening("open", accepted_at_us=NOON_US - HOUR_US))
    before = ask(path, "SELECT * FROM hours")
    with database.transaction():
        database.connection.execute("INSERT INTO feedback VALUES ('old-1', 'acme', 1, 1, '', 0)")

    assert [database.prune(NOON_US, 3) for _ in range(3)] == [3, 2, 0]

    assert outcomes(path) == {"new": "ok", "open": "open"}
    assert ask(path, "SELECT * FROM hours") == before
    assert ask(path, "SELECT count(*) FROM feedback") == [(0,)]


def test_the_file_shrinks_when_requests_are_pruned(database: WriterDatabase, path: Path) -> None:
    for number in range(20):
        texts = {"metadata": "x" * 500}
        write(database, *(settlement(f"{number}-{one}", **texts) for one in range(100)))
    ((before,),) = ask(path, "PRAGMA page_count")

    while database.prune(NOON_US + 1, 500):
        pass

    ((after,),) = ask(path, "PRAGMA page_count")
    assert after < before / 3


def test_the_log_beside_the_database_does_not_grow_without_bound(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infer_daemon.ledger.sql.checkpoint.ROWS", 500)
    monkeypatch.setattr("infer_daemon.ledger.sql.checkpoint.LOG_PAGES_MAX", 100)
    database = open_database(path, "process")
    write(database, settlement("first"))
    first = salt(path)
    for number in range(100):
        write(database, *(settlement(f"{number}-{one}") for one in range(100)))
        database.checkpoint()
        if salt(path) != first:
            break
    else:
        pytest.fail("ten thousand rows, and the log has never begun anew")
    database.close()


def test_a_long_log_that_was_not_wholly_copied_is_finished_by_the_writer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infer_daemon.ledger.sql.checkpoint.ROWS", 100)
    monkeypatch.setattr("infer_daemon.ledger.sql.checkpoint.LOG_PAGES_MAX", 0)
    database = open_database(path, "process")
    write(database, *(settlement(f"{one}") for one in range(100)))
    for _ in range(2000):
        if database._checkpointer.is_rest_due:
            break
        time.sleep(0.005)
    else:
        pytest.fail("ten seconds, and the log has never been copied")
    write(database, settlement("a"))
    write(database, settlement("b"))
    before = salt(path)

    database.checkpoint()
    write(database, settlement("c"))

    assert salt(path) != before
    database.close()


def test_everything_is_strict_and_nothing_is_a_blob(database: WriterDatabase, path: Path) -> None:
    tables = ask(path, "SELECT name, strict FROM pragma_table_list WHERE type = 'table'")
    ours = {name: strict for name, strict in tables if not name.startswith(("sqlite_", "_"))}
    assert set(ours.values()) == {1}
    assert {"requests", "feedback", "device_hours", "hours", "spend"} < set(ours)
    for table in ours:
        assert ask(path, "SELECT * FROM pragma_table_info(?) WHERE type = 'BLOB'", table) == []


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_can_be_read(database: WriterDatabase, path: Path, view: str) -> None:
    write(database, settlement("a", granted_us=20, rendered_us=10, waste_disconnect_tokens=3))

    assert ask(path, f"SELECT * FROM {view}")


def test_a_database_is_opened_again_as_it_was(path: Path) -> None:
    for name in ("a", "b"):
        database = open_database(path, "power")
        write(database, settlement(name))
        database.close()

    assert outcomes(path) == {"a": "ok", "b": "ok"}
    assert ask(path, "SELECT value FROM meta WHERE key = 'daemon_version'") == [(__version__,)]
    assert ask(path, "PRAGMA journal_mode") == [("wal",)]
    assert ask(path, "PRAGMA auto_vacuum") == [(2,)]


def test_the_version_is_the_number_of_migrations(database: WriterDatabase, path: Path) -> None:
    assert ask(path, "PRAGMA user_version") == [(VERSION,)] == [(len(MIGRATIONS._migrations),)]


def test_a_newer_database_is_refused_with_the_name_of_its_writer(path: Path) -> None:
    open_database(path, "process").close()
    with sqlite3.connect(path) as other:
        other.execute(f"PRAGMA user_version = {VERSION + 1}")
        other.execute("UPDATE meta SET value = '9.8.7' WHERE key = 'daemon_version'")
    other.close()

    with pytest.raises(LedgerProblem, match=rf"version {VERSION + 1}.* 9\.8\.7.* {__version__}"):
        open_database(path, "process")


def test_what_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"garbage" * 1000)

    with pytest.raises(LedgerProblem, match=r"ledger\.sqlite3: this is no SQLite database; move"):
        open_database(path, "process")
    assert path.read_bytes().startswith(b"garbage")


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerProblem, match="neither opened nor created"):
        open_database(tmp_path / "nowhere" / "ledger.sqlite3", "process")


def test_a_database_that_somebody_else_writes_is_refused(path: Path) -> None:
    open_database(path, "process").close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    with pytest.raises(LedgerProblem, match="another program holds a lock"):
        open_database(path, "process")
    other.close()


def test_what_was_spent_in_the_periods_that_are_now_is_found_again(
    database: WriterDatabase,
) -> None:
    day_us, month_us = NOON_US - 12 * HOUR_US, NOON_US - 12 * HOUR_US - 3 * DAY_US
    days_us = (day_us - DAY_US, day_us, day_us, day_us + DAY_US, day_us + 900 * DAY_US)
    for number, start_us in enumerate(days_us):
        row = settlement(f"r{number}", day_start_us=start_us, month_start_us=month_us)
        write(database, row)

    today = Spend("acme", Period.DAY, day_us, 24, 24)
    month = Spend("acme", Period.MONTH, month_us, 60, 60)
    assert sorted(database.spent(NOON_US), key=str) == [today, month]
    # A clock that was set back a little.
    tomorrow = Spend("acme", Period.DAY, day_us + DAY_US, 12, 12)
    assert tomorrow in database.spent(day_us + DAY_US - 1)
