"""The query of death: by hand, and in pools where some requests kill every engine."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infer_daemon.domain.jobs import EngineName
from infer_daemon.engines.suspects import Seclusion, Suspects, Verdict

A, B, C = EngineName("a"), EngineName("b"), EngineName("c")


@pytest.fixture
def suspects() -> Suspects:
    """Of a pool of two engines."""
    return Suspects(engines=2)


def suspected(suspects: Suspects, *requests: str) -> None:
    """These requests become suspects, in this order."""
    for request in requests:
        suspects.died(A, {request: 1})
        assert suspects.died(B, {request: 2}) == {request: Verdict.SUSPECT}
    suspects.check()


def test_after_the_first_death_a_request_goes_on_like_any_other(suspects: Suspects) -> None:
    assert suspects.died(A, {"r1": 1, "r2": 1}) == {"r1": Verdict.GOES_ON, "r2": Verdict.GOES_ON}
    assert not suspects.is_suspect("r1")
    assert suspects.seclude({A: 0, B: 0}) is None


def test_after_the_second_it_is_a_suspect_and_the_others_are_not(suspects: Suspects) -> None:
    suspects.died(A, {"r1": 1})

    assert suspects.died(B, {"r1": 2, "r2": 1}) == {"r1": Verdict.SUSPECT, "r2": Verdict.GOES_ON}
    assert suspects.is_suspect("r1")


def test_after_the_third_it_is_ended_with_a_reason(suspects: Suspects) -> None:
    suspected(suspects, "r1")

    assert suspects.died(A, {"r1": 3}) == {"r1": Verdict.ENDED}
    assert "died 3 times" in suspects.reason("r1")
    assert not suspects.is_suspect("r1")


def test_deaths_that_it_has_met_elsewhere_count(suspects: Suspects) -> None:
    assert suspects.died(A, {"r1": 2}) == {"r1": Verdict.SUSPECT}
    assert suspects.died(B, {"r1": 3, "r2": 4}) == {"r1": Verdict.ENDED, "r2": Verdict.ENDED}
    suspects.check()


def test_a_suspect_gets_the_engine_with_the_least_work_once_that_is_empty(
    suspects: Suspects,
) -> None:
    suspected(suspects, "r1")

    assert suspects.seclude({A: 5, B: 3}) == Seclusion("r1", B, may_enter=False)
    assert suspects.seclude({A: 0, B: 2}) == Seclusion("r1", B, may_enter=False)
    assert suspects.seclude({A: 9, B: 0}) == Seclusion("r1", B, may_enter=True)


def test_a_suspect_never_gets_the_last_healthy_engine(suspects: Suspects) -> None:
    suspected(suspects, "r1")

    assert suspects.seclude({A: 0}) is None
    assert suspects.seclude({}) is None
    assert suspects.seclude({A: 0, B: 7}) == Seclusion("r1", A, may_enter=True)


def test_a_suspect_whose_engine_has_become_the_last_has_none_any_more(suspects: Suspects) -> None:
    suspected(suspects, "r1")
    suspects.seclude({A: 1, B: 0})

    assert suspects.seclude({B: 0}) is None


def test_if_its_engine_goes_before_it_is_empty_a_suspect_gets_another(suspects: Suspects) -> None:
    suspected(suspects, "r1")
    suspects.seclude({A: 1, B: 4, C: 6})
    suspects.died(A, {"other": 1})

    assert suspects.seclude({B: 4, C: 3}) == Seclusion("r1", C, may_enter=False)


def test_one_suspect_at_a_time_has_an_engine_of_its_own(suspects: Suspects) -> None:
    suspected(suspects, "r1", "r2")
    assert suspects.seclude({A: 0, B: 0}) == Seclusion("r1", A, may_enter=True)
    suspects.forget("r1")

    assert suspects.seclude({A: 1, B: 0}) == Seclusion("r2", B, may_enter=True)
    suspects.forget("r2")
    assert suspects.seclude({A: 1, B: 0}) is None
    suspects.check()


def test_a_suspect_that_is_given_up_while_it_waits_does_not_take_the_firsts_engine(
    suspects: Suspects,
) -> None:
    suspected(suspects, "r1", "r2")
    suspects.seclude({A: 0, B: 0})
    suspects.forget("r2")

    assert suspects.seclude({A: 5, B: 0}) == Seclusion("r1", A, may_enter=False)


def test_a_request_that_has_ended_is_forgotten(suspects: Suspects) -> None:
    suspected(suspects, "r1")
    suspects.forget("r1")
    suspects.forget("r1")

    suspects.check()
    assert suspects.first is None


def test_in_a_pool_of_one_engine_the_second_death_ends_a_request() -> None:
    suspects = Suspects(engines=1)
    suspects.died(A, {"r1": 1})

    assert suspects.died(A, {"r1": 2}) == {"r1": Verdict.ENDED}
    assert "died 2 times" in suspects.reason("r1")


@dataclass
class Pool:
    """Engines that die of some requests, and of nothing else."""

    engines: int
    killers: frozenset[str]
    random: Random
    restart_steps: int
    waiting: list[str]
    inside: dict[EngineName, set[str]] = field(init=False)
    """Of the engines that are healthy."""
    restarts: dict[EngineName, int] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    deaths: int = 0
    met: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.suspects = Suspects(self.engines)
        self.inside = {EngineName(f"e{number}"): set() for number in range(self.engines)}

    def step(self) -> None:
        self._restart()
        kept = self._place_suspect()
        free = [name for name in self.inside if name != kept]
        for request in list(self.waiting):
            if free and not self.suspects.is_suspect(request) and self.random.random() < 0.7:
                self.waiting.remove(request)
                self.inside[self.random.choice(free)].add(request)
        for engine in list(self.inside):
            self._work(engine)
        self.suspects.check()

    def _place_suspect(self) -> EngineName | None:
        others = {
            name: sum(not self.suspects.is_suspect(request) for request in requests)
            for name, requests in self.inside.items()
        }
        seclusion = self.suspects.seclude(others)
        for name, requests in self.inside.items():
            if seclusion is None or name != seclusion.engine:
                taken_back = {request for request in requests if self.suspects.is_suspect(request)}
                self.waiting += taken_back
                requests -= taken_back
        if seclusion is None:
            return None
        assert len(self.inside) >= 2, "the last healthy engine is kept for a suspect"
        if seclusion.may_enter and seclusion.request in self.waiting:
            assert not self.inside[seclusion.engine], "it is not alone"
            self.waiting.remove(seclusion.request)
            self.inside[seclusion.engine].add(seclusion.request)
        return seclusion.engine

    def _restart(self) -> None:
        for name in list(self.restarts):
            self.restarts[name] -= 1
            if not self.restarts[name]:
                del self.restarts[name]
                self.inside[name] = set()

    def _work(self, engine: EngineName) -> None:
        requests = self.inside[engine]
        if not requests & self.killers:
            finished = {request for request in requests if self.random.random() < 0.4}
            requests -= finished
            self.done |= finished
            for request in finished:
                self.suspects.forget(request)
            return
        del self.inside[engine]
        self.restarts[engine] = self.restart_steps
        self.deaths += 1
        self.met.update(requests)
        met = {request: self.met[request] for request in sorted(requests)}
        for request, verdict in self.suspects.died(engine, met).items():
            if verdict == Verdict.ENDED:
                self.ended.add(request)
                self.suspects.forget(request)
            else:
                self.waiting.append(request)


@given(
    engines=st.integers(2, 4),
    innocents=st.integers(0, 25),
    killers=st.integers(0, 4),
    restart_steps=st.integers(1, 5),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=100, deadline=None)
def test_killers_are_stopped_and_nobody_else_sees_a_failure(
    engines: int, innocents: int, killers: int, restart_steps: int, seed: int
) -> None:
    guilty = frozenset(f"k{number}" for number in range(killers))
    others = {f"r{number}" for number in range(innocents)}
    requests = sorted(guilty | others)
    Random(seed).shuffle(requests)
    pool = Pool(engines, guilty, Random(seed), restart_steps, list(requests))
    for _ in range(2000):
        pool.step()
        if len(pool.done) + len(pool.ended) == len(requests):
            break

    assert pool.done == others
    assert pool.ended == guilty
    assert pool.deaths <= 3 * killers
