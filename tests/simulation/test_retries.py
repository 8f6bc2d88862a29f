"""A pool whose engines fail, on virtual time: what retries add to the load of those that do not."""

import heapq
import itertools
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest

from infer_daemon.engines.retries import RetryBudget, RetryPolicy

POLICY = RetryPolicy()
TRIES_MAX = 3
LIMIT = 1.1


@dataclass
class Pool:
    """Requests of several tenants come at random and go to engines in turn; what fails is tried on
    the next engine, if the budget has room."""

    engines: int
    failing: dict[int, float]
    """Engine -> share of its calls that fail."""
    budget: RetryBudget | None
    """None: everything is retried."""
    seed: int = 1
    rate: float = 200.0
    """Requests per second."""
    duration_s: float = 60.0
    first_tries: list[tuple[float, int]] = field(default_factory=list)
    """When, and on which engine."""
    retries: list[tuple[float, int]] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)

    def run(self) -> "Pool":
        print("seed", self.seed)
        random, number = Random(self.seed), itertools.count()
        # When it ends, a number to break ties, tenant, engine, which try it is.
        calls: list[tuple[float, int, str, int, int]] = []
        coming_s, turn = 0.0, itertools.count()
        while coming_s < self.duration_s or calls:
            if coming_s < self.duration_s and (not calls or coming_s < calls[0][0]):
                now_s, engine = coming_s, next(turn) % self.engines
                coming_s += random.expovariate(self.rate)
                tenant, tries = random.choice(["acme", "globex", "initech"]), 1
                self.first_tries.append((now_s, engine))
            else:
                now_s, _, tenant, engine, tries = heapq.heappop(calls)
                if random.random() >= self.failing.get(engine, 0.0):
                    self._succeeded(tenant, engine, tries, now_s)
                    continue
                if tries == TRIES_MAX or not self._may_retry(tenant, engine, now_s):
                    self.ended["failed"] += 1
                    continue
                engine, tries = (engine + 1) % self.engines, tries + 1
                self.retries.append((now_s, engine))
            ends_s = now_s + random.uniform(0.1, 1.0)
            heapq.heappush(calls, (ends_s, next(number), tenant, engine, tries))
        return self

    def _succeeded(self, tenant: str, engine: int, tries: int, now_s: float) -> None:
        self.ended["ok" if tries == 1 else "ok after retries"] += 1
        if self.budget is not None and tries == 1:
            self.budget.succeeded(tenant, str(engine), now_s)

    def _may_retry(self, tenant: str, engine: int, now_s: float) -> bool:
        return self.budget is None or self.budget.take(tenant, str(engine), now_s)

    def load_on_the_rest(self, begin_s: float, end_s: float) -> float:
        """Calls of the engines that do not fail, by those that they would have without retries."""
        first = _count(self.first_tries, self.failing, begin_s, end_s)
        return (first + _count(self.retries, self.failing, begin_s, end_s)) / first


def _count(
    calls: list[tuple[float, int]], failing: dict[int, float], begin_s: float, end_s: float
) -> int:
    return sum(begin_s <= at_s < end_s and engine not in failing for at_s, engine in calls)


@pytest.mark.parametrize("engines", [2, 3, 4, 8])
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_engine_that_fails_adds_at_most_a_tenth_to_the_load_of_the_rest(
    engines: int, share: float, seed: int
) -> None:
    pool = Pool(engines, {0: share}, RetryBudget(POLICY), seed).run()

    assert pool.load_on_the_rest(0.0, 60.0) <= LIMIT
    # In any window as long as the budget's, once successes are known. A window of successes is not
    # exactly one of arrivals: random arrivals differ by some percent of that tenth.
    for begin_s in range(10, 45):
        assert pool.load_on_the_rest(begin_s, begin_s + POLICY.window_s) <= LIMIT + 0.02


def test_without_a_budget_the_same_failures_add_much_more() -> None:
    assert Pool(2, {0: 0.5}, None).run().load_on_the_rest(0.0, 60.0) > 1.4


def test_a_few_failures_are_all_retried_and_nobody_sees_them() -> None:
    pool = Pool(4, {0: 0.1}, RetryBudget(POLICY)).run()

    assert pool.ended["failed"] == 0
    assert pool.ended["ok after retries"] > 100


def test_if_every_engine_fails_half_of_the_time_calls_are_not_multiplied() -> None:
    pool = Pool(3, dict.fromkeys(range(3), 0.5), RetryBudget(POLICY)).run()

    assert len(pool.retries) / len(pool.first_tries) <= LIMIT - 1


def test_an_outage_of_everything_is_not_made_larger() -> None:
    pool = Pool(3, dict.fromkeys(range(3), 1.0), RetryBudget(POLICY)).run()

    windows = 60.0 / POLICY.window_s
    assert len(pool.retries) <= POLICY.floor * (windows + 1)
