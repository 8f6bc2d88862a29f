"""What is wrong with a file of the ledger, for whoever is woken by it."""

import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from infer_daemon.ledger.problems import explain


def failed(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize("name", ["SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_CANTOPEN"])
def test_a_disk_with_no_room_is_called_full_whatever_fails_on_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("/state/ledger.sqlite3")

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
    assert explain(failed(name), path) == f"{path}: the disk is full (disk I/O error)"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    assert "full" not in explain(failed(name), path)


def test_a_folder_that_is_not_there_is_not_full(tmp_path: Path) -> None:
    told = explain(failed("SQLITE_CANTOPEN"), tmp_path / "nowhere" / "ledger.sqlite3")

    assert "it can be neither opened nor created" in told
