"""What a request says of itself, and what it may not."""

import pytest

from infer_daemon.admission import asks
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import ClientError
from infer_daemon.domain.jobs import Tier


@pytest.mark.parametrize(
    ("header", "body", "tier"),
    [
        (None, {}, None),
        (None, {"service_tier": "auto"}, None),
        (None, {"service_tier": None}, None),
        (None, {"service_tier": "scale"}, None),
        (None, {"service_tier": "standard_only"}, None),
        (None, {"service_tier": "default"}, Tier.INTERACTIVE),
        (None, {"service_tier": "priority"}, Tier.CRITICAL),
        (None, {"service_tier": "flex"}, Tier.BATCH),
        ("critical", {"service_tier": "flex"}, Tier.CRITICAL),
        (" Batch ", {}, Tier.BATCH),
    ],
)
def test_a_class_is_named_by_header_or_body_and_the_header_wins(
    header: str | None, body: dict[str, object], tier: Tier | None
) -> None:
    assert asks.tier(header, body) == tier


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("", {}),
        ("urgent", {}),
        ("0", {}),
        ("critical, batch", {}),
        (None, {"service_tier": "batch"}),
        (None, {"service_tier": 1}),
        (None, {"service_tier": ["priority"]}),
        (None, {"service_tier": {}}),
    ],
)
def test_a_class_that_does_not_exist_is_refused_by_name(
    header: str | None, body: dict[str, object]
) -> None:
    with pytest.raises(ClientError, match=r"critical|priority") as caught:
        asks.tier(header, body)
    assert caught.value.param in ("x-priority", "service_tier")


@pytest.mark.parametrize(("header", "seconds"), [(None, None), ("1", 0.001), (" 2500 ", 2.5)])
def test_a_deadline_is_so_many_milliseconds_from_now(
    header: str | None, seconds: float | None
) -> None:
    assert asks.deadline_s(header) == seconds


@pytest.mark.parametrize(
    "header",
    ["", "0", "-5", "1.5", "soon", "1e3", "٣", "9" * 20, "86400001", "000000000001" + "0" * 4300],
)
def test_a_deadline_in_the_past_or_the_absurd_future_is_refused(header: str) -> None:
    with pytest.raises(ClientError, match="milliseconds"):
        asks.deadline_s(header)


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        ("chat", {}, None),
        ("chat", {"max_tokens": 5}, 5),
        ("chat", {"max_tokens": 5, "max_completion_tokens": 7}, 7),
        ("chat", {"max_tokens": 5, "max_completion_tokens": None}, 5),
        ("chat", {"max_output_tokens": 1}, None),
        ("completions", {"max_tokens": 5, "max_completion_tokens": 1}, 5),
        ("responses", {"max_output_tokens": 9, "max_tokens": 1}, 9),
        ("messages", {"max_tokens": 5, "max_completion_tokens": 1, "max_output_tokens": 1}, 5),
        ("embeddings", {"max_tokens": 5}, None),
    ],
)
def test_a_length_is_read_where_its_endpoint_has_it(
    endpoint: str, body: dict[str, object], tokens: int | None
) -> None:
    assert asks.output_tokens(Endpoint(endpoint), body) == tokens


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (True, 1),
        (4000.0, 4000),
        ("4000", 4000),
        (" 4000 ", 4000),
        ("+4_000", 4000),
        ("4000.00", 4000),
        ("0" * 5000 + "7", 7),
        (False, None),
        (-1, None),
        (0, None),
        (4000.5, None),
        (1e400, None),
        (float("nan"), None),
        ("4e3", None),
        ("1_", None),
        ("1__0", None),
        (" 7\x1c", 7),
        ("\x857\u2003", 7),
        ("4000.", None),
        ("٤", None),
        ("-5", None),
        ("9" * 5000, None),
        ("", None),
        ([5], None),
    ],
)
def test_a_length_is_read_in_every_way_in_which_the_front_end_takes_it(
    value: object, tokens: int | None
) -> None:
    assert asks.output_tokens(Endpoint.CHAT, {"max_tokens": value}) == tokens


def test_less_is_asked_for_where_the_request_said_how_much() -> None:
    body = {"max_tokens": 5, "max_completion_tokens": 7, "n": 2}

    assert asks.with_output_tokens(Endpoint.CHAT, body, 3) == {**body, "max_completion_tokens": 3}
    assert asks.with_output_tokens(Endpoint.COMPLETIONS, body, 3) == {**body, "max_tokens": 3}


@pytest.mark.parametrize(
    ("body", "length"),
    [
        ({}, 0),
        ({"prompt": "abc"}, 3),
        ({"prompt": ["ab", "c"]}, 2),
        ({"prompt": [1, 2, 3]}, 3),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": [None, 7, "ab", {}]}, 2),
        ({"prompt": []}, 0),
        ({"input": "abcd"}, 4),
        ({"input": ["abcd"] * 100}, 4),
        ({"input": [{"content": "ab"}, {"content": "cd"}], "instructions": "e"}, 5),
        ({"messages": [{"content": "ab"}, {"content": [{"text": "c"}, {"image_url": {}}]}]}, 3),
        ({"messages": [{"content": ["ab", "c"]}]}, 3),
        ({"messages": [{"content": None}, 7, {}], "system": "xy"}, 2),
        ({"messages": "abc", "instructions": {"a": 1}}, 3),
        ({"messages": [{"tool_calls": [{"function": {"name": "f", "arguments": "abc"}}]}]}, 4),
        ({"messages": [{"tool_calls": [{"function": {"arguments": {"a": 1}}}]}]}, 8),
        ({"messages": [{"content": [{"type": "tool_use", "name": "f", "input": {"a": 1}}]}]}, 9),
        ({"messages": [{"content": "ab", "tool_call_id": "c1", "role": "tool"}]}, 4),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "abc"}]}, 4),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "abc"}]}, 4),
    ],
)
def test_all_text_of_a_conversation_counts_and_of_several_prompts_the_longest(
    body: dict[str, object], length: int
) -> None:
    assert asks.longest_text(body) == length


@pytest.mark.parametrize(
    ("endpoint", "body", "expected"),
    [
        ("chat", {}, False),
        ("embeddings", {"truncate_prompt_tokens": None}, False),
        ("embeddings", {"truncate_prompt_tokens": -1}, True),
        ("responses", {"truncation": "disabled"}, False),
        ("responses", {"truncation": None}, False),
        ("responses", {"truncation": "auto"}, True),
        ("tokenize", {}, True),
        ("detokenize", {}, True),
        ("count_tokens", {}, True),
    ],
)
def test_what_is_only_counted_or_cut_by_its_client_may_be_any_length(
    endpoint: str, body: dict[str, object], expected: bool
) -> None:
    assert asks.may_be_any_length(Endpoint(endpoint), body) is expected


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({}, 1),
        ({"n": 3}, 3),
        ({"prompt": "a", "n": 3}, 3),
        ({"prompt": ["a", "b"], "n": 3}, 6),
        ({"prompt": [1, 2, 3]}, 1),
        ({"prompt": [[1, 2], [3]]}, 2),
        ({"prompt": [], "n": "many"}, 1),
        ({"n": -1}, 1),
    ],
)
def test_generations_are_n_times_the_prompts(body: dict[str, object], count: int) -> None:
    assert asks.generations(body) == count
