"""`bench overload`: what is still answered in time when far more is asked than can be.

First the capacity is measured, by clients that each wait for their answer. Then requests come by a
Poisson process at multiples of it, whatever becomes of them: an open loop, as a crowd of users is.
An answer counts if it kept the objective; a client that has it no more to hope for hangs up. After
the highest load, single requests tell how long it takes until all is as before.
"""

import statistics
import time
from collections.abc import Sequence

import msgspec
from rich.table import Table

from infer_daemon.bench import demo, launches, report
from infer_daemon.bench.crowd import Crowd, Request, Result
from infer_daemon.bench.figures import latency, percentile
from infer_daemon.bench.generator import Loads
from infer_daemon.bench.report import Target, at_least, at_most
from infer_daemon.bench.run import Report, Run
from infer_daemon.bench.servers import Server, running

LOADS = (0.5, 1.0, 2.0, 3.0, 10.0)
"""Multiples of the capacity."""
RATIO_MIN = {3.0: 0.9, 10.0: 0.6}
"""Multiple -> least share of the best rate of good answers seen at any load."""
TTFT_MAX_S, WHOLE_MAX_S = 1.0, 5.0
"""The objective. A client waits no longer than the whole of it."""
REFUSAL_P99_MAX_MS = 50.0
MEMORY_RATIO_MAX = 1.1
RECOVERY_MAX_S = 5.0
PROMPT_TOKENS, OUTPUT_TOKENS = 64, 64
IN_FLIGHT_MAX = 2000
CAPACITY_S = 20.0
IDLE_REQUESTS = 50
PROBE_S = 15.0
PROBES_IN_A_ROW = 10
NORMAL_MIN_MS = 50.0
"""A TTFT up to this, or twice the idle server's p99, is normal."""
PATIENCE_S = 60.0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one offered load; rates are requests a second."""

    multiple: float
    offered_per_s: float
    good_per_s: float
    """Answered within the objective."""
    late_per_s: float
    """Answered, but not within it."""
    refused_per_s: float
    given_up_per_s: float
    unsent: int
    """Arrivals beyond the connections that the generator may have."""
    ttft_p50_ms: float
    """Of what was answered."""
    refusal_p99_ms: float
    refusals_without_retry_after: int
    generator_lag_max_ms: float


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """All loads on one server, one after the other."""

    idle_p50_ms: float
    idle_p99_ms: float
    capacity_per_s: float
    loads: list[Load]
    recovery_s: float | None
    """From the last arrival of the highest load until TTFT was normal; None if it never was."""
    memory_before_bytes: int
    memory_after_bytes: int


class Overload(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    servers: dict[str, list[Round]]


def bench(run: Run) -> Report:
    """Measure and judge.

    Raises:
        ServerProblem, LoadProblem: it cannot be measured.
    """
    problems: list[str] = []
    setup = demo.write(run.folder, "daemon", run.kind, demo.Plan(tenants={"users": {}}))
    run.say("the daemon")
    with running(launches.daemon(setup.config, setup.state_dir)) as server:
        servers = {"daemon": _Contest(run, server, setup.keys["users"], problems).rounds()}
    if run.peer:
        run.say("vLLM's own server")
        with running(launches.peer(setup.config, "vllm", our_environment=True)) as server:
            servers["vllm"] = _Contest(run, server, setup.keys["users"], problems).rounds()
    found = Overload(servers=servers)
    tables = [_table(name, rounds) for name, rounds in servers.items()]
    return Report(tables=tables, targets=targets(found), figures=found, problems=problems)


def targets(found: Overload) -> list[Target]:
    """The daemon's; of each figure, the median of its runs."""
    rounds = found.servers["daemon"]
    judged = [
        at_least(
            f"good answers at {multiple:g} x capacity, ratio to the best at any load",
            statistics.median(_good(each, multiple) / _best(each) for each in rounds),
            least,
        )
        for multiple, least in RATIO_MIN.items()
    ]
    loads = [load for each in rounds for load in each.loads]
    refusal_ms = [load.refusal_p99_ms for load in loads if load.refused_per_s > 0]
    without = sum(load.refusals_without_retry_after for load in loads)
    name, name_header = "refusals answered, worst p99 of a load, ms", "refusals without Retry-After"
    if refusal_ms:
        judged += [at_most(name, max(refusal_ms), REFUSAL_P99_MAX_MS)]
        judged += [at_most(name_header, without, 0)]
    else:
        judged += [report.not_seen(name, f"<= {REFUSAL_P99_MAX_MS:g}")]
        judged += [report.not_seen(name_header, "<= 0")]
    memory = max(each.memory_after_bytes / each.memory_before_bytes for each in rounds)
    return [
        *judged,
        at_most("memory after, ratio to before", memory, MEMORY_RATIO_MAX),
        _recovered([each.recovery_s for each in rounds]),
    ]


