"""`bench priority`: whether the urgent comes first, and the rest not never.

A batch tenant fills the engine and its queue, while three interactive tenants and a critical one
send a short request now and then: their TTFT is compared with that of the same requests on an idle
engine. Then interactive work fills the queue too: what is left to batch is measured, and whether
critical requests still go first.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from rich.table import Table

from infer_daemon.bench import report
from infer_daemon.bench.arena import Arena, arena, places_changed_hands
from infer_daemon.bench.crowd import Crowd, Request, Result
from infer_daemon.bench.figures import Latency, latency, rate, service
from infer_daemon.bench.report import Target, at_least, at_most
from infer_daemon.bench.run import Report, Run

P99_MAX_MS = 50.0
"""Or twice the idle engine's."""
BATCH_SHARE_MIN = 0.05
"""The daemon's `scheduling.batch_share_min`."""
TOLERANCE = 0.9
"""Of that share the clients must have seen so much: what they see lags what is charged."""
USERS = ("user-1", "user-2", "user-3")
CRITICAL = "critical"
SATURATING = 96
"""Connections of a tenant that fills the engine and its queue."""
PROMPT_TOKENS, OUTPUT_TOKENS = 100, 128
SHORT_WORDS, SHORT_OUTPUT_TOKENS = 8, 8
PAUSE_S = 0.3
GIVE_UP_S = 60.0
LAST_WORDS_S = 60.0


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """The short requests on an idle engine, beside batch work, and beside much of everything."""

    idle: Latency
    interactive: Latency
    critical: Latency
    full_interactive: Latency
    """Of those that fill the queue themselves."""
    full_critical: Latency
    batch_share: float
    """Of all service, beside interactive work that fills the queue."""
    batch_alone_per_s: float
    batch_beside_per_s: float
    """Service a second beside the short requests, and beside much interactive work."""


