"""Engines that die or are drained, as clients and operators of a whole daemon see it."""

import asyncio
import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.types import EventDict

from infer_daemon.cli import main
from tests.integration.conftest import Serve
from tests.integration.running import ENDLESS, SIM, Running, error_of, until

SLOW = SIM.replace("sim.step_ms = 1", "sim.start_s = 0.5", 1)
DEADLINE_S = 60
"""Of who asks for none."""
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
WORDS = {"model": "echo", "prompt": "one two three"}


async def command(running: Running, *argv: str) -> int:
    """Run a command that finds this daemon by its state folder."""
    return await asyncio.to_thread(main, [*argv, "--state-dir", str(running.folder.root)])


def engine(running: Running, name: str) -> dict[str, Any]:
    """One engine as `infer-daemon state` has it."""
    engines: Any = running.daemon.view.state()["engines"]
    return next(one for one in engines if one["name"] == name)


async def restarted(running: Running, name: str) -> None:
    """Kill an engine and wait until its next incarnation is ready."""
    running.engine(name).kill("out of memory")
    await until(lambda: engine(running, name)["restarts"] == 1)
    await until(lambda: engine(running, name)["state"] == "ready")


async def test_a_model_whose_engine_died_says_why_and_the_daemon_stays_ready_for_the_others(
    serve: Serve,
) -> None:
    running = await serve(SLOW)
    running.engine("a").kill("out of memory")
    await until(lambda: engine(running, "a")["state"] == "dead")
    ready = await running.http.get("/ready")

    assert ready.status_code == 200
    assert ready.json()["models"] == {
        "echo": {"state": "restarting", "reason": "engine a is dead: out of memory"},
        "other": {"state": "ready"},
    }
    await until(lambda: engine(running, "a")["state"] == "ready")


async def test_who_comes_while_the_only_engine_is_away_waits_for_it_if_its_deadline_allows(
    serve: Serve,
) -> None:
    running = await serve(SLOW)
    running.engine("a").kill("out of memory")
    await until(lambda: engine(running, "a")["state"] == "dead")
    soon = {"x-deadline-ms": "200"}
    refused = await running.post("/v1/completions", WORDS, headers=soon)
    was_back = engine(running, "a")["state"] == "ready"
    waited = await running.post("/v1/completions", WORDS)

    assert waited.status_code == 200
    assert waited.json()["choices"][0]["text"].split() == ["one", "two", "three"]
    assert refused.status_code == 503
    assert error_of(refused)["code"] == "model_not_ready"
    assert not was_back, "it was refused at once"
    assert "retry-after" in refused.headers
    assert "x-should-retry" not in refused.headers


async def test_an_engine_that_was_started_again_answers(serve: Serve) -> None:
    running = await serve()
    await restarted(running, "a")
    completion = await running.openai.completions.create(**WORDS)  # type: ignore[call-overload]

    assert completion.choices[0].text.split() == ["one", "two", "three"]


