"""The load generator: `python -m infer_daemon.bench.load`, a process of its own.

Reads a `Job` from the first line of its standard input; writes a `Sample` several times a second
and a `Result` at the end, both as lines of JSON. It ends when its crowds have, or when its standard
input does: whoever started it need not live to end it.
"""

import asyncio
import gc
import random
import resource
import sys
import time
from collections.abc import Callable

import msgspec
import uvloop

from infer_daemon.bench.answer import Answer, Tally
from infer_daemon.bench.crowd import (
    REFUSALS,
    Crowd,
    Job,
    Line,
    Played,
    Request,
    Result,
    Sample,
    Told,
)
from infer_daemon.bench.prompts import prompt
from infer_daemon.bench.wire import Address, Connection, connect

SAMPLE_S = 0.1
FAILURES_SHOWN = 5
REFUSED_PAUSE_S = 0.5
"""Of a closed loop's client after anything but an answer."""
GOLDEN = 0.6180339887498949
"""Its multiples modulo 1 are spread evenly, however many of them are taken."""
PREPARED = 2048
"""Requests that an open loop has ready before it begins; they are sent in turn."""


Tell = Callable[[Line], None]


class Player:
    """The clients of one crowd."""

    def __init__(self, job: Job, crowd: Crowd, seed: int) -> None:
        self._job = job
        self._crowd = crowd
        self._rng = random.Random(seed)
        self._left = crowd.requests_max or sys.maxsize
        self.tally = Tally()
        self.requests: list[Request] = []
        self.failures: list[str] = []
        self.unsent = 0
        self.failed = 0

    @property
    def played(self) -> Played:
        """What became of it."""
        return Played(requests=self.requests, unsent=self.unsent, failures=self.failures)

    async def play(self) -> None:
        """From the crowd's beginning to its end."""
        await asyncio.sleep(self._crowd.begin_s)
        if self._crowd.rate_per_s > 0:
            await self._open_loop()
            return
        try:
            async with asyncio.timeout(self._crowd.end_s - self._crowd.begin_s):
                await self._closed_loop()
        except TimeoutError:
            pass

    async def _closed_loop(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self._crowd.connections):
                group.create_task(self._client(number), name=f"{self._crowd.name}-{number}")

    async def _client(self, number: int) -> None:
        """Asks again and again, on one connection for as long as that holds."""
        crowd = self._crowd
        connection: Connection | None = None
        tokens = crowd.output_tokens
        if crowd.is_staggered:
            tokens = 1 + int(tokens * ((number + 1) * GOLDEN % 1.0))
        while self._left > 0:
            self._left -= 1
            if crowd.pause_s > 0:
                await asyncio.sleep(self._rng.expovariate(1 / crowd.pause_s))
            failed = self.failed
            connection = await self._ask(connection, self._request(tokens), tokens)
            tokens = crowd.output_tokens
            if self.failed > failed:
                await asyncio.sleep(REFUSED_PAUSE_S)

    async def _open_loop(self) -> None:
        """Poisson arrivals. A free connection is used again; `connections` bounds them."""
        crowd = self._crowd
        loop = asyncio.get_running_loop()
        prepared = [self._request(crowd.output_tokens) for _ in range(PREPARED)]
        idle: list[Connection] = []

        async def arrive(request: bytes) -> None:
            connection = idle.pop() if idle else None
            connection = await self._ask(connection, request, crowd.output_tokens)
            if connection is not None:
                idle.append(connection)

        begun_s = due_s = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(self._left):
                due_s += self._rng.expovariate(crowd.rate_per_s)
                if due_s >= begun_s + crowd.end_s - crowd.begin_s:
                    break
                if due_s > loop.time():
                    await asyncio.sleep(due_s - loop.time())
                if self.tally.in_flight >= crowd.connections:
                    self.unsent += 1
                    continue
                group.create_task(arrive(prepared[number % PREPARED]), name=crowd.name)
                # The task counts itself only when it runs.
                await asyncio.sleep(0)
        for connection in idle:
            connection.close()

    async def _ask(
        self, connection: Connection | None, request: bytes, output_tokens: int
    ) -> Connection | None:
        """One request, and its line in the result. Returns the connection if it can be used again:
        a refused client comes back on it, as libraries do."""
        crowd, tally = self._crowd, self.tally
        answer = Answer(tally, self._job.template_tokens + self._words)
        tally.in_flight += 1
        status, head, is_cut, problem, is_told = 0, b"", False, "", False
        try:
            async with asyncio.timeout(crowd.give_up_s):
                if connection is None or not connection.is_open:
                    connection = await connect(self._job.address)
                status = await connection.ask(request, answer.feed, crowd.give_up_s)
            head = connection.head
            if status != 200:
                problem = f"status {status}: {answer.text}"
                is_told = crowd.is_refusable and status in REFUSALS
            elif problem := answer.end(output_tokens=output_tokens):
                status, is_told = 0, False
        except asyncio.CancelledError:
            is_cut = True
            raise
        except TimeoutError as error:
            problem, is_told = f"TimeoutError: {error}", crowd.is_refusable
        except OSError as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            tally.in_flight -= 1
            self._settle(answer, status, head, is_cut=is_cut)
            if connection is not None and (is_cut or status == 0):
                connection.close()
        tally.done += 1
        self.failed += bool(problem)
        if problem and not is_told and len(self.failures) < FAILURES_SHOWN:
            self.failures.append(problem)
        return connection if status else None

    def _settle(self, answer: Answer, status: int, head: bytes, *, is_cut: bool) -> None:
        self.requests.append(
            Request(
                begun_s=answer.begun_s,
                first_s=answer.first_s,
                ended_s=time.monotonic(),
                status=status,
                prompt_tokens=answer.prompt_tokens,
                output_tokens=answer.output_tokens,
                is_cut=is_cut,
                has_retry_after=b"\r\nretry-after:" in head,
            )
        )

    @property
    def _words(self) -> int:
        return max(1, self._crowd.prompt_tokens - self._job.template_tokens)

    def _request(self, output_tokens: int) -> bytes:
        """A chat with a prompt that nobody else has, whole and ready to be sent."""
        fields = {
            "model": self._job.model,
            "messages": [{"role": "user", "content": prompt(self._rng, self._words)}],
            "max_tokens": output_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body = msgspec.json.encode(fields)
        address: Address = self._job.address
        headers = {
            "Host": f"{address.host}:{address.port}",
            "Authorization": f"Bearer {self._crowd.key}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **self._crowd.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST /v1/chat/completions HTTP/1.1\r\n{lines}\r\n".encode() + body


async def work(job: Job, until: asyncio.Event, tell: Tell) -> Result:
    """Play every crowd, at most until the event."""
    players = {
        crowd.name: Player(job, crowd, job.seed * 1000 + number)
        for number, crowd in enumerate(job.crowds)
    }
    lags_s = [0.0]
    tasks = [
        asyncio.create_task(_play(players), name="play"),
        asyncio.create_task(until.wait(), name="stop"),
        asyncio.create_task(_sample(players, lags_s, tell), name="sample"),
    ]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()  # raises what went wrong
    return Result(crowds={n: p.played for n, p in players.items()}, lag_max_s=max(lags_s))


async def _play(players: dict[str, Player]) -> None:
    async with asyncio.TaskGroup() as group:
        for name, player in players.items():
            group.create_task(player.play(), name=name)


async def _sample(players: dict[str, Player], lags_s: list[float], tell: Tell) -> None:
    """Tell what there is several times a second, and note how late this process is."""
    while True:
        told = {
            name: Told(t.prompt_tokens, t.output_tokens, t.done, t.in_flight)
            for name, t in ((name, player.tally) for name, player in players.items())
        }
        tell(Sample(time.monotonic(), told))
        due_s = time.monotonic() + SAMPLE_S
        await asyncio.sleep(SAMPLE_S)
        lags_s.append(time.monotonic() - due_s)


def _tell(line: Line) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
    sys.stdout.buffer.flush()


async def _run() -> None:
    # Each connection is a descriptor; the usual soft limit of 1024 is for programs with select().
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
    # Nothing follows the job, so readable means closed.
    loop.add_reader(sys.stdin.fileno(), stop.set)
    gc.disable()  # it would stand still while it looks through requests that are all still needed
    result = await work(job, stop, _tell)
    loop.remove_reader(sys.stdin.fileno())
    _tell(result)


if __name__ == "__main__":
    uvloop.run(_run())
