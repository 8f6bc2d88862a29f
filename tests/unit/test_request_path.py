"""The way of a request, from its head and body to settled, on virtual time and without sockets."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from structlog.types import EventDict

from infer_daemon.asking import Ask, Body
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import (
    CutShort,
    DaemonError,
    FanoutTooLarge,
    InvalidKey,
    ShuttingDown,
)
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import Call, EventStream, Reply
from infer_daemon.engines.sim.frontend import SimFrontend
from infer_daemon.streams import SettledStream
from tests.conftest import MakeSettings
from tests.inside import Inside

pytestmark = pytest.mark.looptime

SIM = """
[engines.a]
kind = "sim"
model = "echo"
max_num_seqs = 2
sim.step_ms = 10
[models.echo]
engines = ["a"]
[scheduling]
fanout_max = 8
"""
ENDLESS = {"prompt": "a", "max_tokens": 8000, "ignore_eos": True}


@pytest.fixture
async def inside(settings_of: MakeSettings) -> AsyncGenerator[Inside, None]:
    """One engine with two places; nothing may be left in it when the test is over."""
    async with Inside(settings_of(SIM)).running() as inside:
        yield inside


def requests(log_lines: list[EventDict]) -> list[EventDict]:
    """The lines of settled requests."""
    return [line for line in log_lines if line["event"] == "request"]


async def test_a_whole_answer_settles_with_one_line_that_has_none_of_its_words(
    inside: Inside, log_lines: list[EventDict]
) -> None:
    body = await inside.whole(prompt="one secret three")
    assert body["choices"][0]["text"] == "one secret three"

    (line,) = requests(log_lines)
    assert (line["outcome"], line["tenant"], line["model"]) == ("ok", "acme", "echo")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (3, 3)
    assert body["id"] == f"cmpl-{line['id']}"
    assert "secret" not in str(log_lines)


async def test_a_stream_is_settled_before_its_last_chunk_is_handed_out(
    inside: Inside, log_lines: list[EventDict]
) -> None:
    stream = await inside.stream(prompt="one two three")
    settled = []
    async with aclosing(stream):
        async for chunk in stream:
            settled.append((chunk.endswith(b"data: [DONE]\n\n"), len(requests(log_lines))))

    assert settled == [(False, 0), (False, 0), (False, 0), (True, 1)]
    assert requests(log_lines)[0]["outcome"] == "ok"


async def test_a_stream_is_handed_out_as_it_is_generated(inside: Inside) -> None:
    loop = asyncio.get_running_loop()
    stream = await inside.stream(prompt="one two three four")
    async with aclosing(stream):
        times_s = [loop.time() async for _ in stream]

    assert times_s == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.04])


async def test_a_stream_of_several_prompts_is_not_held_back_after_the_first(
    inside: Inside,
) -> None:
    loop = asyncio.get_running_loop()
    stream = await inside.stream(prompt=["short", "one two three four five six"])
    async with aclosing(stream):
        times_s = [loop.time() async for _ in stream]

    assert len(set(times_s)) == 6


@pytest.mark.parametrize("chunks", [0, 1, 3])
async def test_a_stream_that_is_closed_early_is_cancelled_and_frees_its_place(
    inside: Inside, log_lines: list[EventDict], chunks: int
) -> None:
    stream = await inside.stream(**ENDLESS)
    for _ in range(chunks):
        await anext(stream)
    for _ in range(2):
        await stream.aclose()

    inside.assert_empty()
    (line,) = requests(log_lines)
    assert line["outcome"] == "cancelled"
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("busy", [False, True], ids=["generating", "waiting"])
async def test_a_request_that_is_cancelled_leaves_nothing(
    inside: Inside, log_lines: list[EventDict], stream: bool, busy: bool
) -> None:
    holders = [await inside.stream(**ENDLESS) for _ in range(2 * busy)]
    task = asyncio.create_task(inside.ask(prompt="a b", n=2, stream=stream))
    await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert [line["outcome"] for line in requests(log_lines)] == ["cancelled"]
    assert inside.schedulers["echo"].running == len(holders)
    for holder in holders:
        await holder.aclose()


@pytest.mark.parametrize("stream", [False, True])
async def test_who_is_sent_away_at_the_end_of_the_daemon_has_not_left(
    inside: Inside, log_lines: list[EventDict], stream: bool
) -> None:
    reading = asyncio.create_task(read(inside) if stream else inside.ask(**ENDLESS))
    await asyncio.sleep(1)
    inside.path.is_ending = True
    reading.cancel()
    await asyncio.wait([reading])

    (line,) = requests(log_lines)
    assert (line["outcome"], line["code"]) == ("evicted", "cut_short")


async def read(inside: Inside) -> None:
    stream = await inside.stream(**ENDLESS)
    async with aclosing(stream):
        async for _ in stream:
            pass


@pytest.mark.parametrize("turns", range(12))
async def test_a_client_that_leaves_in_the_moment_its_stream_begins_leaves_nothing(
    inside: Inside, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """Behind a front end that, as vLLM's do, never closes the calls of a stream."""
    answer = SimFrontend.answer
    kept = []
    begun = asyncio.Event()

    async def answer_and_forget(self: SimFrontend, call: Call) -> Reply | EventStream:
        content = await answer(self, call)
        kept.append(content)  # or the garbage collector would close it
        begun.set()
        return content

    monkeypatch.setattr(SimFrontend, "answer", answer_and_forget)
    task = asyncio.create_task(inside.ask(stream=True, **ENDLESS))
    await begun.wait()
    for _ in range(turns):
        await asyncio.sleep(0)
    if task.done():
        await task.result().content.aclose()
    task.cancel()
    await asyncio.wait([task])

    inside.assert_empty()


