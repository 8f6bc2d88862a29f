"""What admission does to a request, told by a real engine's answers."""

import anthropic
import openai
import pytest
from harness import Running

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

ASK = {"model": "demo", "messages": [{"role": "user", "content": "What does a 429 mean?"}]}


@pytest.mark.parametrize(
    ("asked", "used", "echoed"),
    [
        ("priority", "critical", "priority"),
        ("flex", "batch", "flex"),
        ("auto", "interactive", "default"),
        ("scale", "interactive", "default"),
    ],
)
async def test_the_class_that_was_used_is_told_in_a_header_and_in_the_answer(
    client: openai.AsyncOpenAI, asked: str, used: str, echoed: str
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        **ASK, max_tokens=2, service_tier=asked
    )

    assert raw.headers["x-infer-priority"] == used
    assert raw.parse().service_tier == echoed


async def test_every_event_of_a_response_tells_the_class_that_was_used(
    client: openai.AsyncOpenAI,
) -> None:
    stream = await client.responses.create(
        model="demo", input="Hello", max_output_tokens=2, service_tier="auto", stream=True
    )
    told = [event.response.service_tier async for event in stream if hasattr(event, "response")]

    assert len(told) == 3
    assert set(told) == {"default"}


async def test_anthropics_words_for_a_class_are_understood(
    claude: anthropic.AsyncAnthropic,
) -> None:
    raw = await claude.messages.with_raw_response.create(
        **ASK, max_tokens=2, service_tier="standard_only"
    )

    assert raw.headers["x-infer-priority"] == "interactive"


async def test_a_long_chat_loses_its_oldest_turns_where_its_tenant_wants_that(
    vllm_daemon: Running,
) -> None:
    turn = {"role": "user", "content": "Which models are there, and who may use them? " * 5}
    reply = {"role": "assistant", "content": "demo and demo-small."}
    messages = [{"role": "system", "content": "Be brief."}, *[turn, reply] * 60, ASK["messages"][0]]
    async with openai.AsyncOpenAI(
        base_url=f"{vllm_daemon.url}/v1", api_key="sk-demo-initech", max_retries=0
    ) as initech:
        raw = await initech.chat.completions.with_raw_response.create(
            model="demo", messages=messages, max_tokens=20
        )

    told = dict(part.split("=") for part in raw.headers["x-infer-truncated"].split())
    usage = raw.parse().usage
    assert usage is not None
    assert 0 < int(told["turns"]) < 60
    assert usage.prompt_tokens + 20 <= 2048
    assert usage.prompt_tokens > 1500  # no more was dropped than had to be


@pytest.mark.parametrize("asked", [2000, 2048, 5000])
async def test_a_chat_that_fits_keeps_its_history_however_much_output_it_asks_for(
    vllm_daemon: Running, asked: int
) -> None:
    messages = [ASK["messages"][0], {"role": "assistant", "content": "Wait."}] * 3
    async with openai.AsyncOpenAI(
        base_url=f"{vllm_daemon.url}/v1", api_key="sk-demo-initech", max_retries=0
    ) as initech:
        raw = await initech.chat.completions.with_raw_response.create(
            model="demo", messages=[*messages, ASK["messages"][0]], max_tokens=asked, stop=[" "]
        )

    assert "x-infer-truncated" not in raw.headers
    usage = raw.parse().usage
    assert usage is not None
    assert usage.prompt_tokens > 60


async def test_the_same_chat_is_refused_with_both_numbers_where_it_does_not(
    client: openai.AsyncOpenAI,
) -> None:
    messages = [{"role": "user", "content": "queue " * 3000}]
    with pytest.raises(openai.BadRequestError, match="2048") as caught:
        await client.chat.completions.create(model="demo", messages=messages, max_tokens=20)
    assert caught.value.code == "context_length_exceeded"


@pytest.mark.parametrize("asked", [2048, 5000, "5000"])
async def test_more_output_than_there_is_room_for_is_clamped_and_told(
    client: openai.AsyncOpenAI, asked: object
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        **ASK, extra_body={"max_tokens": asked, "stop": [" "]}
    )

    usage = raw.parse().usage
    assert usage is not None
    assert raw.headers["x-infer-clamped"] == f"max_tokens={2048 - usage.prompt_tokens}"


async def test_a_batch_of_embeddings_is_no_longer_than_its_longest(
    client: openai.AsyncOpenAI,
) -> None:
    found = await client.embeddings.create(model="minilm", input=["queue" + " " * 1000] * 40)

    assert len(found.data) == 40
