"""What the ledger has of a request is what its client was told, and what the engine counted."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from harness import ASK, CHAT, Running, left
from prometheus_client.parser import text_string_to_metric_families
from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata
from vllm.entrypoints.openai.responses.protocol import (
    InputTokensDetails,
    OutputTokensDetails,
    ResponseUsage,
)
from vllm.entrypoints.serve.engine.protocol import CompletionTokenUsageInfo, UsageInfo

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.vllm.usage import note_reasoning

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

COMPLETIONS, RESPONSES, MESSAGES = "/v1/completions", "/v1/responses", "/v1/messages"
LONG = [{"role": "user", "content": "What does a 429 mean? " * 30}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}
DEMO = {"model": "demo", "max_tokens": 12}
GENERATED = [
    pytest.param(CHAT, {"messages": ASK}, id="chat"),
    pytest.param(CHAT, {"messages": LONG}, id="a long chat"),
    pytest.param(CHAT, {"messages": ASK, "max_tokens": 1}, id="one token"),
    pytest.param(CHAT, {"messages": ASK, "n": 3}, id="chat, n"),
    pytest.param(
        CHAT, {"messages": ASK, "n": 3, "temperature": 0.1, "max_tokens": 200}, id="eos, n"
    ),
    pytest.param(CHAT, {"messages": ASK, "logprobs": True, "top_logprobs": 2}, id="logprobs"),
    pytest.param(CHAT, {"messages": ASK, "stop": ["e", "a"], "max_tokens": 50}, id="stop"),
    pytest.param(
        CHAT,
        {"messages": ASK, "tools": [TOOL], "tool_choice": "required", "max_tokens": 100},
        id="a tool that must be called",
    ),
    pytest.param(
        CHAT,
        {
            "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
            "tools": [TOOL],
            "temperature": 0,
            "max_tokens": 100,
        },
        id="a tool that may be called",
    ),
    pytest.param(
        CHAT, {"messages": ASK, "response_format": FORMAT, "max_tokens": 60}, id="a schema"
    ),
    pytest.param(CHAT, {"messages": ASK, "model": "demo-pirate"}, id="an adapter"),
    pytest.param(CHAT, {"messages": ASK, "model": "demo-brief", "n": 2}, id="an adapter, n"),
    pytest.param(CHAT, {"messages": ASK, "model": "demo-small"}, id="without cached tokens told"),
    pytest.param(COMPLETIONS, {"prompt": "The first request"}, id="completion"),
    pytest.param(COMPLETIONS, {"prompt": ["one two three", "four", "five"]}, id="prompts"),
    pytest.param(COMPLETIONS, {"prompt": ["one two", "three"], "n": 2}, id="prompts, n"),
    pytest.param(COMPLETIONS, {"prompt": [[1, 2, 3, 4], [5, 6]]}, id="token ids"),
    pytest.param(COMPLETIONS, {"prompt": "one two three", "echo": True}, id="echo"),
    pytest.param(COMPLETIONS, {"prompt": "one two", "echo": True, "max_tokens": 0}, id="only echo"),
    pytest.param(COMPLETIONS, {"prompt": "and so on " * 99, "truncate_prompt_tokens": 9}, id="cut"),
    pytest.param(RESPONSES, {"input": "What does a 429 mean?"}, id="responses"),
    pytest.param(RESPONSES, {"input": ASK, "instructions": "Be brief."}, id="instructions"),
    pytest.param(MESSAGES, {"messages": ASK, "system": "Be brief."}, id="messages"),
    pytest.param(
        MESSAGES,
        {
            "messages": ASK,
            "tools": [{"name": "get_weather", "input_schema": PARAMETERS}],
            "tool_choice": {"type": "any"},
            "max_tokens": 100,
        },
        id="messages with a tool",
    ),
]
POOLED = [
    pytest.param("/v1/embeddings", {"input": "one two three"}, id="embedding"),
    pytest.param("/v1/embeddings", {"input": ["one two three", "four"] * 20}, id="embeddings"),
    pytest.param("/v1/embeddings", {"input": [[7, 8, 9], [10]]}, id="token ids"),
    pytest.param(
        "/v1/embeddings", {"input": "one two three four", "truncate_prompt_tokens": 3}, id="cut"
    ),
    pytest.param("/v1/score", {"text_1": "one", "text_2": "two three"}, id="score"),
    pytest.param("/v1/score", {"text_1": "one", "text_2": ["two three", "four"]}, id="scores"),
    pytest.param(
        "/v1/rerank", {"query": "one", "documents": ["two three", "four", "five"]}, id="rerank"
    ),
    pytest.param("/pooling", {"input": ["one two", "three"]}, id="pooling"),
]


def row_of(running: Running, request_id: str) -> dict[str, Any]:
    """As anybody reads it beside the daemon."""
    path = running.socket.parent / "ledger.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        row = connection.execute("SELECT * FROM requests WHERE id = ?", [request_id]).fetchone()
    return dict(row)


def usage_of(answer: httpx.Response) -> dict[str, Any]:
    """What a client was told last, whole or in events."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        return dict(answer.json()["usage"])
    told: dict[str, Any] = {}
    for line in answer.text.splitlines():
        if line.startswith("data: {"):
            event = json.loads(line.removeprefix("data: "))
            for place in (event, event.get("response") or {}, event.get("message") or {}):
                told |= place.get("usage") or {}
    return told


