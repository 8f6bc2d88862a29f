"""The load generator: a process of its own that reads a `Job` and writes a `Result`, both JSON.

Its clients are the same for every server, down to the bytes of a request. What a client feels is
taken when bytes arrive; JSON is only read where a number is wanted from it (the events up to the
first text, and the usage at the end), so that the generator leaves the cores to the servers.
"""

import asyncio
import gc
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
import uvloop

from infer_daemon.bench.wire import Address, Connection, connect

REQUEST_TIMEOUT_S = 120.0
LAG_PROBE_S = 0.02
FAILURES_SHOWN = 5
QUESTIONS = (
    "What does the daemon do?",
    "How do I add another tenant?",
    "What does a 429 mean?",
    "Write a haiku about a queue.",
    "What happens when an engine dies?",
    "Which models are there?",
    "How is the ledger kept?",
    "What is the capital of France?",
)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: warm up, then `runs` batches of streams, then `unary` requests one by one."""

    address: Address
    key: str
    model: str
    runs: int = 0
    warmup_runs: int = 0
    unary: int = 0
    warmup_unary: int = 0
    streams: int = 64
    requests: int = 256
    tokens: int = 64


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One batch of streams."""

    tokens_per_s: float
    ttft_p50_s: float
    ttft_max_s: float
    gap_p99_s: float
    gap_max_s: float
    client_lag_max_s: float
    """How late the generator itself was at worst: a stall below this may be its own."""
    failed: int
    failures: list[str]
    """The first few, in words."""


