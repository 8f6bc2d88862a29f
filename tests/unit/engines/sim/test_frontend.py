"""The simulated front end, through the gate: shapes, limits, and several calls for one request."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import ClientError, DaemonError, EngineDied, FanoutTooLarge
from infer_daemon.domain.record import CURRENT, RequestRecord
from infer_daemon.engines.contract import Call, EventStream, Reply
from tests.unit.engines.conftest import Rig

pytestmark = pytest.mark.looptime

Record = Callable[[], RequestRecord]


async def ask(rig: Rig, record: RequestRecord, endpoint: str, **body: Any) -> Reply | EventStream:
    """Ask a ready engine's front end."""
    CURRENT.set(record)
    call = Call(endpoint=Endpoint(endpoint), body={"model": "echo", **body}, request_id="r")
    return await rig.pool.frontend(None).answer(call)


async def whole(rig: Rig, record: RequestRecord, endpoint: str, **body: Any) -> dict[str, Any]:
    """The decoded answer to a request that does not stream."""
    reply = await ask(rig, record, endpoint, **body)
    assert isinstance(reply, Reply)
    answer: dict[str, Any] = json.loads(reply.body)
    return answer


def data(chunks: list[bytes]) -> list[dict[str, Any]]:
    """The decoded events of a stream, without the marker at its end."""
    events = b"".join(chunks).decode().removesuffix("data: [DONE]\n\n").strip().split("\n\n")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_the_answer_to_a_prompt_is_the_prompt(rig: Rig, record: Record) -> None:
    await rig.add()
    answer = await whole(rig, record(), "completions", prompt="one two three", max_tokens=2)

    assert [choice["text"] for choice in answer["choices"]] == ["one two"]
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def test_several_prompts_and_choices_are_numbered_prompt_by_prompt(
    rig: Rig, record: Record
) -> None:
    await rig.add(seqs_max=4)
    answer = await whole(rig, record(), "completions", prompt=["a b", "c"], n=2)

    assert [(c["index"], c["text"]) for c in answer["choices"]] == [
        (0, "a b"), (1, "a b"), (2, "c"), (3, "c"),
    ]  # fmt: skip
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    rig.assert_empty()


async def test_a_stream_of_several_prompts_has_the_text_of_each(rig: Rig, record: Record) -> None:
    await rig.add()
    stream = await ask(rig, record(), "completions", prompt=["a b", "c"], stream=True)
    assert isinstance(stream, EventStream)
    texts: dict[int, str] = {}
    for event in data([chunk async for chunk in stream]):
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]

    assert texts == {0: "a b", 1: "c"}
    rig.assert_empty()