def tokens_of(path: str, usage: dict[str, Any]) -> tuple[int, int]:
    """(of the prompt, of the completion), by the names that each endpoint has for them."""
    if path == MESSAGES:  # Anthropic counts what was cached by itself
        cached = usage.get("cache_read_input_tokens") or 0
        return usage["input_tokens"] + cached, usage["output_tokens"]
    if path == RESPONSES:
        return usage["input_tokens"], usage["output_tokens"]
    if "prompt_tokens" not in usage:
        return usage["total_tokens"], 0
    return usage["prompt_tokens"], usage.get("completion_tokens") or 0


def body_of(path: str, fields: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    body = {**DEMO, **fields, "stream": stream}
    if path == RESPONSES:
        body["max_output_tokens"] = body.pop("max_tokens")
    if stream and path in (CHAT, COMPLETIONS):
        body["stream_options"] = {"include_usage": True}
    return body


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("path", "fields"), GENERATED)
async def test_the_ledger_has_the_tokens_that_the_client_was_told(
    vllm_daemon: Running, path: str, fields: dict[str, Any], stream: bool
) -> None:
    async with vllm_daemon.http() as http:
        answer = await http.post(path, json=body_of(path, fields, stream=stream))
    assert answer.status_code == 200, answer.text

    row = row_of(vllm_daemon, answer.headers["x-request-id"])

    assert row["outcome"] == "ok"
    told = tokens_of(path, usage_of(answer))
    assert (row["prompt_tokens"], row["completion_tokens"]) == told


@pytest.mark.parametrize(("path", "fields"), POOLED)
async def test_the_ledger_has_the_tokens_of_what_generates_nothing(
    vllm_daemon: Running, path: str, fields: dict[str, Any]
) -> None:
    async with vllm_daemon.http() as http:
        answer = await http.post(path, json={"model": "minilm", **fields})
    assert answer.status_code == 200, answer.text

    row = row_of(vllm_daemon, answer.headers["x-request-id"])

    told = tokens_of(path, usage_of(answer))
    assert (row["outcome"], row["prompt_tokens"], row["completion_tokens"]) == ("ok", *told)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        pytest.param(CHAT, {"messages": LONG}, id="chat"),
        pytest.param(CHAT, {"messages": LONG, "n": 3}, id="n"),
        pytest.param(CHAT, {"messages": LONG, "model": "demo-pirate"}, id="an adapter"),
        pytest.param(COMPLETIONS, {"prompt": "and so on and so forth " * 30}, id="completion"),
        pytest.param(RESPONSES, {"input": LONG}, id="responses"),
        pytest.param(MESSAGES, {"messages": LONG}, id="messages"),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_the_ledger_has_the_cached_tokens_that_the_client_was_told(
    vllm_daemon: Running, path: str, fields: dict[str, Any], stream: bool
) -> None:
    async with vllm_daemon.http() as http:
        for _ in range(2):
            answer = await http.post(path, json=body_of(path, fields, stream=stream))
    usage = usage_of(answer)
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    told = usage.get("cache_read_input_tokens", details.get("cached_tokens"))

    row = row_of(vllm_daemon, answer.headers["x-request-id"])

    assert row["cached_tokens"] == told > 0


