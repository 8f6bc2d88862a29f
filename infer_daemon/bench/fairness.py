"""`bench fairness`: whether tenants that always want more get what their weights say.

Service is what a tenant's clients saw: one for each token of a prompt whose answer began, two for
each token of output. Four loads: two tenants of equal weight whose requests differ in shape, two
with weights 3 and 1, ten equal ones of ten shapes, and one that comes back to two that worked on.
Every tenant keeps far more requests waiting than the engine takes.
"""

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from rich.table import Table

from infer_daemon.bench import demo, report
from infer_daemon.bench.arena import STEADY_TIMEOUT_S, Arena, arena, places_changed_hands
from infer_daemon.bench.crowd import Crowd, Sample
from infer_daemon.bench.figures import (
    OUTPUT_WEIGHT,
    PROMPT_WEIGHT,
    Timeline,
    difference_max,
    jain,
    rate,
    service,
)
from infer_daemon.bench.report import Target, at_least, at_most
from infer_daemon.bench.run import Report, Run
from infer_daemon.bench.servers import Server

DEVIATION_MAX = 0.03
JAIN_MIN = 0.99
RETURNING_MAX = 0.05
LONG, BRIEF = (256, 32), (64, 64)
"""Shapes of requests: prompt tokens and output tokens."""
SHAPES = (
    (24, 16), (24, 128), (64, 64), (256, 16), (400, 64),
    (32, 256), (128, 128), (500, 16), (64, 32), (200, 200),
)  # fmt: skip
PAIR_CONNECTIONS, TEN_CONNECTIONS = 64, 32
HEAVY_WEIGHT = 3.0
_KV_BLOCKS = re.compile(r'vllm:cache_config_info\{[^}]*num_gpu_blocks="(\d+)"')
_BLOCK_SIZE = re.compile(r'vllm:cache_config_info\{[^}]*[{,]block_size="(\d+)"')


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """All four loads once; service is a second's."""

    equal: list[float]
    equal_difference_max: float
    """The largest difference in service of the two within any window of time."""
    weighted: list[float]
    ten: list[float]
    returning: list[float]
    """In the second half; the last one is who returned."""