def _recovered(times_s: Sequence[float | None]) -> Target:
    """The median; whoever never recovered within the time that was watched, misses it."""
    name = "TTFT normal again after the spike, s"
    known_s = [time_s for time_s in times_s if time_s is not None]
    if len(known_s) < len(times_s):
        return report.target(f"{name} (never)", 0.0, f"<= {RECOVERY_MAX_S:g}", met=False)
    return at_most(name, statistics.median(known_s), RECOVERY_MAX_S)


def _good(round_: Round, multiple: float) -> float:
    return next(load.good_per_s for load in round_.loads if load.multiple == multiple)


def _best(round_: Round) -> float:
    return max(load.good_per_s for load in round_.loads) or 1.0


class _Contest:
    """One server under every load."""

    def __init__(self, run: Run, server: Server, key: str, problems: list[str]) -> None:
        self._run = run
        self._server = server
        self._key = key
        self._loads = Loads(server, key, problems)

    def rounds(self) -> list[Round]:
        """Measure as many times as there are runs."""
        return [self._round(number) for number in range(1, self._run.runs + 1)]

    def _round(self, number: int) -> Round:
        say = self._run.say
        probe = self._probe(requests_max=IDLE_REQUESTS)
        alone = self._loads.play([probe], PATIENCE_S).of(probe.name)
        idle = latency(alone)
        capacity_per_s = self._capacity()
        say(
            f"  run {number}: idle TTFT p50 {idle.p50_ms:.1f} ms, "
            f"capacity {capacity_per_s:.1f} requests/s"
        )
        memory_before_bytes = self._server.memory_bytes
        loads: list[Load] = []
        recovery_s: float | None = None
        for multiple in LOADS:
            time.sleep(self._run.settle_s)
            limit_ms = max(NORMAL_MIN_MS, 2 * idle.p99_ms)
            load, recovery_s = self._load(multiple, capacity_per_s, limit_ms)
            loads.append(load)
            say(
                f"    {multiple:4g} x: {load.good_per_s:.1f}/s good, {load.refused_per_s:.1f} "
                f"refused, {load.given_up_per_s:.1f} given up"
            )
        time.sleep(self._run.settle_s)
        return Round(
            idle_p50_ms=idle.p50_ms,
            idle_p99_ms=idle.p99_ms,
            capacity_per_s=capacity_per_s,
            loads=loads,
            recovery_s=recovery_s,
            memory_before_bytes=memory_before_bytes,
            memory_after_bytes=self._server.memory_bytes,
        )

    def _capacity(self) -> float:
        """Requests a second of clients that are as many as the engine's sequences. The first
        third, in which they fill it, does not count."""
        duration_s = min(CAPACITY_S, self._run.seconds)
        crowd = self._crowd(connections=demo.SEQS_MAX, end_s=duration_s, is_staggered=True)
        requests = self._loads.play([crowd], duration_s + PATIENCE_S).of(crowd.name)
        begun_s = min(request.begun_s for request in requests)
        from_s, until_s = begun_s + duration_s / 3, begun_s + duration_s
        done = sum(each.is_ok and from_s < each.ended_s <= until_s for each in requests)
        return max(1.0, done / (until_s - from_s))

    def _load(
        self, multiple: float, capacity_per_s: float, limit_ms: float
    ) -> tuple[Load, float | None]:
        """One load and, after the highest, how long it took until all was normal again."""
        seconds = self._run.seconds
        crowd = self._crowd(
            connections=IN_FLIGHT_MAX,
            rate_per_s=multiple * capacity_per_s,
            end_s=seconds,
            give_up_s=WHOLE_MAX_S,
            is_refusable=True,
            headers={"x-deadline-ms": f"{TTFT_MAX_S * 1e3:.0f}"},
        )
        crowds = [crowd]
        if multiple == max(LOADS):
            probe_s = min(PROBE_S, seconds)
            crowds.append(self._probe(begin_s=seconds, end_s=seconds + probe_s))
        result = self._loads.play(crowds, seconds + PROBE_S + PATIENCE_S)
        load = _load_of(multiple, seconds, result, crowd.name)
        if len(crowds) == 1:
            return load, None
        last_s = max(request.begun_s for request in result.of(crowd.name))
        return load, recovery(result.of(crowds[1].name), last_s, limit_ms)

    def _crowd(self, **more: object) -> Crowd:
        fields = {
            "name": "users",
            "key": self._key,
            "prompt_tokens": PROMPT_TOKENS,
            "output_tokens": OUTPUT_TOKENS,
            **more,
        }
        return msgspec.convert(fields, Crowd)

    def _probe(self, **more: object) -> Crowd:
        """A single client of the same tenant: it waits where the others do."""
        fields = {"name": "probe", "output_tokens": 4, "connections": 1, "pause_s": 0.02}
        return self._crowd(**{**fields, "give_up_s": WHOLE_MAX_S, "is_refusable": True, **more})


