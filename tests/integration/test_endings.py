"""How requests end that do not end well: clients that go away, engines that die."""

import asyncio
import json

import httpx2
import openai
import pytest
from structlog.types import EventDict

from tests.integration.conftest import Serve
from tests.integration.running import AUTH, ENDLESS, SIM, Running, until
from tests.unit.ledger.sample import ask

COMPLETIONS = "/v1/completions"
DYING = SIM.replace("sim.step_ms = 1", "sim.die_after_tokens = 5", 1)
GIVEN_UP = SIM.replace("sim.step_ms = 1", "sim.step_ms = 1\nrestart.deaths_max = 0", 1)


def outcomes(log_lines: list[EventDict]) -> list[str]:
    """Of all settled requests, in order."""
    return [str(line["outcome"]) for line in log_lines if line["event"] == "request"]


def is_idle(running: Running) -> bool:
    """Whether nothing of any request is left."""
    engine = running.engine("a").stats
    queue = running.queue
    return (queue.running, queue.waiting, engine.running, engine.waiting) == (0, 0, 0, 0)


async def test_a_client_that_leaves_a_stream_frees_its_place(
    running: Running, log_lines: list[EventDict]
) -> None:
    async with running.streaming(n=2) as events:
        for _ in range(5):
            await events.next()
        assert running.queue.running == 1

    await until(lambda: is_idle(running) and running.daemon.path.in_flight == 0)
    assert outcomes(log_lines) == ["cancelled"]


