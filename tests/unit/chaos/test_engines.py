import pytest

from infer_daemon.bench.wire import Address
from infer_daemon.chaos.blows import Blow, starts
from infer_daemon.chaos.crowd import Asked, Crowd
from infer_daemon.chaos.engine_log import Change
from infer_daemon.chaos.engines import STREAMS_MIN, ttft_target
from infer_daemon.chaos.questions import questions
from infer_daemon.chaos.run import Findings

STREAM = next(q for q in questions(["demo"]) if q.is_stream)


def changes(*states: str) -> list[Change]:
    return [Change(float(at), "a", state, "") for at, state in enumerate(states)]


def test_a_start_begins_with_the_first_of_its_steps() -> None:
    told = changes("ready", "stopping", "dead", "waiting", "starting", "starting", "starting")

    assert [change.at_s for change in starts(told)] == [4.0]


def test_a_start_that_failed_is_another_start() -> None:
    told = changes("waiting", "starting", "starting", "stopping", "dead", "waiting", "starting")

    assert [change.at_s for change in starts(told)] == [1.0, 6.0]


def test_a_blow_tells_what_the_recovery_took_beside_the_start() -> None:
    struck = Blow("a", at_s=10.0, seen_s=10.2, starting_s=11.0, ready_s=41.0, reason="killed")

    assert struck.seen_after_s == pytest.approx(0.2)
    assert struck.start_s == 30.0
    assert struck.back_after_s == pytest.approx(0.8)


def crowd_of(begun_ttft: list[tuple[float, float]]) -> Crowd:
    asked = [
        Asked(question=STREAM, tenant="acme", begun_s=begun_s, first_s=begun_s + ttft_s)
        for begun_s, ttft_s in begun_ttft
    ]
    return Crowd(Address("", 0), [STREAM], asked=asked)


def test_streams_that_begin_while_one_restarts_are_compared_with_those_before() -> None:
    struck = [Blow("a", at_s=100.0, seen_s=101.0, starting_s=102.0, ready_s=200.0, reason="")]
    peace = [(index / 10, 0.1) for index in range(STREAMS_MIN)]
    hit = [(100.5, 9.0)]  # in the engine that died: its wait is that of its own
    war = [(110 + index / 10, 0.2) for index in range(STREAMS_MIN)]
    found = ttft_target(crowd_of(peace + hit + war), 0.0, struck, Findings())

    assert found.value == pytest.approx(2.0)
    assert found.verdict == "met"


def test_of_a_few_streams_nothing_is_told() -> None:
    struck = [Blow("a", at_s=100.0, seen_s=101.0, starting_s=102.0, ready_s=200.0, reason="")]

    assert ttft_target(crowd_of([(1.0, 0.1)]), 0.0, struck, Findings()).verdict == "not seen"