def _load_of(multiple: float, seconds: float, result: Result, name: str) -> Load:
    played = result.crowds[name]
    good = [each for each in played.requests if is_good(each)]
    answered = [each for each in played.requests if each.is_ok]
    refused = [each for each in played.requests if each.is_refusal]
    refusal_ms = [each.whole_s * 1e3 for each in refused] or [0.0]
    ttft_ms = [each.ttft_s * 1e3 for each in answered] or [0.0]
    arrived = len(played.requests) + played.unsent
    return Load(
        multiple=multiple,
        offered_per_s=arrived / seconds,
        good_per_s=len(good) / seconds,
        late_per_s=(len(answered) - len(good)) / seconds,
        refused_per_s=len(refused) / seconds,
        given_up_per_s=(len(played.requests) - len(answered) - len(refused)) / seconds,
        unsent=played.unsent,
        ttft_p50_ms=percentile(ttft_ms, 0.5),
        refusal_p99_ms=percentile(refusal_ms, 0.99),
        refusals_without_retry_after=sum(not each.has_retry_after for each in refused),
        generator_lag_max_ms=result.lag_max_s * 1e3,
    )


def is_good(request: Request) -> bool:
    """Whether an answer kept the objective."""
    return request.is_ok and request.ttft_s <= TTFT_MAX_S and request.whole_s <= WHOLE_MAX_S


def recovery(probes: Sequence[Request], ended_s: float, limit_ms: float) -> float | None:
    """Seconds from the end of a spike until this many probes in a row are answered in the usual
    time; None if they never are."""
    in_a_row = 0
    for number, probe in enumerate(probes):
        normal = probe.is_ok and probe.ttft_s * 1e3 <= limit_ms
        in_a_row = in_a_row + 1 if normal else 0
        if in_a_row == PROBES_IN_A_ROW:
            first = probes[number - PROBES_IN_A_ROW + 1]
            return max(0.0, first.begun_s - ended_s)
    return None


def _table(name: str, rounds: list[Round]) -> Table:
    first = rounds[0]
    rows = report.table(
        f"{name}: requests/s, medians; TTFT within {TTFT_MAX_S:g} s and all within "
        f"{WHOLE_MAX_S:g} s is good; capacity {first.capacity_per_s:.1f}/s, "
        f"idle TTFT p50 {first.idle_p50_ms:.1f} ms",
        "load", "offered", "good", "late", "refused", "given up", "unsent", "TTFT p50 ms",
        "refusal p99 ms", "own lag ms",
    )  # fmt: skip
    for place, multiple in enumerate(LOADS):
        loads = [each.loads[place] for each in rounds]
        median = statistics.median
        rows.add_row(
            f"{multiple:g} x",
            f"{median(load.offered_per_s for load in loads):,.1f}",
            f"{median(load.good_per_s for load in loads):,.1f}",
            f"{median(load.late_per_s for load in loads):,.1f}",
            f"{median(load.refused_per_s for load in loads):,.1f}",
            f"{median(load.given_up_per_s for load in loads):,.1f}",
            f"{median(load.unsent for load in loads):,.0f}",
            f"{median(load.ttft_p50_ms for load in loads):,.1f}",
            f"{max(load.refusal_p99_ms for load in loads):,.1f}",
            f"{max(load.generator_lag_max_ms for load in loads):,.1f}",
        )
    return rows
