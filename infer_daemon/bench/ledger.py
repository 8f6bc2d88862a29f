"""What it costs to write down every request: on the event loop, and until its client may be told.

One process, no engine and no HTTP: an event loop that does for its requests all that the ledger
wants, and the ledger's own thread. Loads: one request after the other (`idle`), as many as PACE a
second (`paced`), and as many as go (`full`). What the event loop's thread takes for the same load
without a ledger is not the ledger's and is taken off.
"""

import asyncio
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import uvloop

from infer_daemon.bench import report
from infer_daemon.bench.bookkeeping import Bookkeeping, a_request
from infer_daemon.bench.figures import percentile
from infer_daemon.bench.run import Report, Run

PACE = 5000
TICK_S = 0.001
"""Requests of the paced load come in small crowds, as they do from a busy loop."""
DUE_MAX = 250
"""Of them at once. What a loop that stood still for longer missed has come to nobody: it accepted
nothing meanwhile."""
IN_FLIGHT = 500
"""Of the full load."""
BARE_SHARE = 0.2
"""How much of the time is for measuring the load without a ledger."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Of one load."""

    load: str
    settles: int
    settles_s: float
    loop_us: float
    """CPU time of the event loop's thread for each request: to reserve and to charge what it uses,
    to share out its engine's time, to make its rows, to hand them over, to be told and to wait."""
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
    took_s: float = 0.0

    @property
    def loop_us(self) -> float:
        """For each request."""
        return self.loop_ns / len(self.latencies_s) / 1e3


class _Lanes:
    """The event loop's side: hands requests over and is told."""

    def __init__(self, books: Bookkeeping | None) -> None:
        """Args: books: None for the load alone."""
        self.seen = _Seen()
        self._loop = asyncio.get_running_loop()
        self._books = books
        self._number = 0

    def send(self, requests: int, then: Callable[[], None]) -> None:
        """So many requests; `then` is called for each when it may be told."""
        for _ in range(requests):
            self._number += 1
            request = a_request(self._number)
            begun_s = time.perf_counter()
            if self._books is None:
                self._loop.call_soon(self._done(begun_s, then), None)
            else:
                safe = self._books.handle(request)
                safe.add_done_callback(self._done(begun_s, then))

    def _done(self, begun_s: float, then: Callable[[], None]) -> Callable[[object], None]:
        def done(_: object) -> None:
            self.seen.latencies_s.append(time.perf_counter() - begun_s)
            then()

        return done


async def _idle(lanes: _Lanes, until_s: float) -> None:
    while time.perf_counter() < until_s:
        told = asyncio.Event()
        lanes.send(1, told.set)
        await told.wait()


async def _paced(lanes: _Lanes, until_s: float) -> None:
    begun_s, sent = time.perf_counter(), 0
    while (now_s := time.perf_counter()) < until_s:
        due = int((now_s - begun_s) * PACE) - sent
        lanes.send(min(due, DUE_MAX), lambda: None)
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


async def _see(load: str, lanes: _Lanes, seconds: float) -> _Seen:
    await LOADS[load](lanes, time.perf_counter() + min(0.2, seconds))  # warm
    lanes.seen = seen = _Seen()
    begun_s, begun_ns = time.perf_counter(), time.thread_time_ns()
    await LOADS[load](lanes, begun_s + seconds)
    seen.loop_ns, seen.took_s = time.thread_time_ns() - begun_ns, time.perf_counter() - begun_s
    lanes.seen = _Seen()  # what comes now is not the load's
    return seen


async def _measure(load: str, folder: Path, seconds: float) -> Cost:
    bare = await _see(load, _Lanes(None), seconds * BARE_SHARE)
    books = Bookkeeping(folder, lambda *commit: lanes.seen.commits.append(commit))
    lanes = _Lanes(books)
    await books.start()
    try:
        seen = await _see(load, lanes, seconds)
    finally:
        await books.close()
    return _cost(load, seen, seen.loop_us - bare.loop_us)


def _cost(load: str, seen: _Seen, loop_us: float) -> Cost:
    settles = len(seen.latencies_s)
    commit_s = [seconds for _, seconds in seen.commits]
    return Cost(
        load=load,
        settles=settles,
        settles_s=settles / seen.took_s,
        loop_us=loop_us,
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
        report.at_most(f"event loop for each request at {PACE:,}/s, us", paced.loop_us, 30),
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
