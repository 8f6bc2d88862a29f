"""`bench isolation`: what one tenant's flood does to another tenant's one-line request.

The flood keeps 256 requests of 400 prompt and 256 output tokens in flight, no two prompts alike.
The victim sends short requests one by one, first alone and then beside the flood, once that is
steady. What the flood itself pays is told by a second start of the daemon with its window wide
open, where the engine takes whatever it can hold and there is no victim.
"""

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

import msgspec
from rich.table import Table

from infer_daemon.bench import demo, launches, report
from infer_daemon.bench.crowd import Crowd, Request, Sample
from infer_daemon.bench.figures import Latency, latency, output, rate
from infer_daemon.bench.generator import Loads
from infer_daemon.bench.report import Target, at_least, at_most
from infer_daemon.bench.run import Report, Run
from infer_daemon.bench.servers import Launch, running

P50_RATIO_MAX = 4.0
P95_MAX_MS, P99_MAX_MS = 50.0, 100.0
THROUGHPUT_RATIO_MIN = 0.9
VICTIM_TOKENS = 16
VICTIM_PAUSE_S = 0.02
VICTIM_WARMUP = 10
FLOOD_CONNECTIONS, FLOOD_PROMPT_TOKENS, FLOOD_OUTPUT_TOKENS = 256, 400, 256
PATIENCE = 10
"""The victim's requests may take so many times `seconds`; a run ends there with fewer of them."""
STEADY_TIMEOUT_S = 240.0
LAST_WORDS_S = 60.0
"""For a load generator to start, and to tell its result."""


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """The victim alone, then beside the flood."""

    alone: Latency
    beside: Latency
    flood_tokens_per_s: float
    """Output tokens, while the victim was measured."""
    flood_refused: int
    """Its requests that were told to come back later, from its beginning on."""
    generator_lag_max_ms: float


