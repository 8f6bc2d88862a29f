"""What it costs to write down every request: on the event loop, and until its client may be told.

One process, no engine and no HTTP: an event loop that hands rows over, and the ledger's own thread.
Loads: one request after the other (`idle`), as many as PACE a second (`paced`), and as many as go
(`full`). Each request opens, and settles when the one before it in its lane was told.
"""

import asyncio
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvloop

from infer_daemon.bench import report
from infer_daemon.bench.figures import percentile
from infer_daemon.bench.run import Report, Run
from infer_daemon.ledger.rows import Opening, Settlement
from infer_daemon.ledger.writer import Writer

PACE = 5000
TICK_S = 0.001
"""Requests of the paced load come in small crowds, as they do from a busy loop."""
IN_FLIGHT = 500
"""Of the full load."""
TENANTS = 20
CLOSE_S = 60.0


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Of one load."""

    load: str
    settles: int
    settles_s: float
    loop_us: float
    """CPU time of the event loop's thread for each request: to make its rows, to hand them over and
    to be told."""
    latency_p50_ms: float
    """From handing a settlement over until its client may be told."""
    latency_p99_ms: float
    commits: int
    commit_rows: float
    commit_p50_ms: float
    commit_p99_ms: float


@dataclass(slots=True)
class _Seen:
    commits: list[tuple[int, float]] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    loop_ns: int = 0


class _Lanes:
    """The event loop's side: hands requests over and is told."""

    def __init__(self, folder: Path) -> None:
        self.seen = _Seen()
        self._loop = asyncio.get_running_loop()
        self.writer = Writer(
            folder, tell=self._tell, on_commit=lambda *commit: self.seen.commits.append(commit)
        )
        self._number = 0

    def _tell(self, run: Callable[[], None]) -> None:
        def told() -> None:
            begun_ns = time.thread_time_ns()
            run()
            self.seen.loop_ns += time.thread_time_ns() - begun_ns

        self._loop.call_soon_threadsafe(told)

    def send(self, requests: int, then: Callable[[], None]) -> None:
        """Open and settle so many; `then` is called for each when it may be told."""
        begun_ns = time.thread_time_ns()
        for _ in range(requests):
            self._number += 1
            opening, settlement = _rows(self._number)
            self.writer.opened(opening)
            begun_s = time.perf_counter()
            self.writer.settled(settlement, self._done(begun_s, then))
        self.seen.loop_ns += time.thread_time_ns() - begun_ns

    def _done(self, begun_s: float, then: Callable[[], None]) -> Callable[[object], None]:
        def done(problem: object) -> None:
            assert problem is None, f"a request was not written down: {problem}"
            self.seen.latencies_s.append(time.perf_counter() - begun_s)
            then()

        return done


def _rows(number: int) -> tuple[Opening, Settlement]:
    request_id = secrets.token_hex(12)
    tenant = f"tenant-{number % TENANTS}"
    now_us = time.time_ns() // 1000
    opening = Opening(
        id=request_id, tenant=tenant, model="bench", accepted_at_us=now_us, tier="interactive",
        endpoint="chat", deployment="bench-a", client="127.0.0.1", stream=True,
        authenticated_us=30, admitted_us=60, routed_us=90, reserved_tokens=500,
        reserved_nano_usd=90_000,
    )  # fmt: skip
    settlement = Settlement(
        id=request_id, tenant=tenant, model="bench", accepted_at_us=now_us, tier="interactive",
        endpoint="chat", deployment="bench-a", client="127.0.0.1", stream=True,
        authenticated_us=30, admitted_us=60, routed_us=90, reserved_tokens=500,
        reserved_nano_usd=90_000, outcome="ok", engine="bench-a", rendered_us=1200,
        granted_us=1300, first_token_us=9000, last_token_us=90_000, settled_us=90_100,
        prompt_tokens=100, cached_tokens=64, completion_tokens=50, price_input_nano_usd=9000,
        price_cached_nano_usd=640, price_output_nano_usd=45_000, compute_ns=80_000_000,
        compute_nano_usd=44_444, day_start_us=now_us - now_us % 86_400_000_000, month_start_us=0,
        spent_tokens=150, spent_nano_usd=54_640,
    )  # fmt: skip
    return opening, settlement


async def _idle(lanes: _Lanes, until_s: float) -> None:
    while time.perf_counter() < until_s:
        told = asyncio.Event()
        lanes.send(1, told.set)
        await told.wait()