@pytest.fixture
def record() -> RequestRecord:
    """Of a request that is over."""
    return RequestRecord(id="r", endpoint=Endpoint.CHAT, accepted_s=0.0, clock=lambda: 0.0)


async def test_thoughts_of_a_chat_are_those_that_its_handler_counted(record: RequestRecord) -> None:
    details = CompletionTokenUsageInfo(reasoning_tokens=7)
    metadata = RequestResponseMetadata(request_id="r")
    metadata.final_usage_info = UsageInfo(completion_tokens=9, completion_tokens_details=details)

    raw_request = SimpleNamespace(state=SimpleNamespace(request_metadata=metadata))
    note_reasoning(record, raw_request)

    assert record.reasoning_tokens == 7


async def test_thoughts_of_a_response_are_those_of_its_usage(record: RequestRecord) -> None:
    usage = ResponseUsage(
        input_tokens=1,
        input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
        output_tokens=9,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=5),
        total_tokens=10,
    )

    raw_request = SimpleNamespace(state=SimpleNamespace())
    note_reasoning(record, raw_request, SimpleNamespace(usage=usage))

    assert record.reasoning_tokens == 5


def counted(running: Running, engine: str) -> int:
    """Tokens that vLLM says it has generated."""
    for family in text_string_to_metric_families(running.daemon.view.metrics().decode()):
        for sample in family.samples:
            if sample.name == "vllm:generation_tokens_total" and sample.labels["engine"] == engine:
                return int(sample.value)
    raise AssertionError("no such series")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("streams", [1, 6])
async def test_of_a_stream_that_is_left_the_ledger_has_what_the_engine_counted(
    vllm_daemon: Running, n: int, streams: int
) -> None:
    daemon = vllm_daemon.daemon
    before = counted(vllm_daemon, "demo")
    async with vllm_daemon.http() as http:
        ids = await asyncio.gather(*(left(http, 5 + 7 * k, n=n) for k in range(streams)))
    await until(lambda: daemon.path.in_flight == 0)
    await until(lambda: all(row_of(vllm_daemon, id)["outcome"] != "open" for id in ids))

    rows = [row_of(vllm_daemon, id) for id in ids]

    assert {row["outcome"] for row in rows} == {"cancelled"}
    assert all(0 < row["completion_tokens"] < 500 * n for row in rows)
    assert [row["waste_disconnect_tokens"] for row in rows] == [
        row["completion_tokens"] for row in rows
    ]
    assert sum(row["completion_tokens"] for row in rows) == counted(vllm_daemon, "demo") - before


async def test_of_a_whole_answer_that_nobody_waits_for_the_ledger_has_what_the_engine_counted(
    vllm_daemon: Running,
) -> None:
    daemon = vllm_daemon.daemon
    before, settled = counted(vllm_daemon, "demo"), daemon.recorder.settled_count
    async with vllm_daemon.http() as http:
        body = {**DEMO, "messages": ASK, "ignore_eos": True, "max_tokens": 1500}
        with pytest.raises(httpx.ReadTimeout):
            await http.post(CHAT, json=body, timeout=httpx.Timeout(20, read=1))
    await until(lambda: daemon.recorder.settled_count > settled and daemon.path.in_flight == 0)
    path = vllm_daemon.socket.parent / "ledger.sqlite3"
    last = "SELECT id, outcome FROM requests ORDER BY accepted_at_us DESC LIMIT 1"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        await until(lambda: connection.execute(last).fetchone()[1] == "cancelled")
        request_id, _ = connection.execute(last).fetchone()

    tokens = row_of(vllm_daemon, request_id)["completion_tokens"]

    assert tokens == counted(vllm_daemon, "demo") - before > 0
