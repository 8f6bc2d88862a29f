"""A daemon in the test's own process, and ways to talk to it."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from infer_daemon.daemon import Daemon
from infer_daemon.settings import schema
from infer_daemon.settings.load import parse
from infer_daemon.settings.state_folder import StateFolder

ROOT = Path(__file__).parents[2]
KEY = "sk-demo-acme"
START_TIMEOUT_S = 400
CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "What does a 429 mean, and what is to be done about it?"}]


@dataclass
class Running:
    """A daemon that serves, and ways to talk to it."""

    daemon: Daemon
    socket: Path
    task: asyncio.Task[None]

    @property
    def url(self) -> str:
        return self.daemon.doors.url

    def http(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=300
        )

    def engine(self, name: str) -> dict[str, object]:
        engines = self.daemon.view.state()["engines"]
        return next(engine for engine in engines if engine["name"] == name)  # type: ignore[union-attr,attr-defined]


async def serve(text: str, engines: int) -> AsyncIterator[Running]:
    """Run a daemon on this configuration until its engines have settled, and end it afterwards."""
    state_dir = Path(tempfile.mkdtemp(prefix="idt"))
    settings = schema.replace_listen(parse(text, source="test"), host=None, port=0)
    settings = schema.replace_state_dir(settings, str(state_dir))
    folder = StateFolder.of(settings)
    with folder.locked():
        daemon = Daemon(settings, folder)
        task = asyncio.create_task(daemon.run())
        async with asyncio.timeout(START_TIMEOUT_S):
            await daemon.fleet.settled()
        socket = folder.api_socket(settings)
        assert socket is not None
        assert len(daemon.fleet.supervisors) == engines
        yield Running(daemon, socket, task)
        daemon.stop()
        await task
    shutil.rmtree(state_dir)


async def left(http: httpx.AsyncClient, after_events: int, **fields: Any) -> str:
    """A stream that its client leaves after so many events. Returns its id.

    Its lines are closed here and not by the garbage collector, which would end them in whatever
    thread it happens to run. (So does a stream of the `openai` package that is left midway.)
    """
    body = {"model": "demo", "messages": ASK, "stream": True, "ignore_eos": True}
    async with (
        http.stream("POST", CHAT, json={**body, "max_tokens": 500, **fields}) as answer,
        aclosing(answer.aiter_lines()) as lines,  # type: ignore[type-var]
    ):
        assert answer.status_code == 200
        for _ in range(after_events):
            while not await anext(lines):
                pass
    return str(answer.headers["x-request-id"])
