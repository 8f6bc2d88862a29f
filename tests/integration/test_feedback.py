"""What tenants say of their answers."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from infer_daemon.ledger.feedback import WAITING_MAX
from infer_daemon.ledger.periods import DAY_US
from tests.conftest import KEYS
from tests.integration.conftest import Serve
from tests.integration.running import ENDLESS, SIM, Running, error_of, until
from tests.integration.test_ledger import locked
from tests.unit.ledger.sample import ask

GLOBEX = {"Authorization": f"Bearer {KEYS['globex']}"}


def found(running: Running, sql: str) -> list[tuple[Any, ...]]:
    return ask(running.folder.root / "ledger.sqlite3", sql)


def accepted(running: Running) -> int:
    """As the hours have it."""
    ((count,),) = found(running, "SELECT sum(accepted) FROM hours")
    return int(count)


async def answered(running: Running) -> str:
    """A request that has ended: its id, as its answer has it."""
    answer = await running.post("/v1/completions", {"model": "echo", "prompt": "one two"})
    return str(answer.json()["id"])


async def say(running: Running, request_id: str, **fields: Any) -> httpx2.Response:
    body = {"request_id": request_id, "accepted": True, **fields}
    return await running.post("/v1/feedback", body)


async def test_who_asked_may_say_whether_the_answer_was_accepted(running: Running) -> None:
    request_id = await answered(running)

    answer = await say(running, request_id, score=0.5, comment="good")

    plain = request_id.removeprefix("cmpl-")
    assert answer.json() == {
        "object": "feedback", "request_id": plain, "accepted": True, "replaced": False,
    }  # fmt: skip
    columns = "request_id, tenant, accepted, score, comment"
    assert found(running, f"SELECT {columns} FROM feedback") == [(plain, "acme", 1, 0.5, "good")]
    assert accepted(running) == 1
    page = (await running.http.get("/metrics")).text
    assert 'infer_feedback_total{accepted="true",model="echo",tenant="acme"} 1.0' in page


async def test_the_last_word_counts(running: Running) -> None:
    request_id, other = await answered(running), await answered(running)
    await say(running, other)
    counts = []
    for word in (False, True, True, False, True):
        answer = await say(running, request_id.removeprefix("cmpl-"), accepted=word, comment=None)
        assert answer.json()["replaced"] is bool(counts)
        counts.append(accepted(running))

    assert counts == [1, 2, 2, 1, 2]
    assert found(running, "SELECT count(*) FROM feedback") == [(2,)]
    page = (await running.http.get("/metrics")).text
    # Each answer once, by the first word, and then the changes: two answers are accepted now.
    assert 'infer_feedback_total{accepted="true",model="echo",tenant="acme"} 1.0' in page
    assert 'infer_feedback_total{accepted="false",model="echo",tenant="acme"} 1.0' in page
    assert 'infer_feedback_changed_total{accepted="true",model="echo",tenant="acme"} 2.0' in page
    assert 'infer_feedback_changed_total{accepted="false",model="echo",tenant="acme"} 1.0' in page


@pytest.mark.parametrize("stream", [False, True])
async def test_chats_are_known_by_their_ids(running: Running, stream: bool) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "one"}], "stream": stream}
    answer = await running.post("/v1/chat/completions", body)

    told = await say(running, f"chatcmpl-{answer.headers['x-request-id']}")

    assert told.json()["request_id"] == answer.headers["x-request-id"]


async def test_anothers_request_is_unknown(running: Running) -> None:
    request_id = await answered(running)

    answer = await running.post(
        "/v1/feedback", {"request_id": request_id, "accepted": True}, headers=GLOBEX
    )

    assert (answer.status_code, error_of(answer)["code"]) == (404, "request_not_found")
    assert (found(running, "SELECT * FROM feedback"), accepted(running)) == ([], 0)


@pytest.mark.parametrize("request_id", ["0" * 24, "chatcmpl-" + "0" * 24, "nonsense", "0" * 32])
async def test_what_nobody_asked_is_unknown(running: Running, request_id: str) -> None:
    answer = await say(running, request_id)

    assert (answer.status_code, error_of(answer)["param"]) == (404, "request_id")


async def test_what_still_runs_is_unknown(running: Running) -> None:
    async with running.streaming(**ENDLESS) as events:
        await events.next()
        answer = await say(running, events.headers["x-request-id"])

    assert answer.status_code == 404


async def test_what_was_pruned_is_unknown_and_its_hours_stay(running: Running) -> None:
    request_id = await answered(running)
    await say(running, request_id)
    later_us = time.time_ns() // 1000 + DAY_US
    await running.daemon.book.run(lambda database: database.prune(later_us, 10))

    assert (await say(running, request_id, accepted=False)).status_code == 404
    assert accepted(running) == 1


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"accepted": "yes"}, 400),
        ({"accepted": None}, 400),
        ({"score": 1.1}, 400),
        ({"score": -0.1}, 400),
        ({"score": "0.5"}, 400),
        ({"comment": "x" * 2001}, 400),
        ({"request_id": ""}, 400),
        ({"request_id": "x" * 201}, 400),
        ({"tenant": "globex"}, 400),
        ({"comment": "x" * 32_000}, 400),
        ({"comment": "x" * 32_768}, 413),
        ({"comment": "\U0001f600" * 2000}, 200),
        ({"score": 0, "comment": "\u0000\u2028"}, 200),
        ({"score": 1}, 200),
    ],
    ids=str,
)
async def test_impossible_feedback_is_refused(
    running: Running, fields: dict[str, Any], status: int
) -> None:
    request_id = await answered(running)

    answer = await say(running, **{"request_id": request_id, **fields})

    assert answer.status_code == status
    assert accepted(running) == (status == 200)


@pytest.mark.parametrize("chunked", [False, True])
async def test_of_a_body_that_is_too_large_no_more_is_read_than_it_may_have(
    running: Running, chunked: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield b" " * 8000

    content = pieces() if chunked else b" " * 64_000
    answer = await running.http.post("/v1/feedback", content=content)

    assert answer.status_code == 413
    assert "32768 bytes" in error_of(answer)["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b"\xff", b"[" * 100_000])
async def test_a_body_that_is_none_is_refused(running: Running, body: bytes) -> None:
    answer = await running.http.post("/v1/feedback", content=body)

    assert answer.status_code in (400, 413)
    assert error_of(answer)["type"] == "invalid_request_error"


async def test_a_key_is_needed_and_other_methods_are_not_answered(running: Running) -> None:
    wrong = {"Authorization": "Bearer sk-wrong"}
    assert (await running.post("/v1/feedback", {}, headers=wrong)).status_code == 401
    assert (await running.http.get("/v1/feedback")).headers["Allow"] == "POST"


async def test_many_say_something_at_once_and_each_is_counted_once(running: Running) -> None:
    ids = await asyncio.gather(*(answered(running) for _ in range(20)))
    words = [await asyncio.gather(*(say(running, id) for id in ids)) for _ in range(3)]

    assert {answer.status_code for each in words for answer in each} == {200}
    assert accepted(running) == 20


@pytest.mark.parametrize("policy", ["refuse", "spill"])
async def test_while_nothing_can_be_written_feedback_is_to_come_again(
    serve: Serve, policy: str
) -> None:
    running = await serve(f'{SIM}[ledger]\non_error = "{policy}"\n')
    request_id = await answered(running)
    with locked(running):
        await answered(running)  # finds out
        answer = await say(running, request_id)
        assert (answer.status_code, error_of(answer)["code"]) == (503, "ledger_unavailable")
        assert "Retry-After" in answer.headers
    await until(lambda: running.daemon.book.health.state == "ok")

    assert (await say(running, request_id)).status_code == 200


async def test_no_more_feedback_waits_than_there_is_room_for(running: Running) -> None:
    request_id = await answered(running)
    desk = running.daemon.feedback
    desk._waiting = WAITING_MAX

    assert (await say(running, request_id)).status_code == 503
    desk._waiting = 0
    assert (await say(running, request_id)).status_code == 200
