"""What vLLM's handlers carry, through the daemon, with the clients that people use."""

import asyncio
import json
import re
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from harness import KEY, Running
from prometheus_client.parser import text_string_to_metric_families

from infer_daemon.domain.errors import CutShort

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

ASK: list[Any] = [{"role": "user", "content": "What does a 429 mean?"}]
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


async def test_every_model_of_the_demo_is_ready_except_the_broken_adapter(
    vllm_daemon: Running,
) -> None:
    ready, body = vllm_daemon.daemon.view.readiness()

    models: Any = body["models"]
    states = {name: model["state"] for name, model in models.items()}
    assert ready
    assert states.pop("demo-broken") == "failed"
    assert set(states.values()) == {"ready"}
    assert "cannot be loaded" in models["demo-broken"]["reason"]


async def test_a_model_with_a_broken_adapter_says_why_and_kills_nothing(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.InternalServerError, match="cannot be loaded") as refused:
        await client.chat.completions.create(model="demo-broken", messages=ASK)

    assert refused.value.status_code == 503
    answer = await client.chat.completions.create(model="demo", messages=ASK, max_tokens=3)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


async def test_models_of_two_engines_and_adapters_answer_side_by_side(
    client: openai.AsyncOpenAI,
) -> None:
    models = ["demo", "demo-brief", "demo-pirate", "demo-small"] * 4

    answers = await asyncio.gather(
        *(
            client.chat.completions.create(model=model, messages=ASK, temperature=0, max_tokens=60)
            for model in models
        )
    )

    assert [answer.model for answer in answers] == models
    texts = {answer.model: answer.choices[0].message.content for answer in answers}
    assert "Arr" not in str(texts["demo"])
    assert "Arr" in str(texts["demo-pirate"])
    assert len(str(texts["demo-brief"])) < len(str(texts["demo"]))


async def test_a_base_model_answers_beside_adapters_as_it_does_alone(
    client: openai.AsyncOpenAI,
) -> None:
    async def answer(model: str) -> str | None:
        reply = await client.chat.completions.create(
            model=model, messages=ASK, temperature=0, max_tokens=30
        )
        return reply.choices[0].message.content

    alone = await answer("demo")
    beside = await asyncio.gather(*(answer(m) for m in ["demo", "demo-pirate", "demo-brief"] * 3))

    assert set(beside[::3]) == {alone}


@pytest.mark.parametrize("door", ["tcp", "unix"])
async def test_the_openai_client_streams_over_both_doors(
    client: openai.AsyncOpenAI, unix_client: openai.AsyncOpenAI, door: str
) -> None:
    through = client if door == "tcp" else unix_client

    stream = await through.chat.completions.create(
        model="demo",
        messages=ASK,
        stream=True,
        stream_options={"include_usage": True},
        max_tokens=10,
        temperature=0,
    )
    events = [event async for event in stream]

    assert "429" in "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    assert events[-1].usage is not None
    assert events[-1].usage.completion_tokens == 10


async def test_the_anthropic_client_asks_and_streams(claude: anthropic.AsyncAnthropic) -> None:
    message = await claude.messages.create(model="demo", max_tokens=20, messages=ASK)
    async with claude.messages.stream(model="demo", max_tokens=20, messages=ASK) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    count = await claude.messages.count_tokens(model="demo", messages=ASK)

    assert message.usage.output_tokens == 20
    assert final.usage.output_tokens == 20
    assert text
    assert count.input_tokens == message.usage.input_tokens


async def test_the_anthropic_client_asks_over_the_unix_socket(vllm_daemon: Running) -> None:
    transport = httpx2.AsyncHTTPTransport(uds=str(vllm_daemon.socket))
    async with anthropic.AsyncAnthropic(
        base_url="http://localhost",
        api_key=KEY,
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=transport),
    ) as claude:
        message = await claude.messages.create(model="demo", max_tokens=20, messages=ASK)

    assert message.usage.output_tokens == 20