async def test_a_client_that_leaves_while_its_answer_is_made_frees_its_place(
    running: Running, log_lines: list[EventDict]
) -> None:
    request = asyncio.create_task(running.post(COMPLETIONS, ENDLESS))
    await until(lambda: running.queue.running == 1)
    request.cancel()
    await asyncio.wait([request])

    await until(lambda: is_idle(running) and running.daemon.path.in_flight == 0)
    assert outcomes(log_lines) == ["cancelled"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_it_waits_makes_way(
    running: Running, log_lines: list[EventDict], stream: bool
) -> None:
    async with running.streaming(n=4) as events:
        await events.next()
        waiting = asyncio.create_task(running.post(COMPLETIONS, {**ENDLESS, "stream": stream}))
        await until(lambda: running.queue.waiting == 1)
        waiting.cancel()
        await asyncio.wait([waiting])

        await until(lambda: outcomes(log_lines) == ["cancelled"])
        assert (running.queue.running, running.queue.waiting) == (1, 0)


async def test_a_client_that_stops_reading_does_not_keep_its_place(
    running: Running, log_lines: list[EventDict]
) -> None:
    """Its tokens are generated and counted; only its own stream stands still."""
    async with running.streaming(max_tokens=500) as events:
        await events.next()
        await until(lambda: is_idle(running))
        assert (await events.rest())[-1] == "[DONE]"

    (line,) = [line for line in log_lines if line["event"] == "request"]
    assert (line["outcome"], line["completion_tokens"]) == ("ok", 500)


async def test_who_waits_gets_the_place_of_a_client_that_left(running: Running) -> None:
    async with running.streaming(n=4) as events:
        await events.next()
        waiting = asyncio.create_task(
            running.openai.completions.create(model="echo", prompt="one two")
        )
        await until(lambda: running.queue.waiting == 1)

    assert (await waiting).choices[0].text == "one two"


async def test_a_stream_under_which_the_only_engine_dies_twice_ends_with_an_error_event(
    serve: Serve, log_lines: list[EventDict]
) -> None:
    running = await serve(DYING)
    async with running.streaming() as events:
        *_, last = await events.rest()

    assert json.loads(last)["error"]["code"] == "request_kills_engines"
    (line,) = [line for line in log_lines if line["event"] == "request"]
    assert (line["outcome"], line["code"]) == ("engine_error", "request_kills_engines")
    assert (line["prompt_tokens"], line["completion_tokens"]) == (1, 10)


async def test_an_answer_that_failed_by_our_fault_has_no_price_and_one_that_was_left_has(
    serve: Serve,
) -> None:
    price = "[models.echo]\nprice = { input_usd = 2, output_usd = 10 }"
    running = await serve(GIVEN_UP.replace("[models.echo]", price))
    async with running.streaming() as events:
        await events.next()
    await until(lambda: running.daemon.path.in_flight == 0)
    async with running.streaming() as events:
        await events.next()
        running.engine("a").kill()
        await events.rest()

    rows = ask(
        running.folder.root / "ledger.sqlite3",
        "SELECT outcome, price_nano_usd > 0, compute_ns > 0, completion_tokens > 0 FROM settled"
        " ORDER BY accepted_at_us",
    )
    assert rows == [("cancelled", 1, 1, 1), ("engine_error", 0, 1, 1)]


async def test_who_is_sent_away_at_the_end_of_the_daemon_has_not_left_and_pays_nothing(
    serve: Serve,
) -> None:
    """A client that does not read cannot be told: its connection is cut."""
    price = "[models.echo]\nprice = { input_usd = 2, output_usd = 10 }"
    running = await serve("daemon.drain_timeout_s = 0.1\n" + SIM.replace("[models.echo]", price))
    body = json.dumps({**ENDLESS, "prompt": "w" * 2000, "stream": True}).encode()
    head = [
        f"POST {COMPLETIONS} HTTP/1.1",
        "host: daemon",
        f"authorization: {AUTH['Authorization']}",
        "content-type: application/json",
        f"content-length: {len(body)}",
    ]
    reader, writer = await asyncio.open_unix_connection(running.socket, limit=1024)
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    assert b" 200 " in await reader.readline()
    await until(lambda: running.engine("a").steps > 500)
    running.daemon.stop()
    async with asyncio.timeout(20):
        await running.task
    writer.close()

    rows = ask(
        running.folder.root / "ledger.sqlite3",
        "SELECT outcome, code, price_nano_usd, compute_ns > 0, completion_tokens > 0 FROM settled",
    )
    assert rows == [("evicted", "cut_short", 0, 1, 1)]


async def test_openais_client_raises_the_error_event_of_a_stream(serve: Serve) -> None:
    running = await serve(DYING)
    prompt = " ".join(f"w{number}" for number in range(20))
    stream = await running.openai.completions.create(model="echo", prompt=prompt, stream=True)

    with pytest.raises(openai.APIError, match="died"):
        async for _ in stream:
            pass


async def test_openais_client_sees_nothing_of_a_death_that_a_stream_outlives(serve: Serve) -> None:
    running = await serve(DYING)
    stream = await running.openai.completions.create(
        model="echo", prompt="one two three four five six", stream=True
    )
    words = [word async for chunk in stream for word in chunk.choices[0].text.split()]

    assert words == ["one", "two", "three", "four", "five", "six"]
    assert running.engine("a").steps == 1


async def test_whole_answers_and_those_who_wait_outlive_a_death(
    running: Running, log_lines: list[EventDict]
) -> None:
    asked = {**ENDLESS, "max_tokens": 300}
    requests = [asyncio.create_task(running.post(COMPLETIONS, {**asked, "n": n})) for n in (4, 1)]
    await until(lambda: running.queue.waiting == 1)
    running.engine("a").kill()
    responses = await asyncio.gather(*requests)

    assert [response.status_code for response in responses] == [200, 200]
    tokens = [response.json()["usage"]["completion_tokens"] for response in responses]
    assert tokens == [1200, 300]
    assert outcomes(log_lines) == ["ok", "ok"]


async def test_an_engine_that_is_given_up_fails_whole_answers_and_those_who_wait(
    serve: Serve, log_lines: list[EventDict]
) -> None:
    running = await serve(GIVEN_UP)
    requests = [asyncio.create_task(running.post(COMPLETIONS, {**ENDLESS, "n": n})) for n in (4, 1)]
    await until(lambda: running.queue.waiting == 1)
    running.engine("a").kill()
    responses = await asyncio.gather(*requests)

    assert [response.status_code for response in responses] == [503, 503]
    assert all("retry-after" in response.headers for response in responses)
    assert "engine_error" in outcomes(log_lines)


async def test_a_model_whose_engine_was_given_up_is_refused_and_the_others_answer(
    serve: Serve,
) -> None:
    running = await serve(GIVEN_UP)
    running.engine("a").kill("out of memory")
    await until(lambda: running.daemon.pools["echo"].is_lost)

    with pytest.raises(openai.InternalServerError, match="engine a is failed: out of memory"):
        await running.openai.completions.create(model="echo", prompt="a")
    refused = await running.post(COMPLETIONS, ENDLESS)
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    answer = await running.openai.completions.create(model="other", prompt="a b")
    assert answer.choices[0].text == "a b"


async def test_a_client_that_sends_half_a_request_and_leaves_is_forgotten(
    running: Running, log_lines: list[EventDict]
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", running.daemon.doors.port)
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-acme\r\n"
    writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
    await until(lambda: running.daemon.path.in_flight == 1)
    writer.close()
    await writer.wait_closed()

    await until(lambda: running.daemon.path.in_flight == 0)
    assert outcomes(log_lines) == ["cancelled"]


async def test_many_clients_at_once_all_get_their_own_answer(running: Running) -> None:
    limits = httpx2.Limits(max_connections=40)
    async with httpx2.AsyncClient(
        base_url=running.daemon.doors.url, headers=AUTH, limits=limits, timeout=30, verify=False
    ) as client:
        bodies = [
            {"model": "echo", "prompt": f"prompt {n}", "stream": n % 2 == 0} for n in range(80)
        ]
        responses = await asyncio.gather(*(client.post(COMPLETIONS, json=body) for body in bodies))

    for number, response in enumerate(responses):
        assert f"{number}" in response.text
        assert response.status_code == 200
    assert running.daemon.recorder.settled_count == 80