async def test_operators_see_restarts_in_state_metrics_and_log(
    serve: Serve, log_lines: list[EventDict]
) -> None:
    running = await serve()
    await restarted(running, "a")
    page = (await running.http.get("/metrics")).text
    counts = {
        sample.labels["engine"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "infer_engine_restarts_total"
    }

    assert counts == {"a": 1, "b": 0}
    assert engine(running, "a")["last_end"] == "out of memory"
    told = [
        (line["log_level"], line["state"])
        for line in log_lines
        if line["event"] == "engine_state" and line.get("reason") == "out of memory"
    ]
    assert told == [("info", "stopping"), ("error", "dead")]


async def test_a_devices_time_is_down_while_an_engine_is_dead_and_loading_while_it_starts(
    serve: Serve,
) -> None:
    running = await serve(SLOW.replace("[engines.b]", "devices = [0]\n[engines.b]"))

    def seconds() -> dict[str, float]:
        devices: Any = running.daemon.view.state()["devices"]
        return next(one["seconds"] for one in devices if one["engine"] == "a")

    before = seconds()
    await restarted(running, "a")
    spent = {line: now - before[line] for line, now in seconds().items()}

    assert 0.25 <= spent["down"] < 1
    assert 0.499 <= spent["loading"] < 1  # both ends are rounded to milliseconds
    running.daemon.stopwatch.check()


async def test_a_drained_engine_finishes_and_new_work_goes_elsewhere(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    running = await serve(REPLICAS)
    async with running.streaming(max_tokens=300) as events:
        await events.next()
        (busy,) = (name for name in ("a", "b") if engine(running, name)["in_flight"])
        (idle,) = {"a", "b"} - {busy}
        assert await command(running, "drain", busy) == 0
        told = capsys.readouterr().out
        assert f"{busy} is draining, with 1 call in it" in told
        assert f"new work of echo goes to: {idle}" in told
        steps = running.engine(busy).steps
        for _ in range(4):
            assert (await running.post("/v1/completions", WORDS)).status_code == 200
        assert running.engine(idle).steps >= 12
        rest = await events.rest()

    assert rest[-1] == "[DONE]"
    assert running.engine(busy).steps > steps
    assert engine(running, busy)["in_flight"] == 0
    assert (await running.http.get("/ready")).status_code == 200
    assert await command(running, "undrain", busy) == 0
    assert "takes new work" not in capsys.readouterr().out
    assert engine(running, busy)["state"] == "ready"


async def test_a_model_whose_only_engine_is_drained_says_so(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    running = await serve()
    assert await command(running, "drain", "a") == 0
    refused = await running.post("/v1/completions", WORDS)
    ready = await running.http.get("/ready")

    assert "no engine of echo takes new work" in capsys.readouterr().out
    assert refused.status_code == 503
    assert "x-should-retry" not in refused.headers
    assert ready.json()["models"]["echo"] == {
        "state": "draining",
        "reason": "engine a is draining",
    }


async def test_an_engine_that_there_is_not_cannot_be_drained(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await command(running, "drain", "some/engine") == 1
    assert "There is no engine 'some/engine' (there is: a, b)" in capsys.readouterr().err


HANGING = SIM.replace(
    "sim.step_ms = 1", "sim.hang_after_tokens = 3\nstall_timeout_s = 0.5\nrestart.delay_s = 0.1", 1
)


async def test_a_stream_whose_engine_hangs_goes_on_as_soon_as_it_was_started_again(
    serve: Serve,
) -> None:
    running = await serve(HANGING)
    begun_s = asyncio.get_running_loop().time()
    async with running.streaming(prompt="a b c d e", max_tokens=5) as events:
        rest = await events.rest()

    texts = [json.loads(event)["choices"][0]["text"] for event in rest[:-1]]
    assert "".join(texts).split() == ["a", "b", "c", "d", "e"]
    assert asyncio.get_running_loop().time() - begun_s < DEADLINE_S / 4
    assert engine(running, "a")["restarts"] == 1
    assert engine(running, "a")["last_end"].startswith("no step for ")


async def test_a_stream_that_goes_on_otherwise_than_it_would_have_says_so_once(
    serve: Serve,
) -> None:
    running = await serve(REPLICAS)
    async with running.streaming(max_tokens=300, seed=7) as events:
        await events.next()
        (busy,) = (name for name in ("a", "b") if engine(running, name)["in_flight"])
        running.engine(busy).kill("out of memory")
        rest = await events.rest()

    assert rest.count(": continued inexact=seed") == 1
    assert rest[-1] == "[DONE]"


async def test_a_stream_that_goes_on_exactly_has_nothing_to_say(serve: Serve) -> None:
    running = await serve(REPLICAS)
    async with running.streaming(max_tokens=300) as events:
        await events.next()
        (busy,) = (name for name in ("a", "b") if engine(running, name)["in_flight"])
        running.engine(busy).kill("out of memory")
        rest = await events.rest()

    assert not [line for line in rest if line.startswith(":")]
    assert rest[-1] == "[DONE]"


async def test_a_stream_that_pauses_while_its_engine_is_started_again_is_told_so_meanwhile(
    serve: Serve,
) -> None:
    running = await serve("scheduling.comment_after_s = 0.1" + SLOW)
    async with running.streaming(max_tokens=300) as events:
        await events.next()
        running.engine("a").kill("out of memory")
        rest = await events.rest()

    comments = [line for line in rest if line.startswith(":")]
    if comments[-1] == ": working":  # it has its turn again, and its next token is on its way
        comments.pop()
    etas = [int(line.rpartition("=")[2]) for line in comments]
    assert len(comments) >= 3
    assert {line.partition(" eta")[0] for line in comments} == {": queued position=1"}
    assert etas[0] > 0
    assert etas == sorted(etas, reverse=True)
    assert rest[-1] == "[DONE]"


async def test_a_request_that_hangs_the_only_engine_twice_is_stopped(serve: Serve) -> None:
    running = await serve(HANGING)
    begun_s = asyncio.get_running_loop().time()
    lost = await running.post("/v1/completions", ENDLESS)

    assert (lost.status_code, error_of(lost)["code"]) == (500, "request_kills_engines")
    assert lost.headers["x-should-retry"] == "false"
    assert asyncio.get_running_loop().time() - begun_s < DEADLINE_S / 4
    await until(lambda: engine(running, "a")["restarts"] == 2)