async def test_embeddings_as_bytes_say_how_to_read_them(vllm_daemon: Running) -> None:
    async with vllm_daemon.http() as client:
        body = {"model": "minilm", "input": ["a", "b"], "encoding_format": "bytes"}
        answer = await client.post("/v1/embeddings", json=body)

    told = json.loads(answer.headers["metadata"])
    assert [row["shape"] for row in told["data"]] == [[384], [384]]
    assert len(answer.content) == 2 * 384 * 4


async def test_many_inputs_of_one_request_are_embedded(vllm_daemon: Running) -> None:
    async with vllm_daemon.http() as client:
        answer = await client.post("/v1/embeddings", json={"model": "minilm", "input": ["a"] * 300})

    assert len(answer.json()["data"]) == 300


async def test_too_many_prompts_are_refused_before_the_first_begins(vllm_daemon: Running) -> None:
    async with vllm_daemon.http() as client:
        body = {"model": "demo", "prompt": ["a"] * 65, "n": 2, "max_tokens": 1}
        answer = await client.post("/v1/completions", json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "fanout_too_large"


async def test_the_responses_api_answers_and_streams_its_events(client: openai.AsyncOpenAI) -> None:
    whole = await client.responses.create(model="demo", input="What is a tenant?")
    stream = await client.responses.create(
        model="demo", input="What is a tenant?", max_output_tokens=5, stream=True
    )
    kinds = [event.type async for event in stream]

    assert whole.status == "completed"
    assert whole.output_text
    assert kinds[0] == "response.created"
    # The length limit ends it as incomplete, in the last event.
    assert kinds[-1] in ("response.completed", "response.incomplete")


async def test_a_required_tool_is_called_with_its_arguments(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=WEATHER,
        tool_choice="required",
        temperature=0,
        max_tokens=100,
    )

    calls: Any = answer.choices[0].message.tool_calls
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments) == {"city": "Paris"}


async def test_a_tool_is_chosen_by_the_model_itself(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=WEATHER,
        temperature=0,
        max_tokens=100,
    )

    assert answer.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("model", ["demo", "demo-small", "demo-pirate"])
async def test_structured_output_follows_its_schema_and_ends(
    client: openai.AsyncOpenAI, model: str
) -> None:
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 30},
            "age": {"type": "integer"},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Give me a person as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "p", "schema": schema}},
        temperature=0,
        max_tokens=200,
    )

    assert answer.choices[0].finish_reason == "stop"
    person = json.loads(str(answer.choices[0].message.content))
    assert set(person) == {"name", "age", "tags"}


async def test_regex_and_choice_bind_the_answer(client: openai.AsyncOpenAI) -> None:
    regex = await client.chat.completions.create(
        model="demo", messages=ASK, extra_body={"structured_outputs": {"regex": "[a-c]{5}"}}
    )
    choice = await client.chat.completions.create(
        model="demo", messages=ASK, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )

    assert re.fullmatch("[a-c]{5}", str(regex.choices[0].message.content))
    assert choice.choices[0].message.content in ("yes", "no")


async def test_log_probabilities_come_with_the_tokens(client: openai.AsyncOpenAI) -> None:
    whole = await client.chat.completions.create(
        model="demo", messages=ASK, max_tokens=4, logprobs=True, top_logprobs=3, temperature=0
    )
    stream = await client.chat.completions.create(
        model="demo",
        messages=ASK,
        max_tokens=4,
        logprobs=True,
        top_logprobs=3,
        temperature=0,
        stream=True,
    )

    expected: Any = whole.choices[0].logprobs
    streamed: list[Any] = []
    async for event in stream:
        if event.choices and (logprobs := event.choices[0].logprobs):
            streamed += logprobs.content or []
    assert [token.token for token in streamed] == [token.token for token in expected.content]
    assert len(expected.content[0].top_logprobs) == 3