async def test_a_stream_whose_reader_is_cancelled_is_closed(
    inside: Inside, log_lines: list[EventDict]
) -> None:
    stream = await inside.stream(**ENDLESS)

    async def read() -> None:
        async for _ in stream:
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait([task])

    inside.assert_empty()
    assert requests(log_lines)[0]["outcome"] == "cancelled"


@pytest.mark.parametrize(
    ("fields", "outcome", "code"),
    [
        ({"key": "nobody's"}, "client_error", "invalid_api_key"),
        ({"model": "nobody"}, "client_error", "model_not_found"),
        ({"endpoint": "rerank"}, "client_error", "unsupported"),
        ({"prompt": 7}, "client_error", "invalid_request"),
        ({"prompt": "a", "n": 3}, "client_error", "fanout_too_large"),
        ({"prompt": "a " * 9000}, "client_error", "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_refused_request_settles_once_and_its_error_names_it(
    inside: Inside,
    log_lines: list[EventDict],
    fields: dict[str, object],
    outcome: str,
    code: str,
    stream: bool,
) -> None:
    with pytest.raises(DaemonError) as caught:
        await inside.ask(**fields, stream=stream)  # type: ignore[arg-type]

    (line,) = requests(log_lines)
    assert (line["outcome"], line["code"]) == (outcome, code)
    assert caught.value.request_id == line["id"]


async def test_a_refused_prompt_takes_the_other_prompts_of_its_request_with_it(
    inside: Inside,
) -> None:
    with pytest.raises(FanoutTooLarge):
        await inside.whole(**{**ENDLESS, "prompt": ["a"] * 9})
    inside.assert_empty()

    await asyncio.sleep(0.001)
    assert asyncio.all_tasks() - {asyncio.current_task(), inside.engines["a"]._loop_task} == set()


@pytest.mark.parametrize("case", ["no key", "draining"])
async def test_a_body_is_only_read_for_whom_there_is_an_answer(inside: Inside, case: str) -> None:
    async def read() -> Body:
        raise AssertionError("it was read")

    inside.path.is_draining = case == "draining"
    key = "sk-acme" if case == "draining" else None
    expected = ShuttingDown if case == "draining" else InvalidKey

    with pytest.raises(expected):
        await inside.path.run(Ask(endpoint=Endpoint.CHAT, key=key, read=read))


async def test_our_own_fault_is_told_without_its_reason_and_logged_with_it(
    inside: Inside, log_lines: list[EventDict]
) -> None:
    async def read() -> Body:
        raise KeyError("internal detail")

    with pytest.raises(DaemonError) as caught:
        await inside.path.run(Ask(endpoint=Endpoint.CHAT, key="sk-acme", read=read))

    assert type(caught.value) is DaemonError
    assert "internal detail" not in caught.value.message
    (line,) = requests(log_lines)
    assert (line["outcome"], line["log_level"]) == ("internal_error", "error")
    assert "internal detail" in line["detail"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_outlives_its_engine(
    inside: Inside, log_lines: list[EventDict], stream: bool
) -> None:
    asked = {**ENDLESS, "max_tokens": 20}
    task = asyncio.create_task(inside.ask(stream=stream, **asked))
    await asyncio.sleep(0.055)
    inside.kill("a")
    await asyncio.sleep(5)
    assert inside.path.in_flight == 1
    await inside.start("a")
    content = (await task).content
    if isinstance(content, SettledStream):
        async with aclosing(content):
            chunks = [chunk async for chunk in content]
        assert b"[DONE]" in chunks[-1]

    (line,) = [line for line in log_lines if line["event"] == "request"]
    assert (line["outcome"], line["prompt_tokens"], line["completion_tokens"]) == ("ok", 1, 20)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_dies_and_is_given_up_is_the_requests_ending(
    inside: Inside, log_lines: list[EventDict], stream: bool
) -> None:
    task = asyncio.create_task(inside.ask(stream=stream, **ENDLESS))
    await asyncio.sleep(0.055)
    inside.kill("a", EngineState.FAILED)
    if stream:
        content = (await task).content
        assert isinstance(content, SettledStream)
        async with aclosing(content):
            chunks = [chunk async for chunk in content]
        assert b"engine_died" in chunks[-1]
        assert b"[DONE]" not in chunks[-1]
    else:
        with pytest.raises(DaemonError, match="died"):
            await task

    (line,) = [line for line in log_lines if line["event"] == "request"]
    assert (line["outcome"], line["code"]) == ("engine_error", "engine_died")
    assert line["completion_tokens"] == 5


def settled(
    inside: Inside, record: RequestRecord, events: AsyncGenerator[bytes, None]
) -> SettledStream:
    """The stream of a handler, as its client gets it."""
    return SettledStream(
        EventStream([], events),
        record,
        inside.path._settle,
        comment=lambda: "working",
        comment_after_s=5.0,
    )


@pytest.mark.parametrize("generated", [False, True], ids=["generating", "generated"])
async def test_a_stream_that_breaks_inside_says_so_and_settles_as_our_fault(
    inside: Inside, log_lines: list[EventDict], generated: bool
) -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        raise KeyError("internal detail")

    record = inside.recorder.open(Endpoint.CHAT)
    record.calls_started = int(generated)
    async with aclosing(settled(inside, record, events())) as stream:
        told = b"".join([chunk async for chunk in stream])

    first, last = told.removesuffix(b"\n\n").split(b"\n\n")
    assert first == b"data: 1"
    assert b'"code":"internal_error"' in last
    assert b"internal detail" not in last
    (line,) = requests(log_lines)
    assert (line["outcome"], line["detail"]) == (
        Outcome.INTERNAL_ERROR,
        "KeyError: 'internal detail'",
    )


async def test_a_refusal_that_a_handler_raises_as_something_else_is_told_as_it_is(
    inside: Inside, log_lines: list[EventDict]
) -> None:
    record = inside.recorder.open(Endpoint.RESPONSES)

    async def events() -> AsyncGenerator[bytes, None]:
        record.refusal = CutShort()
        raise ValueError("no event of mine")
        yield b""

    async with aclosing(settled(inside, record, events())) as stream:
        (told,) = [chunk async for chunk in stream]

    assert b'"code":"cut_short"' in told
    (line,) = requests(log_lines)
    assert (line["outcome"], line["code"]) == (Outcome.EVICTED, "cut_short")
    assert "detail" not in line


async def test_requests_in_flight_are_those_that_have_not_settled(inside: Inside) -> None:
    stream = await inside.stream(**ENDLESS)
    assert inside.path.in_flight == 1
    await inside.whole(prompt="a")
    assert inside.path.in_flight == 1
    await stream.aclose()

    assert inside.path.in_flight == 0