class Priority(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    rounds: list[Round]


def bench(run: Run) -> Report:
    """Measure and judge.

    Raises:
        ServerProblem, LoadProblem: it cannot be measured.
    """
    problems: list[str] = []
    tenants: dict[str, dict[str, str]] = {
        "nightly": {"priority": "batch"},
        "many": {"priority": "interactive"},
        CRITICAL: {"priority": "critical", "priority_max": "critical"},
        **{name: {"priority": "interactive"} for name in USERS},
    }
    with arena(run, tenants, problems) as place:
        rounds = [_Round(place, seed + 1).measure() for seed in range(run.runs)]
    found = Priority(rounds=rounds)
    return Report(tables=[_table(found)], targets=targets(found), figures=found, problems=problems)


def targets(found: Priority) -> list[Target]:
    """Of each figure, the median of the runs."""
    rounds, median = found.rounds, statistics.median
    limit_ms = round(max(P99_MAX_MS, 2 * median(each.idle.p99_ms for each in rounds)), 1)
    behind = median(each.full_critical.mean_ms / each.full_interactive.mean_ms for each in rounds)
    return [
        at_most(
            "interactive TTFT p99 beside batch, ms",
            median(each.interactive.p99_ms for each in rounds),
            limit_ms,
        ),
        at_most(
            "critical TTFT p99 beside batch, ms",
            median(each.critical.p99_ms for each in rounds),
            limit_ms,
        ),
        at_most("critical mean TTFT, ratio to waiting interactive", behind, 1.0),
        at_least(
            "batch's share of service beside full interactive",
            median(each.batch_share for each in rounds),
            BATCH_SHARE_MIN * TOLERANCE,
        ),
        at_most(
            "short requests that failed",
            sum(each.interactive.failed + each.critical.failed for each in rounds),
            0,
        ),
    ]


@dataclass(frozen=True, slots=True)
class _Round:
    place: Arena
    seed: int

    def measure(self) -> Round:
        """An idle engine, one full of batch work, and one full of both."""
        say = self.place.run.say
        idle = latency(self._short(USERS).of(*USERS))
        beside, alone_per_s, _ = self._beside([self._many("nightly", "batch")], (*USERS, CRITICAL))
        interactive = latency(beside.of(*USERS))
        critical = latency(beside.of(CRITICAL))
        say(
            f"  run {self.seed}: TTFT p99 {idle.p99_ms:.1f} ms idle; beside batch "
            f"{interactive.p99_ms:.1f} interactive, {critical.p99_ms:.1f} critical"
        )
        both = [self._many("nightly", "batch"), self._many("many", "interactive")]
        beside, batch_per_s, waiting = self._beside(both, [CRITICAL])
        full = latency(begun_among(waiting.of("many"), beside.of(CRITICAL)))
        full_critical = latency(beside.of(CRITICAL))
        share = batch_per_s["nightly"] / (sum(batch_per_s.values()) or 1.0)
        say(
            f"    full: mean TTFT {full_critical.mean_ms:.1f} ms critical, {full.mean_ms:.1f} "
            f"interactive; batch has {share:.1%}"
        )
        return Round(
            idle=idle,
            interactive=interactive,
            critical=critical,
            full_interactive=full,
            full_critical=full_critical,
            batch_share=share,
            batch_alone_per_s=alone_per_s["nightly"],
            batch_beside_per_s=batch_per_s["nightly"],
        )

    def _beside(
        self, many: list[Crowd], short: Sequence[str]
    ) -> tuple[Result, dict[str, float], Result]:
        """Short requests beside those that fill the engine: what became of them, and of the others
        the service a second and what became of them."""
        with self.place.full(many, places_changed_hands, seed=self.seed) as (load, from_s):
            beside = self._short(short)
            until_s = load.go_on(time.monotonic())
            filled = self.place.loads.end(load)
        had = {
            crowd.name: rate(service(load.samples, crowd.name), from_s, until_s) for crowd in many
        }
        return beside, had, filled

    def _short(self, names: Sequence[str]) -> Result:
        crowds = [
            Crowd(
                name=name,
                key=self.place.keys[name],
                prompt_tokens=self.place.loads.template_tokens + SHORT_WORDS,
                output_tokens=SHORT_OUTPUT_TOKENS,
                connections=1,
                pause_s=PAUSE_S,
                end_s=self.place.run.seconds,
                give_up_s=GIVE_UP_S,
                headers={"x-priority": "critical" if name == CRITICAL else "interactive"},
            )
            for name in names
        ]
        return self.place.loads.play(crowds, self.place.run.seconds + LAST_WORDS_S, seed=-self.seed)

    def _many(self, name: str, priority: str) -> Crowd:
        return Crowd(
            name=name,
            key=self.place.keys[name],
            prompt_tokens=PROMPT_TOKENS,
            output_tokens=OUTPUT_TOKENS,
            connections=SATURATING,
            is_staggered=True,
            headers={"x-priority": priority},
        )


def begun_among(requests: Sequence[Request], others: Sequence[Request]) -> list[Request]:
    """Those that began while the others did: when both waited."""
    from_s = min(other.begun_s for other in others)
    until_s = max(other.ended_s for other in others)
    return [each for each in requests if from_s <= each.begun_s <= until_s]


def _table(found: Priority) -> Table:
    rows = report.table(
        "TTFT in ms of short requests, medians of the runs", "requests", "n", "mean", "p50", "p99"
    )
    names = {
        "interactive, idle engine": "idle",
        "interactive beside batch": "interactive",
        "critical beside batch": "critical",
        "critical beside full interactive": "full_critical",
        "full interactive itself": "full_interactive",
    }
    for name, field in names.items():
        rounds: list[Latency] = [getattr(each, field) for each in found.rounds]
        median = statistics.median
        rows.add_row(
            name,
            f"{median(each.requests for each in rounds):,.0f}",
            f"{median(each.mean_ms for each in rounds):,.1f}",
            f"{median(each.p50_ms for each in rounds):,.1f}",
            f"{median(each.p99_ms for each in rounds):,.1f}",
        )
    return rows