class Unary(msgspec.Struct, frozen=True, kw_only=True):
    """One-token requests, one after the other."""

    p50_s: float
    p95_s: float
    max_s: float
    failed: int
    failures: list[str]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job."""

    runs: list[Run]
    unary: Unary | None = None


@dataclass(slots=True)
class Stream:
    """One streamed answer, as it arrives."""

    started_s: float
    ttft_s: float = -1.0
    gaps_s: list[float] = field(default_factory=list)
    ended_s: float = 0.0
    _last_s: float = 0.0
    _rest: bytes = b""
    _before_done: bytes = b""
    is_done: bool = False

    def feed(self, body: bytes) -> None:
        """Take a piece of the body. JSON has no bare newlines, so an empty line ends an event."""
        now_s = time.perf_counter()
        *events, self._rest = (self._rest + body).split(b"\n\n")
        for event in events:
            if self.ttft_s < 0:
                if _has_text(event):
                    self.ttft_s = now_s - self.started_s
                    self._last_s = now_s
                continue
            self.gaps_s.append(now_s - self._last_s)
            self._last_s = now_s
            if event == b"data: [DONE]":
                self.is_done = True
                self.ended_s = now_s
            else:
                self._before_done = event

    def problem(self, status: int, tokens: int) -> str:
        """What is wrong with the answer, "" if nothing is."""
        if status != 200:
            return f"status {status}: {self._rest[:200]!r}"
        if self.ttft_s < 0:
            return "no text came"
        if not self.is_done:
            return "no [DONE] at the end"
        return _usage_problem(self._before_done.removeprefix(b"data: "), tokens)


def _has_text(event: bytes) -> bool:
    """Whether an event carries generated text; the first one only names the role."""
    try:
        chunk = msgspec.json.decode(event.removeprefix(b"data: "))
    except msgspec.DecodeError:
        return False
    return any(choice["delta"].get("content") for choice in chunk.get("choices", []))


def _usage_problem(body: bytes, tokens: int) -> str:
    try:
        answer: dict[str, Any] = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return f"not JSON: {body[:200]!r}"
    usage = answer.get("usage")
    if not usage or usage.get("completion_tokens") != tokens:
        return f"expected a usage of {tokens} tokens: {body[:200]!r}"
    return ""


class Load:
    """Works through one job."""

    def __init__(self, job: Job) -> None:
        self._job = job

    async def work(self) -> Result:
        """All of it."""
        job = self._job
        for _ in range(job.warmup_runs):
            await self._run()
        runs = [await self._run() for _ in range(job.runs)]
        return Result(runs=runs, unary=await self._unary() if job.unary else None)

    async def _run(self) -> Run:
        """One batch: connections first, so that none of them is timed."""
        job = self._job
        requests = iter([self._streamed(number) for number in range(job.requests)])
        connections = [await connect(job.address) for _ in range(job.streams)]
        streams: list[Stream] = []
        failures: list[str] = []
        lags_s: list[float] = []
        gc.collect()
        gc.disable()
        probe = asyncio.create_task(_probe_lag(lags_s), name="lag")
        started_s = time.perf_counter()
        clients = [self._client(c, requests, streams, failures) for c in connections]
        await asyncio.gather(*clients)
        probe.cancel()
        gc.enable()
        for connection in connections:
            connection.close()
        ttfts_s = [stream.ttft_s for stream in streams] or [0.0]
        gaps_s = sorted(chain.from_iterable(stream.gaps_s for stream in streams)) or [0.0]
        ended_s = max((stream.ended_s for stream in streams), default=time.perf_counter())
        return Run(
            tokens_per_s=len(streams) * job.tokens / (ended_s - started_s),
            ttft_p50_s=statistics.median(ttfts_s),
            ttft_max_s=max(ttfts_s),
            gap_p99_s=gaps_s[int(len(gaps_s) * 0.99)],
            gap_max_s=gaps_s[-1],
            client_lag_max_s=max(lags_s, default=0.0),
            failed=len(failures),
            failures=failures[:FAILURES_SHOWN],
        )

    async def _client(
        self,
        connection: Connection,
        requests: Iterator[bytes],
        streams: list[Stream],
        failures: list[str],
    ) -> None:
        """One connection: takes requests until there are none left. What fails is not counted in
        `streams`."""
        for request in requests:
            stream = Stream(time.perf_counter())
            try:
                status = await connection.ask(request, stream.feed, REQUEST_TIMEOUT_S)
            except (OSError, TimeoutError) as error:
                failures.append(f"{type(error).__name__}: {error}")
                connection.close()
                connection = await connect(self._job.address)
                continue
            problem = stream.problem(status, self._job.tokens)
            if problem:
                failures.append(problem)
            else:
                streams.append(stream)

    async def _unary(self) -> Unary:
        job = self._job
        connection = await connect(job.address)
        times_s: list[float] = []
        failures: list[str] = []
        for number in range(job.warmup_unary + job.unary):
            request = self._one_token(number)
            body = bytearray()
            started_s = time.perf_counter()
            try:
                status = await connection.ask(request, body.extend, REQUEST_TIMEOUT_S)
            except (OSError, TimeoutError) as error:
                failures.append(f"{type(error).__name__}: {error}")
                break
            took_s = time.perf_counter() - started_s
            problem = _usage_problem(bytes(body), 1) if status == 200 else f"{status}: {body!r}"
            if problem:
                failures.append(problem)
            elif number >= job.warmup_unary:
                times_s.append(took_s)
        connection.close()
        times_s = sorted(times_s) or [0.0]
        return Unary(
            p50_s=statistics.median(times_s),
            p95_s=times_s[int(len(times_s) * 0.95)],
            max_s=times_s[-1],
            failed=len(failures),
            failures=failures[:FAILURES_SHOWN],
        )

    def _streamed(self, number: int) -> bytes:
        usage = {"include_usage": True}
        return self._request(number, self._job.tokens, stream=True, stream_options=usage)

    def _one_token(self, number: int) -> bytes:
        return self._request(number, 1)

    def _request(self, number: int, tokens: int, **more: object) -> bytes:
        """A chat that differs from all others of its run and is the same for every server."""
        job = self._job
        text = f"Request {number}: {QUESTIONS[number % len(QUESTIONS)]}"
        fields = {
            "model": job.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "seed": 1,
            **more,
        }
        body = msgspec.json.encode(fields)
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\n"
            f"Host: {job.address.host}:{job.address.port}\r\n"
            f"Authorization: Bearer {job.key}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def _probe_lag(lags_s: list[float]) -> None:
    """Note how late this process itself is, until cancelled."""
    while True:
        due_s = time.perf_counter() + LAG_PROBE_S
        await asyncio.sleep(LAG_PROBE_S)
        lags_s.append(time.perf_counter() - due_s)


def main() -> None:
    """Read a job from standard input, write its result to standard output."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    result: Result = uvloop.run(Load(job).work())
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