@pytest.mark.parametrize(
    ("body", "words", "param"),
    [
        ({"messages": []}, "messages may not be empty", "messages"),
        ({"n": 0}, "n must be at least 1, it is 0", "n"),
        ({"n": "two"}, "n: expected int", "n"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, it is 0$", "max_tokens"),
        ({"max_tokens": 99999}, "max_tokens must be at most 8192, it is 99999$", "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens must", "max_completion_tokens"),
        ({"messages": [{"role": "user", "content": "a " * 9000}]}, "context length", "messages"),
        ({"messages": "a"}, "messages: expected array", "messages"),
        ({"messages": [{"role": 7}]}, "expected str", "messages"),
    ],
)
async def test_a_request_that_is_wrong_is_refused_before_the_gate(
    rig: Rig, record: Record, body: dict[str, Any], words: str, param: str
) -> None:
    await rig.add()
    one = record()

    with pytest.raises(DaemonError, match=words) as caught:
        await ask(rig, one, "chat", **{"messages": [{"role": "user", "content": "a"}], **body})
    assert (caught.value.status, caught.value.param) == (400, param)
    assert one.calls_started == 0


async def test_an_answer_takes_only_what_the_prompt_leaves_of_the_context(
    rig: Rig, record: Record
) -> None:
    await rig.add()

    answer = await whole(
        rig, record(), "completions", prompt="a " * 8000, max_tokens=8192, ignore_eos=True
    )

    assert answer["usage"]["completion_tokens"] == 192
    rig.assert_empty()


async def test_a_refusal_before_the_first_event_of_a_stream_is_raised(
    rig: Rig, record: Record
) -> None:
    await rig.add(seqs_max=2)
    with pytest.raises(FanoutTooLarge):
        await ask(rig, record(), "completions", prompt="a", n=3, stream=True)
    rig.assert_empty()


async def test_a_death_after_the_first_event_of_a_stream_is_an_event(
    rig: Rig, record: Record
) -> None:
    await rig.add(die_after_tokens=2)
    one = record()
    stream = await ask(rig, one, "completions", prompt="a b c d", stream=True)
    assert isinstance(stream, EventStream)
    *_, last = data([chunk async for chunk in stream])

    assert last["error"]["code"] == "engine_died"
    assert isinstance(one.refusal, EngineDied)
    rig.assert_empty()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_takes_every_call_with_it(
    rig: Rig, record: Record, stream: bool
) -> None:
    await rig.add(seqs_max=1)
    one = record()
    holder = rig.collect(rig.work(1000), record())
    await asyncio.sleep(0)
    task = asyncio.create_task(ask(rig, one, "completions", prompt=["a", "b"], stream=stream))
    await asyncio.sleep(1)
    task.cancel()
    holder.cancel()
    await asyncio.wait([task, holder])

    assert one.calls_open == 0
    rig.assert_empty()


async def test_a_stream_that_is_closed_unread_ends_its_work(rig: Rig, record: Record) -> None:
    await rig.add()
    stream = await ask(
        rig, record(), "completions", prompt="a", max_tokens=1000, ignore_eos=True, stream=True
    )
    assert isinstance(stream, EventStream)
    await stream.aclose()

    rig.assert_empty()


async def test_an_embedding_depends_on_its_text_alone(rig: Rig, record: Record) -> None:
    await rig.add(embedding_size=4)
    answer = await whole(rig, record(), "embeddings", input=["a b", "c", "a b"])
    first, second, third = (item["embedding"] for item in answer["data"])

    assert first == third != second
    assert sum(value * value for value in first) == pytest.approx(1.0)
    assert answer["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


async def test_content_in_parts_is_read_as_one_text(rig: Rig, record: Record) -> None:
    await rig.add()
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    messages = [{"role": "user", "content": parts}]
    answer = await whole(rig, record(), "chat", messages=messages)

    assert answer["choices"][0]["message"]["content"] == "one two"


async def test_a_prompt_that_is_to_be_cut_keeps_its_end(rig: Rig, record: Record) -> None:
    await rig.add()
    prompts = ["one two three", "four"]
    answer = await whole(rig, record(), "completions", prompt=prompts, truncate_prompt_tokens=2)

    assert [choice["text"] for choice in answer["choices"]] == ["two three", "four"]
    assert answer["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize(
    ("endpoint", "body", "tokens"),
    [
        ("chat", {"messages": [{"role": "user", "content": "a b"}, {"role": "x"}]}, 2),
        ("chat", {"messages": [{"role": "user", "content": "a " * 20_000}]}, 20_000),
        ("completions", {"prompt": "a b c"}, 3),
        ("completions", {"prompt": ["a", "a b c", "a b"]}, 3),
        ("completions", {"prompt": "a b c", "truncate_prompt_tokens": 2}, 2),
    ],
)
async def test_the_words_of_a_prompt_are_counted(
    rig: Rig, endpoint: str, body: dict[str, Any], tokens: int
) -> None:
    await rig.add()
    call = Call(endpoint=Endpoint(endpoint), body={"model": "echo", **body}, request_id="r")

    assert await rig.pool.frontend(None).count_tokens(call) == tokens


@pytest.mark.parametrize(
    ("endpoint", "body"), [("chat", {"messages": []}), ("chat", {}), ("embeddings", {"input": "a"})]
)
async def test_what_cannot_be_counted_is_the_clients_error(
    rig: Rig, endpoint: str, body: dict[str, Any]
) -> None:
    await rig.add()
    call = Call(endpoint=Endpoint(endpoint), body={"model": "echo", **body}, request_id="r")

    with pytest.raises(ClientError):
        await rig.pool.frontend(None).count_tokens(call)


@pytest.mark.parametrize(
    ("endpoint", "body", "param", "message"),
    [
        ("embeddings", {"input": 7}, "input", "input: expected str | array, got int"),
        ("embeddings", {"input": [1]}, "input", "input[0]: expected str, got int"),
        ("embeddings", {"input": []}, "input", "input may not be an empty list"),
        ("completions", {"prompt": []}, "prompt", "prompt may not be an empty list"),
        ("chat", {"messages": "x"}, "messages", "messages: expected array, got str"),
    ],
)
async def test_what_is_no_request_is_the_clients_error_and_names_the_field(
    rig: Rig, record: Record, endpoint: str, body: dict[str, Any], param: str, message: str
) -> None:
    await rig.add()
    with pytest.raises(ClientError) as caught:
        await ask(rig, record(), endpoint, **body)

    assert (caught.value.param, caught.value.message) == (param, message)
