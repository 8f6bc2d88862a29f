"""Other models in place of one that does not answer, from the request's body to settled, on virtual
time and without sockets."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from structlog.types import EventDict

from infer_daemon.domain.errors import (
    DaemonError,
    EngineFault,
    FanoutTooLarge,
    ModelNotReady,
)
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import Reply
from tests.conftest import MakeSettings
from tests.inside import Inside

pytestmark = pytest.mark.looptime

TWO = """
[engines.a]
kind = "sim"
model = "echo"
max_num_seqs = 2
sim.step_ms = 10
sim.max_model_len = 64
[engines.b]
kind = "sim"
model = "echo"
sim.step_ms = 10
[engines.c]
kind = "sim"
model = "echo"
sim.step_ms = 10
sim.features = ["tools"]
[models.echo]
engines = ["a"]
fallback.dead = ["other", "able"]
fallback.overload = ["other"]
fallback.too_long = ["other"]
price = { input_usd = 1, output_usd = 1 }
[models.other]
engines = ["b"]
price = { input_usd = 3, output_usd = 5 }
[models.able]
engines = ["c"]
[tenants.acme.limits]
requests_per_minute = 10
output_tokens_per_minute = 1000
[scheduling]
comment_after_s = 0.1
"""
WORDS = {"prompt": "one two three"}
LONG = {"key": "sk-globex", "prompt": "a", "max_tokens": 60, "ignore_eos": True}
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture
async def inside(settings_of: MakeSettings) -> AsyncGenerator[Inside, None]:
    """Three models with an engine each; nothing may be left in it when the test is over."""
    async with Inside(settings_of(TWO)).running() as inside:
        yield inside


def line(log_lines: list[EventDict]) -> EventDict:
    """Of the last request that settled."""
    return [line for line in log_lines if line["event"] == "request"][-1]


async def text_of(inside: Inside, **fields: Any) -> str:
    """All that a stream says."""
    stream = await inside.stream(**fields)
    async with aclosing(stream):
        return b"".join([chunk async for chunk in stream]).decode()


async def test_a_model_without_an_engine_is_answered_for_and_the_client_is_told_by_whom(
    inside: Inside, log_lines: list[EventDict]
) -> None:
    inside.kill("a")
    answer = await inside.ask(**WORDS)

    assert isinstance(answer.content, Reply)
    assert b'"model":"other"' in answer.content.body
    assert answer.headers["x-infer-model"] == "other"
    assert answer.headers["x-infer-fallback"] == "dead"
    settled = line(log_lines)
    assert (settled["model"], settled["answered_by"], settled["fallback"]) == (
        "echo", "other", "dead",
    )  # fmt: skip
    assert (settled["outcome"], settled["completion_tokens"]) == ("ok", 3)


async def test_a_request_whose_engine_dies_before_its_client_has_anything_goes_to_another_model(
    inside: Inside, log_lines: list[EventDict]
) -> None:
    answering = asyncio.create_task(inside.ask(**LONG))
    await asyncio.sleep(0.2)
    inside.kill("a")
    answer = await answering

    assert answer.headers["x-infer-fallback"] == "dead"
    settled = line(log_lines)
    assert (settled["prompt_tokens"], settled["completion_tokens"]) == (1, 60)
    assert settled["engine"] == "b"


async def test_who_waits_for_an_engine_that_dies_goes_to_another_model_at_once(
    inside: Inside,
) -> None:
    running = [asyncio.create_task(inside.ask(**LONG)) for _ in range(4)]
    await asyncio.sleep(0.2)
    assert inside.schedulers["echo"].waiting == 2
    began_s = asyncio.get_running_loop().time()
    inside.kill("a")
    answers = await asyncio.gather(*running)

    assert {answer.headers["x-infer-model"] for answer in answers} == {"other"}
    assert asyncio.get_running_loop().time() - began_s < 1.5


async def test_a_stream_that_has_content_is_never_answered_by_another_model(
    inside: Inside,
) -> None:
    stream = await inside.stream(prompt="a", max_tokens=60, ignore_eos=True)
    async with aclosing(stream):
        head = await anext(stream)
        inside.kill("a")
        await asyncio.sleep(1)
        await inside.start("a")
        rest = b"".join([chunk async for chunk in stream])

    assert b'"model":"other"' not in head + rest
    assert rest.endswith(b"data: [DONE]\n\n")


async def test_what_was_reserved_for_the_first_model_is_given_back_and_the_request_counts_once(
    inside: Inside,
) -> None:
    inside.engines["a"].fault_share = 1.0
    answer = await inside.ask(**WORDS)

    assert answer.headers["x-infer-model"] == "other"
    assert answer.headers["x-ratelimit-remaining-requests"] == "9"
    limits = inside.admission.snapshot(asyncio.get_running_loop().time())["tenant acme"]
    assert limits["output_tokens"]["left"] == 997


async def test_the_price_is_that_of_the_model_that_answered_and_what_was_in_vain_is_waste(
    inside: Inside,
) -> None:
    bills = []
    settle = inside.allowances.settle

    def remember(record: Any, *error: Any) -> Any:
        bills.append((record.waste_fallback_tokens, settle(record, *error)))
        return bills[-1][1]

    inside.allowances.settle = remember  # type: ignore[method-assign]
    inside.engines["a"].fault_share = 1.0
    await inside.ask(**WORDS)

    (_, withdrawn), (waste_tokens, bill) = bills
    assert withdrawn.charge.total_nano_usd == 0
    assert waste_tokens == 3
    assert bill.charge.total_nano_usd == 3 * (3_000 + 5_000)


async def test_a_model_that_lacks_what_the_request_needs_is_passed_over(inside: Inside) -> None:
    inside.kill("a")
    answer = await inside.ask("chat", messages=[{"role": "user", "content": "one"}], tools=TOOLS)

    assert answer.headers["x-infer-model"] == "able"


async def test_a_prompt_that_is_too_long_goes_to_a_model_with_a_longer_context(
    inside: Inside,
) -> None:
    answer = await inside.ask(prompt="word " * 100)

    assert answer.headers["x-infer-model"] == "other"
    assert answer.headers["x-infer-fallback"] == "too_long"


async def test_when_every_stand_in_fails_too_the_client_is_told_why_the_first_did(
    inside: Inside, log_lines: list[EventDict]
) -> None:
    for name in "abc":
        inside.engines[name].fault_share = 1.0
    with pytest.raises(EngineFault) as caught:
        await inside.ask(**WORDS)

    assert "x-infer-fallback" not in caught.value.headers
    settled = line(log_lines)
    assert "fallback" not in settled
    assert (settled["outcome"], settled["prompt_tokens"]) == ("engine_error", 0)


async def test_the_clients_own_fault_is_answered_by_nobody_else(inside: Inside) -> None:
    with pytest.raises(FanoutTooLarge):
        await inside.ask(prompt="a", n=100)


async def test_a_request_for_which_there_is_no_room_goes_to_a_model_that_has_some(
    settings_of: MakeSettings,
) -> None:
    text = TWO.replace("[scheduling]", "[scheduling]\nqueue_len_max = 4")
    async with Inside(settings_of(text)).running() as inside:
        busy = [asyncio.create_task(inside.ask(**LONG)) for _ in range(2)]
        await asyncio.sleep(0.1)
        busy += [asyncio.create_task(inside.ask(**LONG)) for _ in range(4)]
        await asyncio.sleep(0.1)
        answer = await inside.ask(**WORDS)
        await asyncio.gather(*busy)

    assert answer.headers["x-infer-fallback"] == "overload"


async def test_a_stream_that_waits_is_told_in_comments_who_will_answer(inside: Inside) -> None:
    busy = [asyncio.create_task(inside.ask(**LONG)) for _ in range(10)]
    await asyncio.sleep(0.3)
    reading = asyncio.create_task(text_of(inside, **WORDS))
    await asyncio.sleep(0.25)
    inside.kill("a")
    said = await reading
    await asyncio.gather(*busy)

    assert said.startswith(": queued position=")
    assert ": fallback model=other why=dead\n\ndata: " in said
    assert said.endswith("data: [DONE]\n\n")


async def test_requests_go_elsewhere_while_the_breakers_of_all_engines_are_open(
    settings_of: MakeSettings,
) -> None:
    async with Inside(
        settings_of(TWO.replace('["other", "able"]', '["other"]'))
    ).running() as inside:
        inside.engines["a"].fault_share = 1.0
        for _ in range(9):
            await inside.ask(key="sk-globex", **WORDS)
        steps = inside.engines["a"].steps
        await inside.ask(key="sk-globex", **WORDS)
        assert inside.engines["a"].steps == steps + 1
        for _ in range(5):
            answer = await inside.ask(key="sk-globex", **WORDS)
            assert answer.headers["x-infer-model"] == "other"
        assert inside.engines["a"].steps == steps + 1
        inside.engines["a"].fault_share = 0.0
        await asyncio.sleep(6)
        answer = await inside.ask(key="sk-globex", **WORDS)
        assert "x-infer-model" not in answer.headers


CLOSED = """
[engines.a]
kind = "sim"
model = "echo"
sim.step_ms = 10
[models.echo]
engines = ["a"]
"""
LAST = CLOSED + 'last_resort.text = "Please come again."\n'


async def test_a_model_that_must_not_be_replaced_fails(settings_of: MakeSettings) -> None:
    async with Inside(settings_of(CLOSED + "fallback.fail_closed = true\n")).running() as inside:
        inside.kill("a")
        with pytest.raises(ModelNotReady):
            await inside.ask(**WORDS)


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
async def test_the_last_resort_is_a_text_that_says_what_it_is(
    settings_of: MakeSettings, log_lines: list[EventDict], endpoint: str
) -> None:
    body = {"messages": [{"role": "user", "content": "one"}]} if endpoint == "chat" else WORDS
    async with Inside(settings_of(LAST)).running() as inside:
        inside.kill("a", EngineState.FAILED)
        answer = await inside.ask(endpoint, **body)
        assert isinstance(answer.content, Reply)
        assert b"Please come again." in answer.content.body
        assert b'"model":"static"' in answer.content.body
        assert answer.headers["x-infer-fallback"] == "static"
        said = await text_of(inside, endpoint=endpoint, **body)

    assert "Please come again." in said
    assert said.endswith("data: [DONE]\n\n")
    settled = line(log_lines)
    assert (settled["outcome"], settled["completion_tokens"]) == ("ok", 0)
    assert (settled["answered_by"], settled["fallback"]) == ("static", "load_failed")


async def test_a_stream_of_the_last_resort_is_settled_before_its_client_has_its_end(
    settings_of: MakeSettings, log_lines: list[EventDict]
) -> None:
    async with Inside(settings_of(LAST)).running() as inside:
        inside.kill("a")
        stream = await inside.stream(**WORDS)
        async with aclosing(stream):
            async for chunk in stream:
                has_settled = any(one["event"] == "request" for one in log_lines)
                assert has_settled == chunk.endswith(b"[DONE]\n\n")


async def test_embeddings_have_no_last_resort(settings_of: MakeSettings) -> None:
    async with Inside(settings_of(LAST)).running() as inside:
        inside.kill("a")
        with pytest.raises(DaemonError):
            await inside.ask("embeddings", input="one")
