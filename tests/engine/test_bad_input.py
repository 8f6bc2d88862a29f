"""Whatever a client sends, it is told what is wrong with it, and the engine goes on."""

from typing import Any

import pytest
from harness import Running

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

ASK: list[Any] = [{"role": "user", "content": "What does a 429 mean?"}]
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
EMBEDDINGS, SCORE, RERANK = "/v1/embeddings", "/v1/score", "/v1/rerank"
INVALID, JSON, UNSUPPORTED = "invalid_request", "invalid_json", "unsupported"


def chat(**fields: Any) -> tuple[str, dict[str, Any]]:
    return CHAT, {"model": "demo", "messages": ASK, "max_tokens": 2, **fields}


def text(**fields: Any) -> tuple[str, dict[str, Any]]:
    return COMPLETIONS, {"model": "demo", "prompt": "The", "max_tokens": 2, **fields}


def schema(inner: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": inner}}


def tool(**function: Any) -> list[Any]:
    return [{"type": "function", "function": function}]


FIELDS = [
    (chat(messages="hello"), 400, INVALID),
    (chat(messages=None), 400, INVALID),
    (chat(messages=[]), 400, INVALID),
    (chat(messages=[3]), 400, INVALID),
    (chat(messages=[{"role": 7, "content": "x"}]), 400, INVALID),
    (chat(messages=[{"role": "user", "content": {"a": 1}}]), 400, INVALID),
    (chat(messages=[{"role": "user", "content": [{"type": "nonsense"}]}]), 400, INVALID),
    (chat(model="nobody"), 404, "model_not_found"),
    (chat(model=None), 404, "model_not_found"),
    (chat(model=7), 404, "model_not_found"),
    (chat(model="demo-broken"), 503, "model_not_ready"),
    (chat(n=1_000_000), 400, "fanout_too_large"),
    (chat(n=0), 400, INVALID),
    (chat(n=-1), 400, INVALID),
    (chat(n=100), 400, "fanout_too_large"),
    (chat(n="two"), 400, INVALID),
    (chat(max_tokens=-1), 400, INVALID),
    (chat(max_tokens=0), 400, INVALID),
    (chat(max_tokens="many"), 400, INVALID),
    (chat(max_tokens=2.5), 400, INVALID),
    (chat(temperature=-3), 400, INVALID),
    (chat(temperature="hot"), 400, INVALID),
    (chat(top_p=7), 400, INVALID),
    (chat(top_k=-7), 400, INVALID),
    (chat(min_p=2), 400, INVALID),
    (chat(presence_penalty=99), 400, INVALID),
    (chat(frequency_penalty=-99), 400, INVALID),
    (chat(repetition_penalty=0), 400, INVALID),
    (chat(seed="seven"), 400, INVALID),
    (chat(stop=7), 400, INVALID),
    (chat(logit_bias={"x": 1}), 400, INVALID),
    (chat(logit_bias={"999999": 1}), 400, INVALID),
    (chat(logprobs=True, top_logprobs=50), 400, INVALID),
    (chat(logprobs=True, top_logprobs=-2), 400, INVALID),
    (chat(top_logprobs=3), 400, INVALID),
    (chat(stream="perhaps"), 400, INVALID),
    (chat(stream_options={"include_usage": True}), 400, INVALID),
    (chat(use_beam_search=True, n=2), 400, UNSUPPORTED),
    (chat(response_format={"type": "nonsense"}), 400, INVALID),
    (chat(response_format={"type": "json_schema"}), 400, INVALID),
    (chat(response_format=schema({"type": "nonsense"})), 400, INVALID),
    (chat(response_format=schema({"$ref": "#/nowhere"})), 400, INVALID),
    (chat(structured_outputs={"regex": "((("}), 400, INVALID),
    (chat(structured_outputs=""), 400, INVALID),
    (chat(structured_outputs=[1]), 400, INVALID),
    (text(structured_outputs="a"), 400, INVALID),
    (chat(structured_outputs={"choice": []}), 400, INVALID),
    (chat(structured_outputs={"choice": [1, 2]}), 400, INVALID),
    (chat(structured_outputs={"grammar": "this is no grammar"}), 400, INVALID),
    (chat(structured_outputs={"regex": "a", "choice": ["a"]}), 400, INVALID),
    (chat(tools="hammer"), 400, INVALID),
    (chat(tools=[{"type": "function"}]), 400, INVALID),
    (chat(tools=tool(name="f", parameters="x")), 400, INVALID),
    (chat(tools=tool(name="f", parameters={}), tool_choice="perhaps"), 400, INVALID),
    (chat(tool_choice={"type": "function", "function": {"name": "nobody"}}), 400, INVALID),
    (chat(chat_template="{{ 1 / 0 }}"), 400, INVALID),
    (chat(messages=[{"role": "user", "content": "word " * 4000}]), 400, "context_length_exceeded"),
    (chat(stream=True, messages=[{"role": "user", "content": "word " * 4000}]), 400,
     "context_length_exceeded"),
    (text(prompt=None), 400, INVALID),
    (text(prompt=7), 400, INVALID),
    (text(prompt=[]), 400, INVALID),
    (text(prompt=[-1]), 400, INVALID),
    (text(prompt=[999_999]), 400, INVALID),
    (text(prompt=[["a"]]), 400, INVALID),
    (text(prompt="word " * 4000), 400, "context_length_exceeded"),
    (text(prompt=["a"] * 200), 400, "fanout_too_large"),
    (text(suffix="x"), 400, INVALID),
    (text(logprobs=-5), 400, INVALID),
    (text(stream=True, temperature=-1), 400, INVALID),
    ((RESPONSES, {"model": "demo", "input": 7}), 400, INVALID),
    ((RESPONSES, {"model": "demo", "input": "a", "previous_response_id": "r"}), 400, INVALID),
    ((RESPONSES, {"model": "demo", "input": "a", "max_output_tokens": -4}), 400, INVALID),
    ((MESSAGES, {"model": "demo", "messages": ASK}), 400, "invalid_request_error"),
    ((MESSAGES, {"model": "demo", "messages": 3, "max_tokens": 2}), 400, "invalid_request_error"),
    ((MESSAGES, {"model": "nobody", "messages": ASK, "max_tokens": 2}), 404, "not_found_error"),
    ((EMBEDDINGS, {"model": "minilm"}), 400, INVALID),
    ((EMBEDDINGS, {"model": "minilm", "input": 3}), 400, INVALID),
    ((EMBEDDINGS, {"model": "minilm", "input": "a", "dimensions": 7}), 400, INVALID),
    ((EMBEDDINGS, {"model": "minilm", "input": "a", "encoding_format": "morse"}), 400, INVALID),
    ((EMBEDDINGS, {"model": "minilm", "input": "word " * 4000}), 400, "context_length_exceeded"),
    ((EMBEDDINGS, {"model": "demo", "input": "a"}), 400, UNSUPPORTED),
    ((CHAT, {"model": "minilm", "messages": ASK}), 400, UNSUPPORTED),
    ((SCORE, {"model": "minilm", "text_1": "a"}), 400, INVALID),
    ((RERANK, {"model": "minilm", "query": "a", "documents": 3}), 400, INVALID),
    (("/tokenize", {"model": "demo", "prompt": 3}), 400, INVALID),
    (("/detokenize", {"model": "demo", "tokens": ["a"]}), 400, INVALID),
    (("/detokenize", {"model": "demo", "tokens": [-1]}), 400, INVALID),
    (("/v1/audio/transcriptions", {"model": "demo"}), 400, JSON),
]  # fmt: skip
RAW = [
    (b"", JSON),
    (b"{", JSON),
    (b"[]", JSON),
    (b"null", JSON),
    (b'{"model": "demo", "messages": NaN}', JSON),
    (b'{"model": "demo", "temperature": NaN, "messages": []}', JSON),
    (b'{"model": "\xff\xfe"}', JSON),
    (b"[" * 100_000, JSON),
    (b'{"a":' * 50_000, JSON),
    (b'{"model": "demo", "x": ' + b"[" * 400 + b"]" * 400 + b"}", JSON),
]


def _name(case: Any) -> str:
    (path, body), *_ = case
    usual = {"model": "demo", "messages": ASK, "prompt": "The", "max_tokens": 2}
    odd = {name: value for name, value in body.items() if usual.get(name) != value}
    return f"{path} {odd}"[:70]


@pytest.mark.parametrize(("request_", "status", "code"), FIELDS, ids=map(_name, FIELDS))
async def test_a_bad_field_is_named_and_the_engine_goes_on(
    vllm_daemon: Running, request_: tuple[str, dict[str, Any]], status: int, code: str
) -> None:
    path, body = request_
    async with vllm_daemon.http() as http:
        answer = await http.post(path, json=body)
        fine = await http.post(*chat()[:1], json=chat()[1])

    error = answer.json()["error"]
    assert (answer.status_code, error.get("code", error["type"])) == (status, code), error
    assert error["message"]
    assert "Traceback" not in answer.text
    assert fine.status_code == 200


@pytest.mark.parametrize(
    ("field", "value"), [("n", 0), ("n", "two"), ("n", 100), ("max_tokens", 0), ("temperature", -3)]
)
async def test_the_field_that_is_to_blame_is_told_apart(
    vllm_daemon: Running, field: str, value: object
) -> None:
    path, body = chat(**{field: value})
    async with vllm_daemon.http() as http:
        answer = await http.post(path, json=body)

    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(("raw", "code"), RAW, ids=[repr(raw[:30]) for raw, _ in RAW])
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS])
async def test_a_body_that_is_no_json_object_is_told_so(
    vllm_daemon: Running, path: str, raw: bytes, code: str
) -> None:
    async with vllm_daemon.http() as http:
        answer = await http.post(path, content=raw, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


@pytest.mark.parametrize(
    "regex",
    [
        "(a{1,999}){1,999}",
        "(((a{1,99}){1,99}){1,99}){1,99}",
        "(a+)+" * 50 + "b",
        "(.{1,200}){1,200}",
    ],
)
async def test_a_regex_that_explodes_in_others_does_not_here(
    vllm_daemon: Running, regex: str
) -> None:
    path, body = chat(structured_outputs={"regex": regex})
    async with vllm_daemon.http() as http:
        answer = await http.post(path, json=body)
        fine = await http.post(path, json=chat()[1])

    assert answer.status_code in (200, 400)
    assert fine.status_code == 200
