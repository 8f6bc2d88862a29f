"""Streams that wait long are told so, on virtual time."""

import asyncio
import json

import pytest

from infer_daemon.streams import SettledStream
from tests.conftest import MakeSettings
from tests.inside import Inside

pytestmark = pytest.mark.looptime(noop_cycles=5)

CONFIG = """
[scheduling]
comment_after_s = 2
wait_timeout_s = 7
kept_for_newcomers = 0
[engines.a]
kind = "sim"
model = "echo"
max_num_seqs = 1
sim = { step_ms = 100 }
[models.echo]
engines = ["a"]
"""


async def busy(inside: Inside, tokens: int) -> SettledStream:
    """Something that keeps the engine for a tenth of a second per token."""
    stream = await inside.stream(prompt="w " * tokens, max_tokens=tokens, ignore_eos=True)
    await anext(stream)
    return stream


async def drained(stream: SettledStream) -> None:
    async for _ in stream:
        pass


async def test_a_stream_that_waits_is_told_its_place_and_then_has_its_answer(
    settings_of: MakeSettings,
) -> None:
    async with Inside(settings_of(CONFIG)).running() as inside:
        running = asyncio.create_task(drained(await busy(inside, 50)))
        second = asyncio.create_task(inside.stream(prompt="a b", max_tokens=2))
        third = asyncio.create_task(inside.stream(prompt="c d", max_tokens=2))
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        chunks = [(loop.time() - begun_s, chunk) async for chunk in await third]
        await drained(await second)
        await running

        comments = [chunk for _, chunk in chunks if chunk.startswith(b":")]
        assert chunks[0][0] == pytest.approx(2.0)
        assert comments[0].startswith(b": queued position=2 eta_ms=")
        assert comments[0].endswith(b"\n\n")
        assert len(comments) == 2  # after 2 and 4 s; the first one ended after 5
        assert b'"c"' in chunks[len(comments)][1]
        assert chunks[-1][1].endswith(b"data: [DONE]\n\n")


async def test_a_stream_whose_answer_begins_soon_has_no_comments(
    settings_of: MakeSettings,
) -> None:
    async with Inside(settings_of(CONFIG)).running() as inside:
        running = asyncio.create_task(drained(await busy(inside, 10)))
        chunks = [chunk async for chunk in await inside.stream(prompt="a b", max_tokens=2)]
        await running

        assert not any(chunk.startswith(b":") for chunk in chunks)


async def test_after_a_comment_a_refusal_is_an_event_and_settles_as_what_it_is(
    settings_of: MakeSettings,
) -> None:
    async with Inside(settings_of(CONFIG)).running() as inside:
        running = asyncio.create_task(drained(await busy(inside, 100)))
        chunks = [chunk async for chunk in await inside.stream(prompt="a", max_tokens=2)]
        await running

        assert [chunk.startswith(b":") for chunk in chunks] == [True, True, True, False]
        error = json.loads(chunks[-1].removeprefix(b"data: "))["error"]
        assert error["code"] == "waited_too_long"


async def test_whoever_leaves_while_it_waits_leaves_nothing_behind(
    settings_of: MakeSettings,
) -> None:
    async with Inside(settings_of(CONFIG)).running() as inside:
        running = asyncio.create_task(drained(await busy(inside, 60)))
        silent = asyncio.create_task(inside.stream(prompt="a", max_tokens=2))
        await asyncio.sleep(1)
        silent.cancel()
        await asyncio.wait([silent])
        told = await inside.stream(prompt="a", max_tokens=2)
        assert (await anext(told)).startswith(b": queued")
        await told.aclose()
        assert inside.path.in_flight == 1  # the one in the engine
        await running