async def _paced(lanes: _Lanes, until_s: float) -> None:
    begun_s, sent = time.perf_counter(), 0
    while (now_s := time.perf_counter()) < until_s:
        due = int((now_s - begun_s) * PACE) - sent
        lanes.send(due, lambda: None)
        sent += due
        await asyncio.sleep(TICK_S)


async def _full(lanes: _Lanes, until_s: float) -> None:
    left, over = IN_FLIGHT, asyncio.Event()

    def then() -> None:
        nonlocal left
        if time.perf_counter() < until_s:
            lanes.send(1, then)
            return
        left -= 1
        if not left:
            over.set()

    lanes.send(IN_FLIGHT, then)
    await over.wait()


LOADS = {"idle": _idle, "paced": _paced, "full": _full}


async def _measure(load: str, folder: Path, seconds: float) -> Cost:
    lanes = _Lanes(folder)
    lanes.writer.start()
    try:
        await LOADS[load](lanes, time.perf_counter() + min(0.2, seconds))  # warm
        lanes.seen = _Seen()
        begun_s = time.perf_counter()
        await LOADS[load](lanes, begun_s + seconds)
        took_s = time.perf_counter() - begun_s
    finally:
        await asyncio.to_thread(lanes.writer.close, CLOSE_S)
    return _cost(load, lanes.seen, took_s)


def _cost(load: str, seen: _Seen, took_s: float) -> Cost:
    settles = len(seen.latencies_s)
    commit_s = [seconds for _, seconds in seen.commits]
    return Cost(
        load=load,
        settles=settles,
        settles_s=settles / took_s,
        loop_us=seen.loop_ns / settles / 1e3,
        latency_p50_ms=percentile(seen.latencies_s, 0.50) * 1e3,
        latency_p99_ms=percentile(seen.latencies_s, 0.99) * 1e3,
        commits=len(commit_s),
        commit_rows=sum(rows for rows, _ in seen.commits) / len(commit_s),
        commit_p50_ms=percentile(commit_s, 0.50) * 1e3,
        commit_p99_ms=percentile(commit_s, 0.99) * 1e3,
    )


def ledger_cost(load: str, folder: Path, seconds: float) -> Cost:
    """Measure one load in this folder, which must exist."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_measure(load, folder, seconds))


def bench(run: Run) -> Report:
    """Measure each load `runs` times, and judge by the median of each figure."""
    costs = [_of_runs(load, run) for load in LOADS]
    table = report.table("Requests written down", "load", *_COLUMNS)
    for cost in costs:
        table.add_row(
            cost.load, f"{cost.settles_s:,.0f}", f"{cost.loop_us:.1f}",
            f"{cost.latency_p50_ms:.2f}", f"{cost.latency_p99_ms:.2f}", f"{cost.commit_rows:.0f}",
            f"{cost.commit_p50_ms:.2f}", f"{cost.commit_p99_ms:.2f}",
        )  # fmt: skip
    idle, paced, full = costs
    targets = [
        report.at_least("settled requests/s", full.settles_s, PACE),
        report.at_most("event loop for each request, us", max(c.loop_us for c in costs), 30),
        report.at_most(f"commit at {PACE:,}/s, p99, ms", paced.commit_p99_ms, 10),
        report.at_most("added when idle, p50, ms", idle.latency_p50_ms, 0.5),
        report.at_most("added when idle, p99, ms", idle.latency_p99_ms, 5),
    ]
    return Report(tables=[table], targets=targets, figures=costs, problems=[])


_COLUMNS = (
    "settled/s", "loop, us", "told p50, ms", "told p99, ms",
    "rows a commit", "commit p50, ms", "commit p99, ms",
)  # fmt: skip


def _of_runs(load: str, run: Run) -> Cost:
    found = []
    for number in range(run.runs):
        run.say(f"ledger: {load}, {number + 1} of {run.runs}")
        folder = run.folder / "ledger"
        folder.mkdir()
        found.append(ledger_cost(load, folder, run.seconds))
        shutil.rmtree(folder)
    numbers = [name for name in Cost.__struct_fields__ if name != "load"]
    medians = {n: percentile([getattr(cost, n) for cost in found], 0.5) for n in numbers}
    return msgspec.convert({"load": load, **medians}, Cost)
