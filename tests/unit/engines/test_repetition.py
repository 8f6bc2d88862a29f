"""Whether an answer goes round in circles."""

from itertools import cycle, islice

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from infer_daemon.engines.repetition import (
    GRAM,
    PERIOD_MAX,
    REPEATS_MIN,
    STRIDE,
    TOKENS_MIN,
    has_loop,
)


def times(body: list[int], count: int) -> list[int]:
    return list(islice(cycle(body), count))


def is_loop_somewhere(tokens: list[int]) -> bool:
    """By comparing everything with everything."""
    for period in range(1, len(tokens)):
        run = 0
        for at in range(period, len(tokens)):
            run = run + 1 if tokens[at] == tokens[at - period] else 0
            if run // period + 1 >= REPEATS_MIN and run + period >= TOKENS_MIN:
                return True
    return False


def test_different_tokens_are_no_loop() -> None:
    assert not has_loop(list(range(5000)))


def test_a_short_answer_is_none() -> None:
    assert not has_loop([])
    assert not has_loop([1] * (TOKENS_MIN - 1))


@pytest.mark.parametrize("period", [1, 2, 3, 7, 12])
def test_a_short_loop_at_the_end_is_seen_when_it_is_long_enough(period: int) -> None:
    body = list(range(100, 100 + period))

    assert has_loop(list(range(50)) + times(body, TOKENS_MIN))
    assert not has_loop(list(range(50)) + times(body, TOKENS_MIN - 1))


@pytest.mark.parametrize("period", [13, 40, 300, PERIOD_MAX])
def test_a_long_one_when_it_has_gone_round_often_enough(period: int) -> None:
    body = list(range(1000, 1000 + period))

    assert has_loop(list(range(50)) + body * REPEATS_MIN)
    assert not has_loop(list(range(50)) + (body * REPEATS_MIN)[1:])


@pytest.mark.parametrize("after", [0, 1, 63, 64, 500])
@pytest.mark.parametrize("period", [1, 5, 40])
def test_one_from_which_the_answer_came_back_is_seen(period: int, after: int) -> None:
    body = list(range(1000, 1000 + period))
    loop = times(body, max(TOKENS_MIN, REPEATS_MIN * period) + STRIDE)

    assert has_loop(list(range(100)) + loop + list(range(2000, 2000 + after)))


def test_what_repeats_itself_a_few_times_is_no_loop() -> None:
    assert not has_loop(list(range(100)) * (REPEATS_MIN - 1))


def test_a_row_of_dashes_is_no_loop() -> None:
    assert not has_loop([1, 2, *[7] * (TOKENS_MIN - 1), 3, 4] * 4)


def test_a_loop_that_has_the_same_token_twice_is_seen() -> None:
    assert has_loop(times([1, 1, 2, 1, 3], 200))


def test_what_is_longer_than_the_longest_period_is_not_looked_for() -> None:
    assert not has_loop(times(list(range(PERIOD_MAX + 1)), 20 * PERIOD_MAX))


def test_bytes_that_are_the_same_in_the_middle_of_two_tokens_are_not_the_same_tokens() -> None:
    # Laid out, the bytes of each second token repeat themselves one byte later.
    assert has_loop([0x01010101] * 100)
    assert not has_loop([0x01010101 * (1 + at % 2) + at for at in range(200)])


@given(
    before=st.lists(st.integers(0, 9), max_size=60),
    body=st.lists(st.integers(0, 9), min_size=1, max_size=30),
)
def test_every_loop_without_the_same_tokens_twice_is_found(
    before: list[int], body: list[int]
) -> None:
    wrapped = times(body, len(body) + GRAM - 1)
    grams = [tuple(wrapped[at : at + GRAM]) for at in range(len(body))]
    assume(len(set(grams)) == len(grams))

    assert has_loop(before + times(body, max(TOKENS_MIN, REPEATS_MIN * len(body)) + GRAM))


@given(tokens=st.lists(st.integers(0, 2), max_size=200))
def test_whatever_is_called_a_loop_is_one(tokens: list[int]) -> None:
    assert not has_loop(tokens) or is_loop_somewhere(tokens)
