"""Whether an answer goes round in circles."""

from itertools import cycle, islice

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from infer_daemon.engines.repetition import (
    GRAM,
    PERIOD_MAX,
    REPEATS_MIN,
    TOKENS_MIN,
    LoopWatch,
)


def found_at(tokens: list[int]) -> int | None:
    """After how many tokens a loop is seen, when they come one by one."""
    watch = LoopWatch()
    for token in tokens:
        watch.add([token])
    return watch.found_at


def times(body: list[int], count: int) -> list[int]:
    return list(islice(cycle(body), count))


def is_loop(tokens: list[int]) -> bool:
    """Whether its end is one, by comparing everything with everything."""
    for period in range(1, len(tokens)):
        run = 0
        while run + period < len(tokens) and tokens[-1 - run] == tokens[-1 - run - period]:
            run += 1
        if run // period + 1 >= REPEATS_MIN and run + period >= TOKENS_MIN:
            return True
    return False


def test_different_tokens_are_no_loop() -> None:
    assert found_at(list(range(5000))) is None


@pytest.mark.parametrize("period", [1, 2, 3, 7, 12])
def test_a_short_loop_is_seen_when_it_is_long_enough(period: int) -> None:
    body = list(range(100, 100 + period))

    assert found_at(list(range(50)) + times(body, 200)) == 50 + TOKENS_MIN


@pytest.mark.parametrize("period", [13, 40, 300, PERIOD_MAX - 1])
def test_a_long_one_when_it_has_gone_round_often_enough(period: int) -> None:
    body = list(range(1000, 1000 + period))

    assert found_at(list(range(50)) + times(body, 6 * period)) == 50 + REPEATS_MIN * period


def test_what_repeats_itself_a_few_times_is_no_loop() -> None:
    paragraph = list(range(100))

    assert found_at(paragraph * (REPEATS_MIN - 1)) is None


def test_a_row_of_dashes_is_no_loop() -> None:
    assert found_at([1, 2, *[7] * (TOKENS_MIN - 1), 3, 4] * 4) is None


def test_a_loop_that_has_the_same_token_twice_is_seen() -> None:
    assert found_at(times([1, 1, 2, 1, 3], 200)) is not None


def test_what_is_longer_than_the_longest_period_is_not_looked_for() -> None:
    assert found_at(times(list(range(PERIOD_MAX + 1)), 20 * PERIOD_MAX)) is None


def test_a_loop_once_seen_is_never_forgotten() -> None:
    watch = LoopWatch()
    assert watch.add([1] * 100)

    assert watch.add(range(1000, 9000))
    assert watch.found_at == TOKENS_MIN


def test_tokens_may_come_many_at_a_time() -> None:
    watch = LoopWatch()

    assert not watch.add([])
    assert watch.add(times([1, 2, 3], 100))
    assert watch.found_at == found_at(times([1, 2, 3], 100))


def test_what_is_remembered_of_a_long_answer_is_bounded() -> None:
    watch = LoopWatch()
    watch.add(range(100_000))

    assert len(watch._places) <= PERIOD_MAX
    assert len(watch._last) <= PERIOD_MAX


@given(
    before=st.lists(st.integers(0, 9), max_size=60),
    body=st.lists(st.integers(0, 9), min_size=1, max_size=30),
)
def test_every_loop_without_the_same_four_tokens_twice_is_found(
    before: list[int], body: list[int]
) -> None:
    wrapped = times(body, len(body) + GRAM - 1)
    grams = [tuple(wrapped[at : at + GRAM]) for at in range(len(body))]
    assume(len(set(grams)) == len(grams))
    # What comes before may lead to another period at first, for as long as that goes on.
    rounds = max(TOKENS_MIN, (REPEATS_MIN + 2) * len(body)) + 3 * len(body) + len(before)

    assert found_at(before + times(body, rounds)) is not None


@given(tokens=st.lists(st.integers(0, 2), max_size=200))
def test_whatever_is_called_a_loop_is_one(tokens: list[int]) -> None:
    at = found_at(tokens)

    assert at is None or is_loop(tokens[:at])
