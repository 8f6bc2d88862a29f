"""A database in a folder of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infer_daemon.ledger.sql.database import WriterDatabase, open_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def database(path: Path) -> Iterator[WriterDatabase]:
    """New, and empty."""
    database = open_database(path, "process")
    yield database
    database.close()