async def test_stop_seed_bias_echo_and_token_prompts_work(client: openai.AsyncOpenAI) -> None:
    common: Any = {"model": "demo", "max_tokens": 12}

    stopped = await client.completions.create(
        **common, prompt="The daemon", temperature=0, stop=["Open"]
    )
    seeded = [
        (await client.completions.create(**common, prompt="The", temperature=1.2, seed=7))
        for _ in range(2)
    ]
    biased = await client.completions.create(
        model="demo", max_tokens=3, prompt="The", logit_bias={"50": 100}, temperature=0
    )
    echoed = await client.completions.create(**common, prompt="The daemon", echo=True)
    tokens = await client.completions.create(**common, prompt=[40, 41, 42])

    assert stopped.choices[0].text
    assert "Open" not in stopped.choices[0].text
    assert stopped.choices[0].finish_reason == "stop"
    assert seeded[0].choices[0].text == seeded[1].choices[0].text
    assert len(set(biased.choices[0].text)) == 1
    assert echoed.choices[0].text.startswith("The daemon")
    assert tokens.usage is not None
    assert tokens.usage.prompt_tokens == 3


async def test_embeddings_rank_what_is_alike_first(vllm_daemon: Running) -> None:
    async with vllm_daemon.http() as client:
        query = {"model": "minilm", "query": "a kitten"}
        ranked = await client.post("/rerank", json={**query, "documents": ["a bank", "a cat"]})
        score = {"model": "minilm", "text_1": "a kitten", "text_2": ["a bank", "a cat"]}
        scored = await client.post("/v1/score", json=score)
        pooled = await client.post("/pooling", json={"model": "minilm", "input": "a"})

    assert ranked.json()["results"][0]["index"] == 1
    scores = [row["score"] for row in scored.json()["data"]]
    assert scores[1] > scores[0]
    assert len(pooled.json()["data"][0]["data"]) == 384


TALK = [
    ("/v1/chat/completions", {"model": "demo", "messages": ASK, "max_tokens": 3}),
    ("/v1/completions", {"model": "demo", "prompt": "a", "max_tokens": 3}),
    ("/v1/responses", {"model": "demo", "input": "a", "max_output_tokens": 3}),
    ("/v1/messages", {"model": "demo", "messages": ASK, "max_tokens": 3}),
]
VECTORS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"model": "minilm", "input": "a"}),
    ("/v1/score", {"model": "minilm", "text_1": "a", "text_2": "b"}),
    ("/rerank", {"model": "minilm", "query": "a", "documents": ["b", "c"]}),
    ("/pooling", {"model": "minilm", "input": "a"}),
]


@pytest.mark.parametrize(
    ("path", "body"),
    [*TALK, *VECTORS, *((path, {**body, "stream": True}) for path, body in TALK)],
)
async def test_a_story_is_found_by_the_id_that_the_client_sees(
    vllm_daemon: Running, path: str, body: dict[str, Any]
) -> None:
    async with vllm_daemon.http() as http:
        answer = await http.post(path, json=body)
    ours = answer.headers["x-request-id"]
    (seen,) = set(re.findall(r'"id":"(\w+[-_][0-9a-f]{24})"', answer.text))
    story = vllm_daemon.daemon.view.story(seen)

    assert seen.endswith(ours)
    assert story is not None
    assert story["request"]["id"] == ours  # type: ignore[index]


