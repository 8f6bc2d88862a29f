"""Batch work that gives way, and stages that take too long, as clients and operators see them."""

import asyncio
import json

import pytest
from structlog.types import EventDict

from tests.integration.conftest import Serve
from tests.integration.running import ENDLESS, SIM, error_of, until
from tests.integration.test_ledger import rows

COMPLETIONS = "/v1/completions"
ONE_PLACE = (
    SIM.replace("max_num_seqs = 4", "max_num_seqs = 1").replace(
        "sim.step_ms = 1", "sim.step_ms = 2", 1
    )
    + """
[scheduling]
interactive_preempt_after_ms = 50
"""
)
BATCH = {"x-priority": "batch"}


def limited(stage: str, **sim: int) -> str:
    """A daemon with a limit of half a second for that stage, whose first engine has this script."""
    script = "\n".join(f"sim.{key} = {value}" for key, value in sim.items())
    return SIM.replace("sim.step_ms = 1", script, 1) + f"\n[scheduling]\n{stage} = 0.5\n"


def settled(log_lines: list[EventDict]) -> list[tuple[object, object]]:
    return [(line["outcome"], line.get("code")) for line in log_lines if line["event"] == "request"]


async def test_an_interactive_request_takes_the_place_of_a_batch_stream_which_goes_on(
    serve: Serve,
) -> None:
    running = await serve(ONE_PLACE)
    body = {**ENDLESS, "prompt": " ".join(f"w{n}" for n in range(400)), "max_tokens": 400}
    body["stream"] = True
    async with running.http.stream("POST", COMPLETIONS, json=body, headers=BATCH) as response:
        lines = response.aiter_lines()
        await anext(lines)
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        urgent = await running.post(COMPLETIONS, {"model": "echo", "prompt": "one two"})
        took_s = loop.time() - begun_s
        rest = [line async for line in lines if line]
        batch_took_s = loop.time() - begun_s
        batch_id = response.headers["x-request-id"]

    assert urgent.status_code == 200
    assert took_s < batch_took_s / 2
    assert rest[-1] == "data: [DONE]"
    events = [json.loads(line[6:]) for line in rest[:-1]]
    text = "".join(event["choices"][0]["text"] for event in events if event["choices"])
    assert text.split()[-1] == "w399"
    assert "error" not in text
    assert len(text.split()) in (399, 400)

    story = running.daemon.recorder.story(batch_id)
    assert story is not None
    told = [event for _, event in story["events"]]  # type: ignore[attr-defined]
    assert told.count("preempted for an interactive request") == 1
    assert told.count("granted a") == 2
    page = (await running.http.get("/metrics")).text
    assert 'infer_preemptions_total{tier="interactive"} 1.0' in page


async def test_what_is_read_again_is_in_the_ledger_and_billed_to_nobody(serve: Serve) -> None:
    running = await serve(ONE_PLACE)
    body = {**ENDLESS, "max_tokens": 200}
    batch = asyncio.create_task(running.post(COMPLETIONS, body, headers=BATCH))
    await until(lambda: running.engine("a")._tokens_made > 20)
    await running.post(COMPLETIONS, {"model": "echo", "prompt": "one two"})
    answer = await batch

    assert answer.json()["usage"]["completion_tokens"] == 200
    row = rows(running)[0]
    assert (row["prompt_tokens"], row["completion_tokens"]) == (1, 200)
    assert row["waste_preemption_tokens"] > 20
    assert row["waste_continuation_tokens"] == 0


@pytest.mark.parametrize(
    ("text", "code", "outcome"),
    [
        pytest.param(
            limited("first_token_timeout_s", prefill_tokens_per_step=1, step_ms=60_000),
            "first_token_timeout",
            "engine_error",
            id="first token",
        ),
        pytest.param(
            limited("token_gap_timeout_s", step_ms=1, hang_after_tokens=3),
            "token_timeout",
            "engine_error",
            id="next token",
        ),
        pytest.param(limited("total_timeout_s", step_ms=1), "total_timeout", "evicted", id="all"),
    ],
)
async def test_a_stage_that_takes_too_long_ends_with_a_reason_of_its_own(
    serve: Serve, log_lines: list[EventDict], text: str, code: str, outcome: str
) -> None:
    running = await serve(text)
    response = await running.post(COMPLETIONS, ENDLESS)

    assert response.status_code == 504
    assert error_of(response)["code"] == code
    is_final = response.headers.get("x-should-retry") == "false"
    assert is_final == (code == "total_timeout")
    assert settled(log_lines) == [(outcome, code)]
    assert (running.engine("a").in_flight, running.queue.running) == (0, 0)


async def test_a_stream_that_has_begun_ends_with_the_reason_and_nothing_after_it(
    serve: Serve,
) -> None:
    running = await serve(limited("token_gap_timeout_s", step_ms=1, hang_after_tokens=3))
    async with running.streaming() as events:
        *before, last = await events.rest()

    assert len(before) == 3
    assert json.loads(last)["error"]["code"] == "token_timeout"
    assert (running.engine("a").in_flight, running.queue.running) == (0, 0)


async def test_a_hung_engine_is_the_watchdogs_and_its_calls_go_on(serve: Serve) -> None:
    """As long as no limit is shorter than its patience."""
    text = limited("total_timeout_s", step_ms=1, hang_after_tokens=3)
    text = text.replace("total_timeout_s = 0.5", "token_gap_timeout_s = 5")
    text = text.replace("sim.hang", "stall_timeout_s = 0.3\nrestart.delay_s = 0.05\nsim.hang")
    running = await serve(text)
    async with running.streaming(max_tokens=5, prompt="one two three four five") as events:
        told = await events.rest()

    assert told[-1] == "[DONE]"
