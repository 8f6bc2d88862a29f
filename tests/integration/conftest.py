"""Daemons for one test each. When the test is over, every request it made must have settled, once,
with one line in the log, unless it was one of a spate of refusals."""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack

import pytest
from structlog.types import EventDict

from infer_daemon.settings.state_folder import StateFolder
from tests.conftest import MakeSettings
from tests.integration.running import SIM, Running

Serve = Callable[..., Awaitable[Running]]


@pytest.fixture
async def serve(
    settings_of: MakeSettings, folder: StateFolder, log_lines: list[EventDict]
) -> AsyncGenerator[Serve, None]:
    """Start the one daemon of a test, on a configuration of its own if it gives one."""
    started: list[Running] = []
    with ExitStack() as lock:

        async def start(text: str = SIM, *, ready: bool = True) -> Running:
            lock.enter_context(folder.locked())
            running = Running(settings_of(text), folder)
            await running.open(ready=ready)
            started.append(running)
            return running

        yield start
        for running in started:
            await running.close()
            lines = Counter(line["id"] for line in log_lines if line["event"] == "request")
            assert set(lines.values()) <= {1}
            recorder = running.daemon.recorder
            assert len(lines) + recorder.untold_count == recorder.settled_count


@pytest.fixture
async def running(serve: Serve) -> Running:
    """A daemon with two ready engines, a model each."""
    return await serve()
