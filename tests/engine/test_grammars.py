"""Grammars are checked beside the event loop and once; what takes too long is refused."""

import asyncio
import json
import threading
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from harness import Running
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output import backend_xgrammar

from infer_daemon.domain.errors import EngineDied
from infer_daemon.domain.jobs import EngineName
from infer_daemon.engines.vllm import errors, validation

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
HANGS = "[a]{7}"


def asking(**fields: Any) -> dict[str, Any]:
    ask = [{"role": "user", "content": "hi"}]
    return {"model": "demo", "messages": ask, "max_tokens": 12, **fields}


class Checks:
    """vLLM's own check of a grammar: in which threads it ran; one regular expression hangs."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.release = threading.Event()
        self._check = backend_xgrammar.validate_xgrammar_grammar

    def __call__(self, params: SamplingParams) -> None:
        self.threads.append(threading.current_thread().name)
        assert params.structured_outputs is not None
        if params.structured_outputs.regex == HANGS:
            self.release.wait(30)
        self._check(params)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Checks]:
    checks = Checks()
    monkeypatch.setattr(backend_xgrammar, "validate_xgrammar_grammar", checks)
    yield checks
    checks.release.set()


def lose(running: Running) -> int:
    """Every call loses its engine now; how many."""
    mailboxes = [
        call._mailbox for pool in running.daemon.pools.values() for call in pool.gate._calls
    ]
    slots = [mailbox.slot for mailbox in mailboxes if mailbox is not None]
    for slot in slots:
        if slot is not None:
            slot.fail(EngineDied())
    return len(slots)


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA},
            }
        },
    ],
    ids=["json", "choice", "response_format"],
)
async def test_a_grammar_is_checked_once_and_not_on_the_event_loop(
    vllm_daemon: Running, checks: Checks, fields: dict[str, Any]
) -> None:
    async with vllm_daemon.http() as http:
        answer = await http.post(CHAT, json=asking(n=2, **fields))

    assert checks.threads == ["grammars-demo"]
    for choice in answer.json()["choices"]:
        text = choice["message"]["content"]
        assert text in ("yes", "no") or json.loads(text)["ok"] in (True, False)


async def test_who_goes_on_in_another_engine_brings_a_grammar_that_was_checked(
    vllm_daemon: Running, checks: Checks
) -> None:
    body = {"model": "demo", "prompt": "hi", "max_tokens": 20, "stream": True}
    body["structured_outputs"] = {"regex": "[a-z]{40}"}
    text, lost = "", 0
    async with (
        vllm_daemon.http() as http,
        http.stream("POST", "/v1/completions", json=body) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                assert "error" not in event, event
                text += "".join(choice["text"] for choice in event["choices"])
                if text and not lost:
                    lost = lose(vllm_daemon)

    assert lost == 1
    assert text.isalpha()
    assert checks.threads == ["grammars-demo"]


async def test_several_prompts_share_a_grammar(vllm_daemon: Running, checks: Checks) -> None:
    body = {"model": "demo", "prompt": ["a", "b", "c"], "max_tokens": 4}
    async with vllm_daemon.http() as http:
        answer = await http.post(
            "/v1/completions", json={**body, "structured_outputs": {"choice": ["yes", "no"]}}
        )

    assert {choice["text"] for choice in answer.json()["choices"]} <= {"yes", "no"}
    assert checks.threads == ["grammars-demo"] * 3


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"structured_outputs": {"regex": "(a"}},
            "structured_outputs.regex",
            "the regular expression cannot be used: "
            "Regex parsing error at position 3: The parenthesis is not closed.",
        ),
        (
            {"structured_outputs": {"grammar": "start: 'x"}},
            "structured_outputs.grammar",
            "the grammar cannot be used: Lark error at line 1, column 8: unexpected character '''",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "(a"}},
                }
            },
            None,
            "the JSON schema cannot be used: "
            "Regex parsing error at position 3: The parenthesis is not closed.",
        ),
    ],
    ids=["regex", "grammar", "schema"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_grammar_that_is_none_is_the_clients_error_in_one_line(
    vllm_daemon: Running, fields: dict[str, Any], param: str | None, message: str, stream: bool
) -> None:
    async with vllm_daemon.http() as http:
        answer = await http.post(CHAT, json=asking(stream=stream, **fields))
    error = answer.json()["error"]

    assert answer.status_code == 400
    assert (error["code"], error["param"]) == ("invalid_request", param)
    assert error["message"] == message


@pytest.mark.parametrize(
    "message",
    [
        "Grammar error: at 1(8): invalid regex (in regex): regex parse error:\n    (a\n    ^\n"
        "error: Regex parsing error at position 2: not closed.\n   1 | start: /(a/\n",
        "Failed to transform regex into a grammar: [07:12:33] "
        "/project/cpp/regex_converter.cc:124: Regex parsing error at position 2: not closed.",
        "[07:12:33] /project/cpp/regex_converter.cc:124: "
        "Regex parsing error at position 2: not closed.\n",
    ],
)
async def test_places_in_a_compilers_own_sources_are_not_told(message: str) -> None:
    told = errors.from_grammar(VLLMValidationError(message), "regex")

    assert told.message == (
        "the regular expression cannot be used: Regex parsing error at position 2: not closed."
    )


async def test_a_check_that_fails_by_itself_is_not_the_clients_error() -> None:
    told = errors.from_grammar(KeyError("internal detail"), "json")

    assert told.status == 500
    assert "internal detail" not in told.message


async def test_hanging_checks_are_refused_and_others_are_served(
    vllm_daemon: Running, checks: Checks
) -> None:
    hostile = asking(structured_outputs={"regex": HANGS})
    ordinary = asking(structured_outputs={"regex": "[ab]{3}"})
    async with vllm_daemon.http() as http:
        hanging = [
            asyncio.create_task(http.post(CHAT, json=hostile)) for _ in range(validation.THREADS)
        ]
        while len(checks.threads) < validation.THREADS:
            await asyncio.sleep(0.01)
        queued = await http.post(CHAT, json=ordinary)
        for task in hanging:
            error = (await task).json()["error"]
            assert ((await task).status_code, error["code"]) == (400, "grammar_too_complex")
        at_once = await http.post(CHAT, json=ordinary)
        plain = await http.post(CHAT, json=asking())
        for refused in (queued, at_once):
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "grammar_busy")
        assert at_once.headers["retry-after"] == "10"
        assert plain.status_code == 200

        checks.release.set()
        async with asyncio.timeout(10):
            while (again := await http.post(CHAT, json=ordinary)).status_code == 503:
                await asyncio.sleep(0.05)
        assert again.status_code == 200


async def test_a_schema_that_overflows_the_usual_stack_does_no_harm(vllm_daemon: Running) -> None:
    names = [f"{number:x}" for number in range(3000)]
    links = {name: {"items": {"$ref": f"#/$defs/{after}"}} for name, after in pairwise(names)}
    schema = {"$defs": {**links, names[-1]: {"type": "string"}}, "$ref": "#/$defs/0"}
    params = SamplingParams(structured_outputs=StructuredOutputsParams(json=schema))
    llm = vllm_daemon.daemon.fleet.supervisors[EngineName("demo")].engine._llm
    config = SimpleNamespace(
        model_config=llm.model_config,
        structured_outputs_config=SimpleNamespace(backend="guidance"),
    )
    check = validation.GrammarCheck("deep")

    await check.check(params, config, llm.tokenizer)

    assert params.structured_outputs._backend == "guidance"
    check.close()
