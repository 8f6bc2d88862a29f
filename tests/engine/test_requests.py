"""Requests are made of bodies as vLLM makes them, but the first error of a list is the last."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses import utils
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest

from infer_daemon.domain.errors import ClientError
from infer_daemon.engines.vllm.conversion import ItemsConversion, MessagesConversion
from infer_daemon.engines.vllm.requests import Validator, is_long

pytestmark = pytest.mark.vllm

ASK = {"role": "user", "content": "hi"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "hi"}] * 3}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "1", "content": "4"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatCompletionRequest, {"messages": [ASK, CALLED, RESULT, PARTS], "tools": [TOOL]}),
        (ChatCompletionRequest, {"messages": [ASK], "logit_bias": {"5": 1}, "stop": ["a", "b"]}),
        (ResponsesRequest, {"input": [ASK, {"type": "message", **ASK}]}),
        (AnthropicMessagesRequest, {"messages": [ASK, PARTS], "max_tokens": 5}),
        (EmbeddingRequest, {"input": [[1, 2], [3]]}),
        (EmbeddingRequest, {"input": ["a", "b"]}),
    ],
)
def test_a_request_is_the_same(kind: Any, body: dict[str, Any]) -> None:
    body = {"model": "demo", **body}

    ours = Validator(kind).validate(body)
    theirs = TypeAdapter(kind).validate_python(body)

    assert type(ours) is type(theirs)
    ids = {"request_id"}  # made up for each
    assert ours.model_dump(exclude=ids) == theirs.model_dump(exclude=ids)


USE = {"type": "tool_use", "id": "1", "name": "f", "input": {"x": 1}}
USED = {"type": "tool_result", "tool_use_id": "1", "content": "4"}
CLAUDES_TOOL = {"name": "f", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [ASK, PARTS]},
        {"messages": [ASK], "system": "Be brief.", "temperature": 0.5, "stream": True},
        {"messages": [ASK], "thinking": {"type": "enabled", "budget_tokens": 1024}},
        {
            "messages": [
                ASK, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [USED]}
            ],
            "tools": [CLAUDES_TOOL],
            "tool_choice": {"type": "tool", "name": "f"},
        },
    ],
)  # fmt: skip
def test_messages_become_the_same_chat(body: dict[str, Any]) -> None:
    handler = object.__new__(AnthropicServingMessages)
    handler._merge_inline_system = False
    fields = {"model": "demo", "max_tokens": 2048, **body}
    request = Validator(AnthropicMessagesRequest).validate(fields)
    theirs = handler.to_chat_completion_request(request, merge_inline_system=False)

    conversion = MessagesConversion(handler)
    ours = conversion.run(request)
    conversion.keep(request, ours)

    assert ours.model_dump(exclude={"request_id"}) == theirs.model_dump(exclude={"request_id"})
    assert ours.model_fields_set == theirs.model_fields_set
    assert handler.to_chat_completion_request(request, merge_inline_system=False) is ours
    assert handler.to_chat_completion_request(request, merge_inline_system=False) is not ours


ITEM_CALL = {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"}
ITEM_RESULT = {"type": "function_call_output", "call_id": "1", "output": "4"}
ANSWERED = {"role": "assistant", "content": "wait"}
SECRET = {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"}


def test_items_become_the_same_messages_and_are_converted_once() -> None:
    theirs = utils.construct_chat_messages_with_tool_call
    validator = Validator(ResponsesRequest)
    fields = {"model": "demo", "input": [ASK, ANSWERED, ITEM_CALL, ITEM_RESULT, ASK]}
    expected = theirs(validator.validate(fields).input)

    request, conversion = validator.validate(fields), ItemsConversion()
    ours = conversion.run(request)
    conversion.keep(request, ours)

    assert ours == expected
    assert [len(message.get("tool_calls", [])) for message in ours] == [0, 1, 0, 0]
    found = utils.construct_input_messages(request_instructions="Be.", request_input=request.input)
    assert found == [{"role": "system", "content": "Be."}, *expected]
    assert found[1] is ours[0]
    other = validator.validate(fields)
    again = utils.construct_input_messages(request_input=other.input)
    assert again == expected
    assert again is not ours


@pytest.mark.parametrize("items", ["just a text", [ASK, SECRET]])
def test_items_that_only_the_handler_can_make_messages_of_are_left_to_it(items: Any) -> None:
    request = Validator(ResponsesRequest).validate({"model": "demo", "input": items})

    assert ItemsConversion().run(request) is None


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatCompletionRequest, {"messages": [{}] * 1000}),
        (ChatCompletionRequest, {"messages": [{"role": "nobody", "content": [7] * 1000}]}),
        (ChatCompletionRequest, {"messages": [ASK], "tools": [None] * 1000}),
        (ChatCompletionRequest, {"messages": [ASK], "bad_words": [None] * 1000}),
        (ChatCompletionRequest, {"messages": [ASK], "logit_bias": dict.fromkeys("abcdefgh")}),
        (ResponsesRequest, {"input": [{}] * 1000}),
        (AnthropicMessagesRequest, {"messages": [{}] * 1000, "max_tokens": 5}),
        (EmbeddingRequest, {"input": [None] * 1000}),
        (EmbeddingRequest, {"input": [[None] * 1000] * 1000}),
    ],
)
def test_errors_are_as_many_as_one_wrong_item_makes(kind: Any, body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Validator(kind).validate({"model": "demo", **body})

    assert caught.value.error_count() < 300


@pytest.mark.parametrize("value", ["", "a", [1], 7])
@pytest.mark.parametrize("kind", [ChatCompletionRequest, CompletionRequest])
def test_what_vllms_own_checks_stumble_over_is_the_clients_fault(kind: Any, value: Any) -> None:
    body = {"model": "demo", "messages": [ASK], "prompt": "a", "structured_outputs": value}

    with pytest.raises((ClientError, ValidationError)):
        Validator(kind).validate(body)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"messages": [ASK] * 100, "prompt": "x" * 1_000_000}, False),
        ({"messages": [ASK] * 300}, True),
        ({"messages": [ASK, {"role": "user", "content": PARTS["content"] * 100}]}, True),
        ({"messages": [{"role": "user", "content": PARTS["content"]}] * 100}, True),
        ({"messages": [{"role": "user", "content": PARTS["content"]}] * 80}, False),
        ({"input": [1] * 300}, True),
        ({"messages": [7, None, {"content": 7}]}, False),
    ],
)
def test_what_has_many_items_is_long(body: dict[str, Any], expected: bool) -> None:
    assert is_long(body) is expected
