"""Answers of real engines that look wrong."""

import re
from typing import Any

import pytest
from harness import Running

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

MODEL = "demo-small"


async def counted(daemon: Running, path: str, **body: Any) -> dict[str, int]:
    """Which anomalies of the model one more request has made."""
    async with daemon.http() as http:

        async def totals() -> dict[str, int]:
            page = (await http.get("/metrics")).text
            found = re.findall(
                rf'infer_output_anomalies_total{{kind="(\w+)",model="{MODEL}"}} (\S+)', page
            )
            return {kind: int(float(count)) for kind, count in found}

        before = await totals()
        answer = await http.post(path, json={"model": MODEL, **body})
        assert answer.status_code == 200, answer.text
        after = await totals()
    return {kind: n - before.get(kind, 0) for kind, n in after.items() if n > before.get(kind, 0)}


async def test_the_same_token_over_and_over_is_a_loop_in_each_sequence(
    vllm_daemon: Running,
) -> None:
    forced = {"prompt": "The", "max_tokens": 90, "logit_bias": {"100": 100}, "ignore_eos": True}

    for stream in (False, True):
        found = await counted(vllm_daemon, "/v1/completions", **forced, n=2, stream=stream)
        assert found.get("loop") == 2, found


async def test_an_answer_that_ends_at_once_is_empty(vllm_daemon: Running) -> None:
    async with vllm_daemon.http() as http:
        told = await http.post("/tokenize", json={"model": MODEL, "prompt": " "})
    space = told.json()["tokens"][0]

    found = await counted(
        vllm_daemon,
        "/v1/completions",
        prompt="The",
        max_tokens=1,
        logit_bias={str(space): 100},
    )
    assert found == {"empty": 1}


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
async def test_json_under_a_grammar_is_json_and_what_is_cut_is_not_held_against_it(
    vllm_daemon: Running, kind: str
) -> None:
    schema = {"name": "x", "schema": {"const": {"a": [1, 2]}}}
    response_format = {"type": kind, **({"json_schema": schema} if kind == "json_schema" else {})}
    for most in (200, 2):
        found = await counted(
            vllm_daemon,
            "/v1/chat/completions",
            messages=[{"role": "user", "content": "Say something."}],
            response_format=response_format,
            max_tokens=most,
        )
        assert "invalid_json" not in found, found


async def test_embeddings_are_no_answers(vllm_daemon: Running) -> None:
    assert await counted(vllm_daemon, "/v1/embeddings", model="minilm", input="") == {}
