"""What clients get, over TCP and over the Unix socket."""

import pytest
from openai import AsyncOpenAI

from tests.integration.conftest import Serve
from tests.integration.running import Running

MESSAGES = [{"role": "user", "content": "one two three"}]


@pytest.fixture(params=["tcp", "unix"])
def client(running: Running, request: pytest.FixtureRequest) -> AsyncOpenAI:
    """OpenAI's own client, on either door."""
    return running.openai if request.param == "tcp" else running.openai_unix


async def test_chat_answers_with_text_and_usage(client: AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="echo", messages=MESSAGES)

    assert answer.choices[0].message.content == "one two three"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == "echo"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 3)
    assert answer.usage.total_tokens == 6


async def test_chat_streams_the_same_text_and_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="echo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    assert text == "one two three"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 6
    assert len({chunk.id for chunk in chunks}) == 1


async def test_a_completion_streams_up_to_its_limit(client: AsyncOpenAI) -> None:
    stream = await client.completions.create(
        model="echo", prompt="one two three", max_tokens=2, stream=True
    )
    choices = [chunk.choices[0] async for chunk in stream]

    assert "".join(choice.text for choice in choices) == "one two"
    assert choices[-1].finish_reason == "length"


async def test_embeddings_have_a_vector_for_each_text(client: AsyncOpenAI) -> None:
    answer = await client.embeddings.create(
        model="other", input=["one two", "three"], encoding_format="float"
    )

    assert [len(item.embedding) for item in answer.data] == [8, 8]
    assert answer.usage.prompt_tokens == 3


async def test_several_choices_come_from_one_request(running: Running) -> None:
    answer = await running.openai.chat.completions.create(model="echo", messages=MESSAGES, n=3)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"one two three"}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9


async def test_several_choices_stream_side_by_side(running: Running) -> None:
    stream = await running.openai.chat.completions.create(
        model="echo", messages=MESSAGES, n=2, stream=True
    )
    texts = ["", ""]
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""

    assert texts == ["one two three"] * 2


async def test_a_list_of_prompts_is_answered_in_order(running: Running) -> None:
    answer = await running.openai.completions.create(
        model="echo", prompt=[f"prompt {number}" for number in range(6)]
    )

    assert [choice.text for choice in answer.choices] == [f"prompt {n}" for n in range(6)]


@pytest.mark.parametrize("stream", [False, True])
async def test_the_id_in_the_header_is_the_one_in_the_body(running: Running, stream: bool) -> None:
    body = {"model": "echo", "prompt": "a", "stream": stream}
    response = await running.post("/v1/completions", body)
    request_id = response.headers["x-request-id"]

    assert f'"id":"cmpl-{request_id}"' in response.text


async def test_a_stream_may_not_be_buffered_on_its_way(running: Running) -> None:
    response = await running.post(
        "/v1/completions", {"model": "echo", "prompt": "a", "stream": True}
    )

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer sk-globex"},
        {"Authorization": "bearer  sk-globex"},
        {"x-api-key": "sk-globex"},
    ],
)
async def test_a_key_may_come_in_either_header(running: Running, headers: dict[str, str]) -> None:
    running.http.headers.pop("Authorization")
    response = await running.http.get("/v1/models", headers=headers)

    assert response.status_code == 200


async def test_models_are_listed_and_shown_one_by_one(running: Running) -> None:
    cards = [card async for card in running.openai.models.list()]
    card = await running.openai.models.retrieve("other")

    assert [card.id for card in cards] == ["echo", "other"]
    assert card == cards[1]
    assert card.owned_by == "infer-daemon"
    assert card.model_dump()["max_model_len"] == 8192


async def test_an_adapters_card_names_its_base_model(serve: Serve) -> None:
    running = await serve(
        """
        listen.port = 0
        [engines.a]
        kind = "sim"
        model = "echo"
        [models.pirate]
        engines = ["a"]
        lora = "/srv/pirate"
        [models.chat]
        engines = ["a"]
        """
    )
    cards = {card.id: card.model_dump() async for card in running.openai.models.list()}
    answer = await running.openai.completions.create(model="pirate", prompt="arr")

    assert cards["pirate"]["parent"] == "chat"
    assert cards["chat"]["parent"] is None
    assert answer.model == "pirate"
