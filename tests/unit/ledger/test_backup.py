"""A backup is the ledger at one moment, whatever is written meanwhile."""

from functools import partial
from pathlib import Path

import pytest

from infer_daemon.ledger.batch import batch_of
from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.sql import backup as backups
from infer_daemon.ledger.sql.backup import backup
from infer_daemon.ledger.sql.database import WriterDatabase
from infer_daemon.ledger.writer import Writer
from tests.unit.ledger.sample import assert_sums, opening, outcomes, settlement


@pytest.fixture
def database(database: WriterDatabase) -> WriterDatabase:
    """One request has settled and one is open."""
    database.write(batch_of([settlement("a"), opening("b")]))
    return database


def test_a_backup_is_a_ledger(database: WriterDatabase, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.sqlite3"

    backup(path, copy)

    assert outcomes(copy) == {"a": "ok", "b": "open"}
    assert_sums(copy)
    assert sorted(file.name for file in tmp_path.glob("copy*")) == ["copy.sqlite3"]


def test_a_backup_ends_though_rows_keep_coming(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backups, "STEP_PAGES", 1)
    writer = Writer(tmp_path, tell=lambda run: run())
    writer.start()
    going = True

    def send(number: int) -> None:
        if going:
            row = partial(settlement, f"{number}", metadata="x" * 200)
            writer.settled(row, lambda problem: send(number + 1))

    writer.settled(partial(settlement, "first"), lambda problem: None)
    writer.run(lambda _: None).result()
    send(0)
    backup(path, tmp_path / "copy.sqlite3")
    going = False
    writer.close(20.0)

    copied, found = outcomes(tmp_path / "copy.sqlite3"), outcomes(path)
    assert "first" in copied
    assert len(copied) < len(found)
    assert_sums(tmp_path / "copy.sqlite3")


def test_a_backup_overwrites_nothing(database: WriterDatabase, path: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("precious")

    with pytest.raises(LedgerProblem, match="overwrites nothing"):
        backup(path, tmp_path / "copy")

    assert (tmp_path / "copy").read_text() == "precious"


def test_a_backup_of_nothing_or_to_nowhere_is_told(database: WriterDatabase, path: Path) -> None:
    with pytest.raises(LedgerProblem, match="no ledger here"):
        backup(path.with_name("other"), path.with_name("copy"))
    nowhere = path.parent / "nowhere" / "copy"
    with pytest.raises(LedgerProblem, match=f"no backup was made: {nowhere}.* neither opened"):
        backup(path, nowhere)