class Fairness(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was measured."""

    difference_bound: float
    """VTC's: twice the larger of the longest prompt's and a full window's service."""
    rounds: list[Round]


def bench(run: Run) -> Report:
    """Measure and judge.

    Raises:
        ServerProblem, LoadProblem: it cannot be measured.
    """
    problems: list[str] = []
    tenants: dict[str, dict[str, float]] = {
        **{name: {"weight": 1.0} for name in ("a", "b", "returning")},
        **{f"t{number}": {"weight": 1.0} for number in range(len(SHAPES))},
        "heavy": {"weight": HEAVY_WEIGHT},
    }
    with arena(run, tenants, problems) as place:
        bound = difference_bound(_kv_tokens(place.server), [LONG, BRIEF])
        rounds = [_Round(place, seed + 1).measure() for seed in range(run.runs)]
    found = Fairness(difference_bound=bound, rounds=rounds)
    return Report(tables=_tables(found), targets=targets(found), figures=found, problems=problems)


def targets(found: Fairness) -> list[Target]:
    """Of each figure, the median of the runs; of the difference, the worst."""
    rounds, median = found.rounds, statistics.median
    return [
        at_most(
            "equal weights: deviation of the service ratio",
            median(deviation(*each.equal) for each in rounds),
            DEVIATION_MAX,
        ),
        at_most(
            "weights 3 and 1: deviation of the service ratio",
            median(deviation(each.weighted[0], HEAVY_WEIGHT * each.weighted[1]) for each in rounds),
            DEVIATION_MAX,
        ),
        at_least(
            "ten equal tenants of ten shapes: Jain's index",
            median(jain(each.ten) for each in rounds),
            JAIN_MIN,
        ),
        at_most(
            "equal weights: largest difference in any window",
            max(each.equal_difference_max for each in rounds),
            found.difference_bound,
        ),
        at_most(
            "who returns: deviation from the others' service",
            median(deviation(each.returning[-1], others(each.returning)) for each in rounds),
            RETURNING_MAX,
        ),
    ]


def deviation(have: float, due: float) -> float:
    """How far off, as a share of what is due."""
    return abs(have / due - 1) if due else float(have > 0)


def others(services: Sequence[float]) -> float:
    """The mean of all but the last."""
    return statistics.mean(services[:-1])


def difference_bound(kv_tokens: int, shapes: Sequence[tuple[int, int]]) -> float:
    """VTC's bound for two tenants of equal weight that both always wait (Sheng et al., OSDI 2024):
    2 * max(w_in * longest prompt, w_out * tokens in the engine at once), and at once in it are as
    many sequences as its window takes.

    Args:
        kv_tokens: that the engine's cache holds; 0 if unknown.
    """
    most = demo.WINDOW_SEQS * max(prompt + output for prompt, output in shapes)
    held = min(most, kv_tokens) if kv_tokens else most
    longest = max(prompt for prompt, _ in shapes)
    return 2.0 * max(PROMPT_WEIGHT * longest, OUTPUT_WEIGHT * held)


@dataclass(frozen=True, slots=True)
class _Round:
    place: Arena
    seed: int

    def measure(self) -> Round:
        """All four loads, one after the other."""
        say = self.place.run.say
        pair = [self._crowd("a", BRIEF), self._crowd("b", LONG)]
        lines, window = self._backlogged(pair)
        equal = [rate(line, *window) for line in lines]
        difference = difference_max(*(_within(line, *window) for line in lines))
        say(f"  run {self.seed}: weights 1:1, service {_numbers(equal)} a second")
        pair = [self._crowd("heavy", BRIEF), self._crowd("b", LONG)]
        lines, window = self._backlogged(pair)
        weighted = [rate(line, *window) for line in lines]
        say(f"    weights 3:1: {_numbers(weighted)}")
        crowds = [
            self._crowd(f"t{number}", shape, TEN_CONNECTIONS) for number, shape in enumerate(SHAPES)
        ]
        lines, window = self._backlogged(crowds)
        ten = [rate(line, *window) for line in lines]
        say(f"    ten shapes: {_numbers(ten)}")
        returning = self._returning()
        say(f"    two, and one that returns: {_numbers(returning)}")
        return Round(
            equal=equal,
            equal_difference_max=difference,
            weighted=weighted,
            ten=ten,
            returning=returning,
        )

    def _crowd(
        self, name: str, shape: tuple[int, int], connections: int = PAIR_CONNECTIONS
    ) -> Crowd:
        return Crowd(
            name=name,
            key=self.place.keys[name],
            prompt_tokens=shape[0],
            output_tokens=shape[1],
            connections=connections,
            is_staggered=True,
        )

    def _backlogged(self, crowds: list[Crowd]) -> tuple[list[Timeline], tuple[float, float]]:
        """The service of each, and the time in which all of them were in full swing."""
        place = self.place
        with place.full(crowds, _is_steady, seed=self.seed) as (load, from_s):
            until_s = load.go_on(from_s + place.run.seconds)
            place.loads.end(load)
        return [service(load.samples, crowd.name) for crowd in crowds], (from_s, until_s)

    def _returning(self) -> list[float]:
        """Two work all the time, a third only from the middle on."""
        place = self.place
        half_s = place.run.seconds / 2
        staying = [self._crowd("a", BRIEF), self._crowd("b", BRIEF)]
        returning = [self._crowd("returning", BRIEF)]
        with place.full(staying, _is_steady, seed=self.seed) as (load, steady_s):
            load.go_on(steady_s + half_s)
            with place.loads.at_work(returning, seed=-self.seed) as late:
                from_s = late.wait(_has_begun, STEADY_TIMEOUT_S, "begin").at_s
                until_s = max(late.go_on(from_s + half_s), load.go_on(from_s + half_s))
                place.loads.end(late)
            place.loads.end(load)
        lines = [service(load.samples, crowd.name) for crowd in staying]
        lines.append(service(late.samples, "returning"))
        return [rate(line, from_s, until_s) for line in lines]


def _is_steady(sample: Sample) -> bool:
    """Everybody had some requests answered."""
    return places_changed_hands(sample) and all(had.done for had in sample.crowds.values())


def _has_begun(sample: Sample) -> bool:
    return any(had.prompt_tokens for had in sample.crowds.values())


def _within(line: Timeline, from_s: float, until_s: float) -> Timeline:
    return [point for point in line if from_s <= point[0] <= until_s]


def _kv_tokens(server: Server) -> int:
    """What the engine's cache holds, as vLLM tells it; 0 if it does not."""
    _, text = server.get("/metrics")
    blocks, size = _KV_BLOCKS.search(text), _BLOCK_SIZE.search(text)
    return int(blocks[1]) * int(size[1]) if blocks and size else 0


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:,.0f}" for value in values)


def _tables(found: Fairness) -> list[Table]:
    rows = report.table("Service a second, by run", "load", "tenants")
    for number, each in enumerate(found.rounds, 1):
        rows.add_row(f"{number}: weights 1:1", _numbers(each.equal))
        rows.add_row(
            f"{number}: largest difference in any window",
            f"{each.equal_difference_max:,.0f} (bound {found.difference_bound:,.0f})",
        )
        rows.add_row(f"{number}: weights 3:1", _numbers(each.weighted))
        rows.add_row(f"{number}: ten shapes", _numbers(each.ten))
        rows.add_row(f"{number}: two, and one that returns", _numbers(each.returning))
    return [rows]