@pytest.mark.parametrize("endpoint", ["chat", "completions", "responses", "messages"])
async def test_a_stream_that_is_cut_short_raises_in_the_clients_that_people_use(
    vllm_daemon: Running,
    client: openai.AsyncOpenAI,
    claude: anthropic.AsyncAnthropic,
    endpoint: str,
) -> None:
    gate = vllm_daemon.daemon.pools["demo"].gate
    said: dict[str, Any] = {"model": "demo", "stream": True}
    forever = {"max_tokens": 400, "extra_body": {"ignore_eos": True}}
    stream: Any
    match endpoint:
        case "chat":
            stream = await client.chat.completions.create(messages=ASK, **forever, **said)
        case "completions":
            stream = await client.completions.create(prompt="a", **forever, **said)
        case "responses":
            options = {"extra_body": {"min_tokens": 400, "ignore_eos": True}}
            stream = await client.responses.create(
                input="a", max_output_tokens=400, **options, **said
            )
        case _:
            stream = await claude.messages.create(messages=ASK, max_tokens=400, **said)

    async def read() -> None:
        async for _ in stream:
            for call in list(gate._calls):
                call.end(CutShort())

    with pytest.raises((openai.APIError, anthropic.APIError), match="shut down") as caught:
        await read()
    assert endpoint == "messages" or caught.value.code == "cut_short"  # type: ignore[union-attr]
    del caught  # it holds what is left of the stream, which is to end here and in no other thread
    async with asyncio.timeout(5):
        while vllm_daemon.engine("demo")["stats"]["running"]:  # type: ignore[index]
            await client.completions.create(model="demo", prompt="a", max_tokens=1)


async def test_tokenize_and_detokenize_are_inverse(vllm_daemon: Running) -> None:
    async with vllm_daemon.http() as client:
        body = {"model": "demo", "prompt": "hello there"}
        tokens = (await client.post("/tokenize", json=body)).json()["tokens"]
        text = await client.post("/detokenize", json={"model": "demo", "tokens": tokens})

    assert text.json()["prompt"] == "hello there"


async def test_a_bad_parameter_of_a_stream_is_a_status_and_no_event(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.BadRequestError, match="20"):
        await client.chat.completions.create(
            model="demo", messages=ASK, logprobs=True, top_logprobs=50, stream=True
        )


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"n": 1_000_000}, id="n"),
        pytest.param({"max_tokens": -1}, id="max_tokens"),
        pytest.param({"temperature": -3}, id="temperature"),
        pytest.param({"structured_outputs": {"regex": "((("}}, id="regex"),
        pytest.param({"use_beam_search": True, "n": 2}, id="beam search"),
        pytest.param({"messages": [{"role": "user"}, 3]}, id="messages"),
        pytest.param({"response_format": {"type": "json_schema"}}, id="response_format"),
    ],
)
async def test_bad_input_is_a_4xx_and_leaves_the_engine_alive(
    vllm_daemon: Running, fields: dict[str, Any]
) -> None:
    async with vllm_daemon.http() as client:
        body = {"model": "demo", "messages": ASK, "max_tokens": 2, **fields}
        refused = await client.post("/v1/chat/completions", json=body)
        fine = await client.post(
            "/v1/chat/completions", json={"model": "demo", "messages": ASK, "max_tokens": 1}
        )

    assert 400 <= refused.status_code < 500
    assert set(refused.json()["error"]) == {"message", "type", "param", "code"}
    assert fine.status_code == 200


async def test_both_engines_are_in_the_metrics_with_vllms_own_series(
    vllm_daemon: Running, client: openai.AsyncOpenAI
) -> None:
    for model in ("demo", "demo-small"):
        await client.chat.completions.create(model=model, messages=ASK, max_tokens=3)

    async with vllm_daemon.http() as http:
        page = (await http.get("/metrics")).text

    families = {family.name: family for family in text_string_to_metric_families(page)}
    for name in ("vllm:generation_tokens", "infer_completion_tokens", "infer_ttft_seconds"):
        engines = {sample.labels.get("engine") for sample in families[name].samples}
        assert {"demo", "demo-small"} <= engines, name


async def test_each_engine_has_processes_of_its_own(vllm_daemon: Running) -> None:
    pids = {vllm_daemon.engine(name)["pid"] for name in ("demo", "demo-small", "minilm")}

    assert len(pids) == 3
    assert None not in pids
