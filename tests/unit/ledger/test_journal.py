"""The journal: what was appended is read again, whatever happened to its end."""

import resource
from pathlib import Path

import pytest

from infer_daemon.ledger.journal import Journal, line_of
from infer_daemon.ledger.rows import Row
from tests.unit.ledger.sample import opening, settlement


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.journal"


def rows_of(path: Path, *, damaged: int = 0) -> list[Row]:
    journal = Journal(path, is_synced=False)
    rows = [row for chunk in journal.read(2) for row in chunk]
    assert journal.damaged == damaged
    return rows


def append(path: Path, *rows: Row, is_synced: bool = False) -> None:
    journal = Journal(path, is_synced=is_synced)
    journal.append([line_of(row) for row in rows])
    journal.close()


@pytest.mark.parametrize("is_synced", [False, True])
def test_rows_come_back_in_order(path: Path, is_synced: bool) -> None:
    metadata = '{"umlaut": "\u00fc",\n "line": "\u2028"}'
    rows = [opening("a"), settlement("a", metadata=metadata, truncated=True), opening("b")]
    append(path, *rows[:2], is_synced=is_synced)
    append(path, *rows[2:], is_synced=is_synced)

    assert rows_of(path) == rows


def test_there_is_no_file_when_there_is_nothing_in_it(path: Path) -> None:
    assert rows_of(path) == []
    append(path, opening("a"))

    Journal(path, is_synced=False).clear()

    assert not path.exists()


@pytest.mark.parametrize("cut", [1, 2, 9, 40])
def test_a_line_that_was_cut_off_is_recognised(path: Path, cut: int) -> None:
    append(path, opening("a"), opening("b"))
    path.write_bytes(path.read_bytes()[:-cut])

    assert rows_of(path) == [opening("a")] or (cut == 1 and len(rows_of(path)) == 2)

    append(path, opening("c"))
    assert [row.id for row in rows_of(path, damaged=int(cut > 1))][-1] == "c"


def test_a_damaged_line_in_the_middle_is_counted(path: Path) -> None:
    append(path, opening("a"), opening("b"), opening("c"))
    path.write_bytes(path.read_bytes().replace(b'"id":"b"', b'"id":"x"'))

    assert rows_of(path, damaged=1) == [opening("a"), opening("c")]


def test_what_a_full_disk_took_half_of_is_written_again(path: Path) -> None:
    path.symlink_to("/dev/full")
    journal = Journal(path, is_synced=False)

    with pytest.raises(OSError, match="No space left"):
        journal.append([line_of(opening("a"))])

    assert journal.waiting == 0
    assert path.is_symlink()  # it leads to a disk of somebody's choice


def test_what_a_full_disk_took_nothing_of_leaves_no_file(path: Path) -> None:
    journal = Journal(path, is_synced=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            journal.append([line_of(opening("a"))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert journal.waiting == 0
    assert not path.exists()
