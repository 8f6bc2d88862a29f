"""Tokens are counted as vLLM will count them, and prompts are cut at the right end."""

from typing import Any

import pytest
from harness import Running

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import DaemonError
from infer_daemon.domain.record import CURRENT, RequestRecord
from infer_daemon.engines.contract import Call

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)
ENDPOINTS = {
    CHAT: Endpoint.CHAT,
    COMPLETIONS: Endpoint.COMPLETIONS,
    RESPONSES: Endpoint.RESPONSES,
    MESSAGES: Endpoint.MESSAGES,
}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "of today", "parameters": PARAMETERS},
}
ASK = [{"role": "user", "content": "What does a 429 mean?"}]
SYSTEM = [{"role": "system", "content": "Be brief."}]
CALLED = [
    {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Bonn"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "rain"},
]
LONG = "and so on and so forth " * 5000


async def count(running: Running, path: str, **fields: Any) -> int:
    """Ask the front end, as the request path would."""
    CURRENT.set(RequestRecord(id="r", endpoint=ENDPOINTS[path], accepted_s=0.0, clock=lambda: 0.0))
    frontend = running.daemon.pools[running.daemon.catalog.route("demo").pool].frontend(None)
    call = Call(endpoint=ENDPOINTS[path], body={"model": "demo", **fields}, request_id="r")
    return await frontend.count_tokens(call)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        pytest.param(CHAT, {"messages": ASK}, id="chat"),
        pytest.param(CHAT, {"messages": [*SYSTEM, *ASK]}, id="system"),
        pytest.param(CHAT, {"messages": ASK, "tools": [TOOL]}, id="tools"),
        pytest.param(CHAT, {"messages": [*ASK, *CALLED], "tools": [TOOL]}, id="tool results"),
        pytest.param(
            CHAT, {"messages": ASK, "tools": [TOOL], "tool_choice": "none"}, id="tools not to use"
        ),
        pytest.param(
            CHAT,
            {
                "messages": [*ASK, {"role": "assistant", "content": "It means"}],
                "add_generation_prompt": False,
                "continue_final_message": True,
            },
            id="to be continued",
        ),
        pytest.param(COMPLETIONS, {"prompt": "The first request"}, id="completion"),
        pytest.param(COMPLETIONS, {"prompt": [1, 2, 3, 4]}, id="token ids"),
        pytest.param(COMPLETIONS, {"prompt": LONG, "truncate_prompt_tokens": 9}, id="to be cut"),
        pytest.param(RESPONSES, {"input": "What does a 429 mean?"}, id="responses"),
        pytest.param(RESPONSES, {"input": ASK, "instructions": "Be brief."}, id="instructions"),
        pytest.param(MESSAGES, {"messages": ASK, "system": "Be brief."}, id="messages"),
        pytest.param(
            MESSAGES,
            {"messages": ASK, "tools": [{"name": "weather", "input_schema": PARAMETERS}]},
            id="messages with tools",
        ),
    ],
)
async def test_the_count_is_what_the_answer_says_was_used(
    vllm_daemon: Running, path: str, fields: dict[str, Any]
) -> None:
    limit = {"max_output_tokens" if path == RESPONSES else "max_tokens": 2}
    async with vllm_daemon.http() as http:
        answer = await http.post(path, json={"model": "demo", **limit, **fields})
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]

    counted = await count(vllm_daemon, path, **limit, **fields)

    assert counted == usage.get("prompt_tokens", usage.get("input_tokens"))


async def test_of_several_prompts_the_longest_counts(vllm_daemon: Running) -> None:
    one = await count(vllm_daemon, COMPLETIONS, prompt="one two three four")
    some = await count(vllm_daemon, COMPLETIONS, prompt=["one", "one two three four", "two"])
    ids = await count(vllm_daemon, COMPLETIONS, prompt=[[1, 2], [3, 4, 5], [6]])

    assert (some, ids) == (one, 3)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": [{"role": "user", "content": LONG}]}),
        (COMPLETIONS, {"prompt": LONG}),
        (COMPLETIONS, {"prompt": [1] * 20_000}),
        (RESPONSES, {"input": LONG}),
        (MESSAGES, {"messages": [{"role": "user", "content": LONG}]}),
    ],
)
async def test_prompts_that_are_too_long_are_counted_to_their_end(
    vllm_daemon: Running, path: str, fields: dict[str, Any]
) -> None:
    assert await count(vllm_daemon, path, max_tokens=2, **fields) >= 20_000


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (CHAT, {"messages": 7}),
        (CHAT, {"messages": ASK, "chat_template": "{{ 1 }}"}),
        (COMPLETIONS, {"prompt": []}),
    ],
)
async def test_what_cannot_be_counted_is_the_clients_error(
    vllm_daemon: Running, path: str, fields: dict[str, Any]
) -> None:
    with pytest.raises(DaemonError) as refused:
        await count(vllm_daemon, path, **fields)

    assert refused.value.status == 400


@pytest.mark.parametrize("as_ids", [False, True])
async def test_a_prompt_that_is_cut_keeps_its_end(vllm_daemon: Running, as_ids: bool) -> None:
    texts: list[Any] = ["one two three four five six", "seven eight nine ten", "a"]
    async with vllm_daemon.http() as http:

        async def ids(text: str) -> list[int]:
            answer = await http.post("/tokenize", json={"model": "demo", "prompt": text})
            return list(answer.json()["tokens"])

        tokens = [await ids(text) for text in texts]
        body = {"model": "demo", "truncate_prompt_tokens": 3, "max_tokens": 1}
        prompts = tokens if as_ids else texts
        one = await http.post(
            COMPLETIONS, json={**body, "prompt": prompts[0], "return_token_ids": True}
        )
        all_of_them = await http.post(
            COMPLETIONS, json={**body, "prompt": prompts, "return_token_ids": True}
        )

    assert one.json()["choices"][0]["prompt_token_ids"] == tokens[0][-3:]
    assert [choice["prompt_token_ids"] for choice in all_of_them.json()["choices"]] == [
        prompt[-3:] for prompt in tokens
    ]
