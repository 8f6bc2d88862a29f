"""Engines that fail and models that stand in for each other, as clients and operators see it."""

import asyncio
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from structlog.types import EventDict

from infer_daemon.cli import main
from tests.integration.conftest import Serve
from tests.integration.running import Running
from tests.integration.test_ledger import rows

CHAIN = """
[listen]
port = 0
[breaker]
calls_min = 4
[engines.a]
kind = "sim"
model = "echo"
sim.step_ms = 1
[engines.b]
kind = "sim"
model = "echo"
sim.step_ms = 1
[models.echo]
engines = ["a"]
fallback.dead = ["other"]
last_resort.text = "Please come again."
price = { input_usd = 1, output_usd = 1 }
[models.other]
engines = ["b"]
price = { input_usd = 3, output_usd = 5 }
"""
REPLICAS = """
[listen]
port = 0
[engines.a]
kind = "sim"
model = "echo"
sim.step_ms = 1
[engines.b]
kind = "sim"
model = "echo"
sim.step_ms = 1
[models.echo]
engines = ["a", "b"]
"""
SILENT = """
[engines.c]
kind = "sim"
model = "echo"
sim.fail_start = "no luck"
[models.silent]
engines = ["c"]
fallback.load_failed = ["other"]
[tenants.acme.budget.hard]
month_tokens = 6
"""
"""Of a budget for one request."""
WORDS = {"model": "echo", "prompt": "one two three"}


async def series(running: Running, name: str) -> dict[tuple[str, ...], float]:
    """A series by the values of its labels, in the order of their names."""
    page = (await running.http.get("/metrics")).text
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


async def test_an_answer_of_another_model_is_told_billed_and_written_down_as_what_it_is(
    serve: Serve,
) -> None:
    running = await serve(CHAIN)
    running.engine("a").fault_share = 1.0
    answer = await running.post("/v1/completions", WORDS)

    assert answer.status_code == 200
    assert answer.json()["model"] == "other"
    assert answer.headers["x-infer-model"] == "other"
    assert answer.headers["x-infer-fallback"] == "dead"
    (row,) = rows(running)
    assert (row["model"], row["deployment"], row["engine"]) == ("echo", "other", "b")
    assert (row["fallback_from"], row["fallback_why"]) == ("echo", "dead")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (3, 3)
    assert (row["price_input_nano_usd"], row["price_output_nano_usd"]) == (9_000, 15_000)
    assert row["waste_fallback_tokens"] == 3
    assert await series(running, "infer_fallbacks_total") == {("echo", "other", "dead"): 1.0}


async def test_the_headers_of_a_stream_say_who_answers(serve: Serve) -> None:
    running = await serve(CHAIN)
    running.engine("a").fault_share = 1.0
    async with running.streaming(**WORDS, max_tokens=5) as events:
        assert events.headers["x-infer-model"] == "other"
        rest = await events.rest()

    assert rest[-1] == "[DONE]"


async def test_the_text_of_the_last_resort_is_a_row_at_no_price(serve: Serve) -> None:
    running = await serve(CHAIN)
    for name in ("a", "b"):
        running.engine(name).fault_share = 1.0
    answer = await running.post("/v1/completions", WORDS)

    assert answer.json()["choices"][0]["text"] == "Please come again."
    assert answer.headers["x-infer-fallback"] == "static"
    assert "x-infer-model" not in answer.headers
    (row,) = rows(running)
    assert (row["outcome"], row["deployment"], row["fallback_why"]) == ("ok", "static", "dead")
    assert (row["price_input_nano_usd"], row["price_output_nano_usd"]) == (0, 0)
    assert (row["completion_tokens"], row["waste_fallback_tokens"]) == (0, 6)


async def test_operators_see_an_open_breaker_in_state_metrics_and_log(
    serve: Serve, log_lines: list[EventDict], capsys: Any
) -> None:
    running = await serve(CHAIN)
    running.engine("a").fault_share = 1.0
    for _ in range(4):
        await running.post("/v1/completions", WORDS)

    assert await series(running, "infer_breaker_state") == {("a",): 2.0, ("b",): 0.0}
    assert await series(running, "infer_breaker_changes_total") == {("fault", "a", "open"): 1.0}
    (told,) = (line for line in log_lines if line["event"] == "breaker")
    assert (told["engine"], told["state"], told["cause"]) == ("a", "open", "fault")
    assert told["reason"].startswith("4 of 4 calls: 4 fault")
    folder = str(running.folder.root)
    assert await asyncio.to_thread(main, ["state", "--json", "--state-dir", folder]) == 0
    assert '"breaker": "open"' in capsys.readouterr().out


async def test_a_few_faults_of_one_replica_are_seen_by_nobody(serve: Serve) -> None:
    running = await serve(REPLICAS)
    running.engine("a").fault_share = 0.125
    for _ in range(24):
        assert (await running.post("/v1/completions", WORDS)).status_code == 200

    assert await series(running, "infer_retries_total") == {("a", "true"): 3.0}


async def test_who_has_used_up_a_budget_hears_of_that_and_not_of_the_model_that_is_away(
    serve: Serve,
) -> None:
    running = await serve(CHAIN + SILENT)
    first = await running.post("/v1/completions", WORDS | {"model": "silent"})
    second = await running.post("/v1/completions", WORDS | {"model": "silent"})

    assert (first.status_code, first.headers["x-infer-fallback"]) == (200, "load_failed")
    assert (second.status_code, second.json()["error"]["code"]) == (429, "insufficient_quota")
    assert second.headers["x-should-retry"] == "false"
