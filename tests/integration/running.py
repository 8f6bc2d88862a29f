"""A daemon in the test's own process and loop, on real sockets, and ways to talk to it."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2
import openai

from infer_daemon.daemon import Daemon
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.live import Source
from infer_daemon.scheduling.scheduler import Scheduler
from infer_daemon.settings.schema import Settings
from infer_daemon.settings.state_folder import StateFolder
from tests.conftest import KEYS

KEY = KEYS["acme"]
AUTH = {"Authorization": f"Bearer {KEY}"}

SIM = """
[listen]
port = 0
body_bytes_max = 65536
[engines.a]
kind = "sim"
model = "echo"
max_num_seqs = 4
sim.step_ms = 1
[engines.b]
kind = "sim"
model = "echo"
sim.step_ms = 1
[models.echo]
engines = ["a"]
[models.other]
engines = ["b"]
"""
ENDLESS = {"model": "echo", "prompt": "a", "max_tokens": 8000, "ignore_eos": True}


async def until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> None:
    """Wait for something of which there is no event, because it comes over a socket."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


class Running:
    """A daemon whose doors are open, and clients of it."""

    def __init__(
        self,
        settings: Settings,
        folder: StateFolder,
        source: Source | None = None,
    ) -> None:
        self.daemon = Daemon(settings, folder, source)
        self.folder = folder
        self.task = asyncio.create_task(self.daemon.run())
        socket = folder.api_socket(settings)
        assert socket is not None
        self.socket = socket
        # Loading certificates for nothing would be most of a test's time.
        self.http = httpx2.AsyncClient(headers=AUTH, verify=False)
        self.unix = httpx2.AsyncClient(
            base_url="http://daemon",
            headers=AUTH,
            transport=httpx2.AsyncHTTPTransport(uds=str(socket), verify=False),
        )
        self.openai_unix = self._openai("http://daemon", self.unix)
        self.openai: openai.AsyncOpenAI

    @staticmethod
    def _openai(url: str, http_client: httpx2.AsyncClient) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key=KEY, max_retries=0, http_client=http_client
        )

    async def open(self, *, ready: bool) -> None:
        """Wait for the doors and, unless the test is about that, for the engines."""
        await until(lambda: self.daemon.doors.port != 0 or self.task.done())
        if self.task.done():
            await self.task
        self.http.base_url = self.daemon.doors.url
        self.openai = self._openai(self.daemon.doors.url, self.http)
        if ready:
            async with asyncio.timeout(10):
                await self.daemon.fleet.settled()

    async def close(self) -> None:
        """End the daemon, and show that nothing was left in it."""
        for client in (self.http, self.unix):
            await client.aclose()
        await until(lambda: self.daemon.path.in_flight == 0)
        for scheduler in self.daemon.schedulers.values():
            scheduler.check()
            assert (scheduler.waiting, scheduler.running) == (0, 0)
        self.daemon.allowances.check()
        assert self.daemon.allowances.open_count == 0
        self.daemon.stop()
        async with asyncio.timeout(20):
            await self.task

    def engine(self, name: str) -> SimEngine:
        """One of its engines."""
        engines = {str(key): one.engine for key, one in self.daemon.fleet.supervisors.items()}
        engine = engines[name]
        assert isinstance(engine, SimEngine)
        return engine

    @property
    def queue(self) -> Scheduler:
        """The scheduler of the model that most tests use."""
        return self.daemon.schedulers["echo"]

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx2.Response:
        """POST a JSON body, with a key unless the options say otherwise."""
        return await self.http.post(path, json=body, **options)

    @asynccontextmanager
    async def streaming(self, **fields: Any) -> AsyncGenerator["Events", None]:
        """A completion that streams; leaving the block before its end disconnects."""
        body = {**ENDLESS, **fields, "stream": True}
        async with (
            self.http.stream("POST", "/v1/completions", json=body) as response,
            aclosing(response.aiter_lines()) as lines,  # left to the garbage, a thread ends them
        ):
            assert response.status_code == 200
            yield Events(response.headers, lines)


class Events:
    """The server-sent events of a response."""

    def __init__(self, headers: httpx2.Headers, lines: AsyncIterator[str]) -> None:
        self.headers = headers
        self._lines = lines

    async def next(self) -> str:
        """The data of the next event."""
        async for line in self._lines:
            if line:
                return line.removeprefix("data: ")
        raise EOFError("the stream has ended")

    async def rest(self) -> list[str]:
        """The data of all events up to the end."""
        return [line.removeprefix("data: ") async for line in self._lines if line]


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """The error in OpenAI's shape."""
    body = json.loads(response.content)
    assert body.keys() == {"error"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return error
