"""Reading the ledger's file: beside the daemon, without one, and when it is none."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.sql.backup import backup
from infer_daemon.ledger.sql.database import WriterDatabase, open_database
from tests.unit.ledger.reports import seeded

COUNT = "SELECT count(*) AS n FROM requests"


def count(path: Path) -> int:
    with closing(Reader(path)) as reader:
        return int(reader.rows(COUNT)[0]["n"])


def test_it_is_read_beside_a_daemon_that_writes(database: WriterDatabase, path: Path) -> None:
    with database.transaction():
        database.connection.execute("DELETE FROM requests")
        assert count(path) == seeded.REQUESTS + 2


def test_and_when_no_daemon_runs(path: Path, tmp_path: Path) -> None:
    seeded.write(path).close()
    backup(path, tmp_path / "copy with ? and #.sqlite3")

    assert count(path) == seeded.REQUESTS + 2
    assert count(tmp_path / "copy with ? and #.sqlite3") == seeded.REQUESTS + 2


def test_nothing_can_be_written_by_it(reader: Reader) -> None:
    with pytest.raises(LedgerProblem, match="it cannot be written"):
        reader.rows("DELETE FROM requests")


def test_a_moment_does_not_move(database: WriterDatabase, reader: Reader) -> None:
    with reader.moment():
        before = reader.rows(COUNT)
        database.connection.execute("DELETE FROM requests WHERE outcome = 'ok'")
        assert reader.rows(COUNT) == before
    assert reader.rows(COUNT) != before


def test_no_ledger_at_all_is_told(path: Path) -> None:
    with pytest.raises(LedgerProblem, match="there is no ledger here"):
        Reader(path)
    assert not path.exists()


def test_what_is_no_ledger_is_told(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(LedgerProblem, match="this is no ledger"):
        Reader(path)
    path.write_bytes(b"precious" * 1000)
    with pytest.raises(LedgerProblem, match="no SQLite database"):
        Reader(path)


@pytest.mark.parametrize("has_meta", [True, False])
def test_a_ledger_of_a_newer_version_says_who_wrote_it(path: Path, has_meta: bool) -> None:
    open_database(path, "process").close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.execute("UPDATE meta SET value = '7.8.9'" if has_meta else "DROP TABLE meta")
        connection.commit()

    wrote = "7.8.9" if has_meta else "of an unknown version"
    with pytest.raises(LedgerProblem, match=f"schema version 99, written by infer-daemon {wrote}"):
        Reader(path)
