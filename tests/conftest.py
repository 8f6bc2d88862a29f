"""What every test may use: settings from a few lines, a short state folder, the log as a list."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.types import EventDict

from infer_daemon.domain.jobs import Job, JobId
from infer_daemon.settings.load import parse
from infer_daemon.settings.schema import Settings
from infer_daemon.settings.state_folder import StateFolder
from infer_daemon.tenancy.registry import key_hash

KEYS = {"acme": "sk-acme", "globex": "sk-globex"}

MakeJob = Callable[..., Job]
MakeSettings = Callable[[str], Settings]


@pytest.fixture(scope="session", autouse=True)
def _no_stray_loop() -> None:
    """looptime asks for the current loop in synchronous tests too; where none was ever set, that
    would make one that nobody closes."""
    asyncio.set_event_loop(None)


@pytest.fixture
def root() -> Path:
    """The repository."""
    return Path(__file__).parent.parent


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path leaves room for Unix sockets; pytest's own are too deep."""
    path = Path(tempfile.mkdtemp(prefix="id"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def folder(short_dir: Path) -> StateFolder:
    """A state folder that nobody has used yet."""
    return StateFolder(short_dir / "s")


@pytest.fixture
def settings_of() -> MakeSettings:
    """Settings from TOML, with the tenants of `KEYS` added."""
    tenants = "".join(
        f'[tenants.{name}]\nkey_hashes = ["{key_hash(key)}"]\n' for name, key in KEYS.items()
    )
    return lambda text: parse(f"{text}\n{tenants}", source="test.toml", environ={})


@pytest.fixture
def log_lines() -> Iterator[list[EventDict]]:
    """Everything that is logged, as it is logged."""
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def job() -> MakeJob:
    """Make a job by its id; the rest has defaults."""

    def make(id: str, **fields: Any) -> Job:
        defaults: dict[str, Any] = {
            "tenant": "acme",
            "seqs": 1,
            "prompt_tokens": 1,
            "output_tokens_max": 1,
            "due_s": 0.0,
            "deadline_s": 100.0,
        }
        return Job(id=JobId(id), **(defaults | fields))

    return make