class Isolation(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    victim_requests: int
    """Of each run, if there was time."""
    unthrottled_tokens_per_s: list[float]
    servers: dict[str, list[Round]]


def bench(run: Run) -> Report:
    """Measure and judge.

    Raises:
        ServerProblem, LoadProblem: it cannot be measured.
    """
    bench = _Bench(run)
    unthrottled = bench.unthrottled()
    servers = {"daemon": bench.daemon()}
    if run.peer:
        servers["vllm"] = bench.peer()
    found = Isolation(
        victim_requests=run.victim_requests, unthrottled_tokens_per_s=unthrottled, servers=servers
    )
    return Report(
        tables=[_table(found)], targets=targets(found), figures=found, problems=bench.problems
    )


def targets(found: Isolation) -> list[Target]:
    """The daemon's; of each figure, the median of its runs."""
    rounds = found.servers["daemon"]

    median = statistics.median
    p50_ms = median(each.beside.p50_ms for each in rounds)
    ratio = p50_ms / median(each.alone.p50_ms for each in rounds)
    p95_ms = median(each.beside.p95_ms for each in rounds)
    p99_ms = median(each.beside.p99_ms for each in rounds)
    flood = median(each.flood_tokens_per_s for each in rounds)
    unthrottled = median(found.unthrottled_tokens_per_s)
    failed = sum(each.beside.failed + each.alone.failed for each in rounds)
    fewest = min(each.beside.requests for each in rounds)
    return [
        at_most("victim's TTFT p50, ratio to alone", ratio, P50_RATIO_MAX),
        at_most("victim's TTFT p95, ms", p95_ms, P95_MAX_MS),
        at_most("victim's TTFT p99, ms", p99_ms, P99_MAX_MS),
        at_least(
            "flood's tokens/s, ratio to unthrottled", flood / unthrottled, THROUGHPUT_RATIO_MIN
        ),
        at_least("victim's requests in the shortest run", fewest, found.victim_requests),
        at_most("victim's requests that failed", failed, 0),
    ]


class _Bench:
    def __init__(self, run: Run) -> None:
        self._run = run
        self.problems: list[str] = []

    def unthrottled(self) -> list[float]:
        """What the flood gets from the engine if nobody holds it back: output tokens/s."""
        run = self._run
        setup = self._setup("open", is_wide_open=True)
        run.say("the daemon, its window wide open")
        with running(launches.daemon(setup.config, setup.state_dir, "open")) as server:
            loads = Loads(server, setup.keys["flood"], self.problems)
            with loads.at_work([_flood(setup.keys["flood"])]) as flood:
                marks_s = [flood.wait(_is_steady, STEADY_TIMEOUT_S, "get steady").at_s]
                for _ in range(run.runs):
                    marks_s.append(flood.go_on(marks_s[-1] + run.seconds))
                loads.end(flood)
            tokens = output(flood.samples, "flood")
        rates = [rate(tokens, *window) for window in pairwise(marks_s)]
        run.say(f"  {_spread(rates)} tokens/s")
        return rates

    def daemon(self) -> list[Round]:
        """The daemon as it ships."""
        setup = self._setup("daemon")
        return self._rounds(launches.daemon(setup.config, setup.state_dir), setup)

    def peer(self) -> list[Round]:
        """vLLM's own server, in the environment that the daemon gives its engine."""
        setup = self._setup("peer")
        return self._rounds(launches.peer(setup.config, "vllm", our_environment=True), setup)

    def _setup(self, name: str, *, is_wide_open: bool = False) -> demo.Demo:
        plan = demo.Plan(tenants={"flood": {}, "victim": {}}, is_wide_open=is_wide_open)
        return demo.write(self._run.folder, name, self._run.kind, plan)

    def _rounds(self, launch: Launch, setup: demo.Demo) -> list[Round]:
        self._run.say(launch.name)
        with running(launch) as server:
            loads = Loads(server, setup.keys["victim"], self.problems)
            return [self._round(loads, setup, seed + 1) for seed in range(self._run.runs)]

    def _round(self, loads: Loads, setup: demo.Demo, seed: int) -> Round:
        run = self._run
        time.sleep(run.settle_s)
        patience_s = PATIENCE * run.seconds
        victim = _victim(
            setup.keys["victim"], loads.template_tokens, run.victim_requests, patience_s
        )
        alone = loads.play([victim], patience_s + LAST_WORDS_S, seed=2 * seed)
        with loads.at_work([_flood(setup.keys["flood"])], seed=2 * seed) as flood:
            flood.wait(_is_steady, STEADY_TIMEOUT_S, "get steady")
            beside = loads.play([victim], patience_s + LAST_WORDS_S, seed=2 * seed + 1)
            flooded = loads.end(flood)
        hurt = _measured(beside.of("victim"))
        tokens = output(flood.samples, "flood")
        found = Round(
            alone=latency(_measured(alone.of("victim"))),
            beside=latency(hurt),
            flood_tokens_per_s=rate(tokens, hurt[0].begun_s, hurt[-1].ended_s),
            flood_refused=sum(each.is_refusal for each in flooded.of("flood")),
            generator_lag_max_ms=1e3 * max(beside.lag_max_s, flooded.lag_max_s),
        )
        run.say(
            f"  run {seed}: victim's TTFT p50 {found.alone.p50_ms:.1f} ms alone, "
            f"{found.beside.p50_ms:.1f} ms beside the flood (p99 {found.beside.p99_ms:.1f}), "
            f"{found.beside.requests} requests; flood {found.flood_tokens_per_s:,.0f} tokens/s"
        )
        return found


def _flood(key: str) -> Crowd:
    return Crowd(
        name="flood",
        key=key,
        prompt_tokens=FLOOD_PROMPT_TOKENS,
        output_tokens=FLOOD_OUTPUT_TOKENS,
        connections=FLOOD_CONNECTIONS,
        is_refusable=True,
        is_staggered=True,
    )


def _victim(key: str, template_tokens: int, requests: int, patience_s: float) -> Crowd:
    return Crowd(
        name="victim",
        key=key,
        prompt_tokens=template_tokens + 8,
        output_tokens=VICTIM_TOKENS,
        connections=1,
        requests_max=requests + VICTIM_WARMUP,
        pause_s=VICTIM_PAUSE_S,
        end_s=patience_s,
    )


def _is_steady(sample: Sample) -> bool:
    """Every sequence of the engine has changed hands, and about twice."""
    return sample.crowds["flood"].done >= 2 * demo.SEQS_MAX


def _measured(requests: Sequence[Request]) -> Sequence[Request]:
    """Without the first few; all of them where the time was too short for more."""
    return requests[VICTIM_WARMUP:] or requests


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


def _table(found: Isolation) -> Table:
    rows = report.table(
        f"A one-line request beside a flood of {FLOOD_CONNECTIONS} connections: TTFT in ms",
        "server", "requests", "alone p50", "beside p50", "p95", "p99", "max", "flood tokens/s",
        "refused",
    )  # fmt: skip
    spread = _spread(found.unthrottled_tokens_per_s)
    rows.add_row("daemon, wide open", "-", "-", "-", "-", "-", "-", spread, "-")
    for name, rounds in found.servers.items():
        beside = [each.beside for each in rounds]
        rows.add_row(
            name,
            " ".join(str(each.requests) for each in beside),
            f"{statistics.median(each.alone.p50_ms for each in rounds):,.1f}",
            f"{statistics.median(each.p50_ms for each in beside):,.1f}",
            f"{statistics.median(each.p95_ms for each in beside):,.1f}",
            f"{statistics.median(each.p99_ms for each in beside):,.1f}",
            f"{max(each.max_ms for each in beside):,.1f}",
            _spread([each.flood_tokens_per_s for each in rounds]),
            " ".join(str(each.flood_refused) for each in rounds),
        )
    return rows
