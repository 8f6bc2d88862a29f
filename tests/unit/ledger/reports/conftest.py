"""A ledger with a few thousand requests, and somebody who reads it."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.sql.database import WriterDatabase
from tests.unit.ledger.reports import seeded


@pytest.fixture
def database(path: Path) -> Iterator[WriterDatabase]:
    """Open, as a daemon has it."""
    database = seeded.write(path)
    yield database
    database.close()


@pytest.fixture
def reader(database: WriterDatabase, path: Path) -> Iterator[Reader]:
    with closing(Reader(path)) as reader:
        yield reader
