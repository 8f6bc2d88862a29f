"""The arithmetic of the benches: pure, so that it can be told right without a server."""

import math
from bisect import bisect_right
from collections.abc import Sequence

import msgspec

from infer_daemon.bench.crowd import Request, Sample

Timeline = Sequence[tuple[float, float]]
"""(when, how much so far), in order of time."""
PROMPT_WEIGHT, OUTPUT_WEIGHT = 1, 2
"""Of a prompt's and of an output's token in the service that a tenant had."""


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Times to the first text. A request that got none counts with as long as it waited."""

    requests: int
    failed: int
    mean_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


def latency(requests: Sequence[Request]) -> Latency:
    """Of these requests; all zero if there are none."""
    times_ms = [request.ttft_s * 1e3 for request in requests] or [0.0]
    return Latency(
        requests=len(requests),
        failed=sum(not request.is_ok and not request.is_cut for request in requests),
        mean_ms=sum(times_ms) / len(times_ms),
        p50_ms=percentile(times_ms, 0.50),
        p95_ms=percentile(times_ms, 0.95),
        p99_ms=percentile(times_ms, 0.99),
        max_ms=max(times_ms),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all values does not exceed."""
    assert values, "of nothing there is no percentile"
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def at(timeline: Timeline, when_s: float) -> float:
    """How much there was at a time; between two samples, in proportion."""
    place = bisect_right(timeline, when_s, key=lambda point: point[0])
    if place == 0:
        return timeline[0][1]
    if place == len(timeline):
        return timeline[-1][1]
    (before_s, before), (after_s, after) = timeline[place - 1], timeline[place]
    return before + (after - before) * (when_s - before_s) / (after_s - before_s)


def rate(timeline: Timeline, from_s: float, until_s: float) -> float:
    """How much a second came in between."""
    return (at(timeline, until_s) - at(timeline, from_s)) / (until_s - from_s)


def output(samples: Sequence[Sample], crowd: str) -> list[tuple[float, float]]:
    """The output tokens that a crowd had, over time."""
    return [(sample.at_s, sample.crowds[crowd].output_tokens) for sample in samples]


def service(samples: Sequence[Sample], crowd: str) -> list[tuple[float, float]]:
    """The service that a crowd had, over time, as its clients saw it."""
    told = ((sample.at_s, sample.crowds[crowd]) for sample in samples)
    return [
        (at_s, PROMPT_WEIGHT * had.prompt_tokens + OUTPUT_WEIGHT * had.output_tokens)
        for at_s, had in told
    ]


def jain(shares: Sequence[float]) -> float:
    """Jain's index: 1 if all are equal, 1/n if one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def difference_max(one: Timeline, other: Timeline) -> float:
    """The largest difference in what two had within any window of time: of all the differences
    of their sums so far, the highest less the lowest."""
    gaps = [have - at(other, when_s) for when_s, have in one]
    return max(gaps, default=0.0) - min(gaps, default=0.0)
