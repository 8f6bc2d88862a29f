"""A client that is told to come later and comes at once, over and over."""

import time

import pytest
from structlog.types import EventDict

from infer_daemon.bench.wire import Address, Connection, connect
from infer_daemon.ledger.spate import LINES_MAX
from tests.conftest import KEYS
from tests.integration.conftest import Serve
from tests.integration.running import Running, until

LIMITED = """
[listen]
port = 0
body_bytes_max = 16_000_000
[engines.a]
kind = "sim"
model = "echo"
sim.step_ms = 0
[models.echo]
engines = ["a"]
[tenants.acme.limits]
requests_per_minute = 1
"""


def request(key: str, text: str = "a", length: int | None = None) -> bytes:
    """One completion; its head may promise more than there is."""
    body = f'{{"model": "echo", "prompt": "{text}"}}'.encode()
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: a\r\n"
        f"Authorization: Bearer {key}\r\nContent-Length: {length or len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask(connection: Connection, wire: bytes, times: int) -> tuple[set[int], float]:
    """The statuses, and how long the fastest answer took: what comes between is not its cost."""
    statuses, fastest_s = set(), float("inf")
    for _ in range(times):
        begun_s = time.perf_counter()
        statuses.add(await connection.ask(wire, lambda _: None, 10))
        fastest_s = min(fastest_s, time.perf_counter() - begun_s)
    return statuses, fastest_s


@pytest.fixture
async def limited(serve: Serve) -> Running:
    """A daemon of which a tenant has had all that it may have."""
    running = await serve(LIMITED)
    assert (await running.post("/v1/completions", {"model": "echo", "prompt": "a"})).is_success
    return running


async def connected(running: Running) -> Connection:
    return await connect(Address("", 0, str(running.socket)))


async def test_refusals_cost_less_than_answers_and_are_all_counted_but_not_all_told(
    limited: Running, log_lines: list[EventDict]
) -> None:
    hammering, other = await connected(limited), await connected(limited)
    statuses, refused_s = await ask(hammering, request(KEYS["acme"]), 500)
    answers, answered_s = await ask(other, request(KEYS["globex"]), 50)

    assert (statuses, answers) == ({429}, {200})
    assert refused_s < answered_s
    page = (await limited.http.get("/metrics")).text
    (counted,) = [
        line
        for line in page.splitlines()
        if line.startswith("infer_requests_total") and "rate_limit_exceeded" in line
    ]
    assert counted.endswith(" 500.0")
    lines = [line for line in log_lines if line["event"] == "request" and "code" in line]
    recorder = limited.daemon.recorder
    assert len(lines) == 500 - recorder.untold_count < 20 * LINES_MAX
    for connection in (hammering, other):
        connection.close()
    await until(lambda: any(line["event"] == "requests_refused" for line in log_lines))


async def test_the_first_refusals_have_stories_and_those_of_others_stay(limited: Running) -> None:
    answered = await limited.openai_unix.with_options(api_key=KEYS["globex"]).completions.create(
        model="echo", prompt="a"
    )
    connection = await connected(limited)
    await ask(connection, request(KEYS["acme"]), 200)
    connection.close()

    recorder = limited.daemon.recorder
    assert recorder.story(answered.id) is not None
    assert len(recorder._stories) <= 200 - recorder.untold_count + 2


async def test_a_large_body_is_not_read_for_a_tenant_whose_limit_says_no_already(
    limited: Running,
) -> None:
    small, large = await connected(limited), await connected(limited)
    statuses, small_s = await ask(small, request(KEYS["acme"]), 30)
    large_wire = request(KEYS["acme"], "a" * 8_000_000)
    statuses_large, large_s = await ask(large, large_wire, 3)
    answered, answered_s = await ask(large, request(KEYS["globex"], "a" * 8_000_000), 3)

    assert (statuses, statuses_large, answered) == ({429}, {429}, {400})
    # It is taken off the connection, which goes on, but not looked at.
    assert small_s < large_s < answered_s
    for connection in (small, large):
        connection.close()


async def test_a_body_that_never_comes_is_not_waited_for(limited: Running) -> None:
    connection = await connected(limited)
    statuses, _ = await ask(connection, request(KEYS["acme"], length=10_000_000), 1)

    assert statuses == {429}
    await until(lambda: not connection.is_open)
