"""Chats lose whole turns, oldest first; completions the beginning of their prompt."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer_daemon.admission.truncation import (
    DoesNotFit,
    Messages,
    Room,
    TruncatedChat,
    drop_oldest_turns,
    keep_tail,
    turn_starts,
)


def say(text: str) -> Messages:
    """A chat from letters: s(ystem), d(eveloper), u(ser), a(ssistant), t(ool). Each message is
    numbered and counts as ten tokens."""
    roles = {"s": "system", "d": "developer", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": roles[letter], "content": str(n)} for n, letter in enumerate(text)]


def numbers(chat: TruncatedChat) -> list[int]:
    return [int(message["content"]) for message in chat.messages]


class Counter:
    """Ten tokens a message; remembers how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, messages: Messages) -> int:
        self.calls += 1
        return 10 * len(messages)


@pytest.mark.parametrize(
    ("chat", "limit", "kept", "header"),
    [
        pytest.param("uaua", 40, [0, 1, 2, 3], "", id="what fits is left alone"),
        pytest.param("uauau", 30, [2, 3, 4], "turns=1 tokens=20", id="the oldest turn goes first"),
        pytest.param("uauau", 29, [4], "turns=2 tokens=40", id="a turn is dropped whole"),
        pytest.param("suauau", 20, [0, 5], "turns=2 tokens=40", id="instructions stay"),
        pytest.param("suadua", 40, [0, 3, 4, 5], "turns=1 tokens=20", id="also between turns"),
        pytest.param("uatatuau", 30, [5, 6, 7], "turns=1 tokens=50", id="results go with calls"),
        pytest.param("uuuu", 30, [1, 2, 3], "turns=1 tokens=10", id="users in a row"),
        pytest.param("sauau", 40, [0, 2, 3, 4], "turns=1 tokens=10", id="a greeting is a turn"),
        pytest.param("uauatat", 50, [2, 3, 4, 5, 6], "turns=1 tokens=20", id="the last turn stays"),
    ],
)
async def test_as_few_turns_as_possible_are_dropped(
    chat: str, limit: int, kept: list[int], header: str
) -> None:
    result = await drop_oldest_turns(say(chat), Room(limit, limit), Counter())

    assert (numbers(result), result.header) == (kept, header)


@pytest.mark.parametrize(
    ("chat", "limit", "least"),
    [
        pytest.param("uauau", 9, 10, id="the last turn"),
        pytest.param("suaua", 29, 30, id="instructions and the last turn"),
        pytest.param("u", 5, 10, id="a single message"),
        pytest.param("s", 5, 10, id="nothing but instructions"),
        pytest.param("aa", 15, 20, id="no user"),
    ],
)
async def test_what_cannot_fit_is_told_with_both_numbers(chat: str, limit: int, least: int) -> None:
    with pytest.raises(DoesNotFit) as caught:
        await drop_oldest_turns(say(chat), Room(limit, limit), Counter())

    assert (caught.value.least_tokens, caught.value.limit_tokens) == (least, limit)


@pytest.mark.parametrize(
    ("chat", "kept"),
    [
        pytest.param("uauau", [0, 1, 2, 3, 4], id="what fits is whole"),
        pytest.param("uauauau", [4, 5, 6], id="what does not is cut"),
        pytest.param("uauaatat", [2, 3, 4, 5, 6, 7], id="a long last turn"),
    ],
)
async def test_only_a_chat_that_does_not_fit_leaves_room_for_an_answer(
    chat: str, kept: list[int]
) -> None:
    result = await drop_oldest_turns(say(chat), Room(most_tokens=60, cut_tokens=30), Counter())

    assert numbers(result) == kept


async def test_long_chats_are_rendered_a_few_times_only() -> None:
    count = Counter()

    result = await drop_oldest_turns(say("ua" * 1000), Room(5000, 5000), count)

    assert result.turns_dropped == 750
    assert count.calls <= 12


async def test_nothing_is_searched_for_where_the_last_turn_alone_leaves_too_little_room() -> None:
    count = Counter()

    result = await drop_oldest_turns(say("ua" * 1000 + "uaaa"), Room(50, 30), count)

    assert (result.turns_dropped, count.calls) == (1000, 2)


def test_a_tools_result_that_a_user_brings_begins_no_turn() -> None:
    result = {"role": "user", "content": [{"type": "tool_result", "content": "4"}]}
    messages = [*say("ua"), result, *say("aua")]

    assert turn_starts(messages) == [0, 4]


async def test_items_that_are_no_messages_go_with_their_turn() -> None:
    messages: list[Any] = [*say("u"), {"type": "function_call"}, 7, *say("u")]

    result = await drop_oldest_turns(messages, Room(10, 10), Counter())

    assert result.messages == messages[-1:]


@given(chat=st.text("sduat", max_size=30), limit=st.integers(0, 320))
async def test_what_stays_is_all_instructions_and_whole_turns_at_the_end(
    chat: str, limit: int
) -> None:
    messages = say(chat)
    instructions = [n for n, letter in enumerate(chat) if letter in "sd"]
    starts = turn_starts(messages)
    allowed = [sorted({*instructions, *range(start, len(chat))}) for start in [0, *starts[1:]]]
    fitting = [kept for kept in allowed if 10 * len(kept) <= limit]

    try:
        result = await drop_oldest_turns(messages, Room(limit, limit), Counter())
    except DoesNotFit:
        assert not fitting
    else:
        assert numbers(result) == max(fitting, key=len)
        assert result.tokens_dropped == 10 * (len(chat) - len(result.messages))


@pytest.mark.parametrize(
    ("body", "tokens", "expected", "header"),
    [
        pytest.param({"prompt": "x"}, 200, {"prompt": "x"}, "", id="fits"),
        pytest.param(
            {"prompt": "x"}, 400, {"prompt": "x", "truncate_prompt_tokens": 100}, "tokens=300",
            id="is cut",
        ),
        pytest.param(
            {"truncation_side": "right"}, 201, {"truncate_prompt_tokens": 100}, "tokens=101",
            id="the other side is not asked for",
        ),
    ],
)  # fmt: skip
def test_a_completion_keeps_the_end_of_its_prompt(
    body: dict[str, Any], tokens: int, expected: dict[str, Any], header: str
) -> None:
    result = keep_tail(body, Room(200, 100), tokens)

    assert (result.body, result.header) == (expected, header)
