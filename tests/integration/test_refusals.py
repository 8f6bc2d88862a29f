"""What clients are told when the answer is no: the right status, in a shape their library reads."""

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.integration.conftest import Serve
from tests.integration.running import AUTH, ENDLESS, SIM, Running, error_of, until

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({}, "Authorization: Bearer"),
        ({"Authorization": "Bearer nobody's"}, "not valid"),
        ({"Authorization": "Basic sk-acme"}, "Authorization: Bearer"),
        ({"x-api-key": "nobody's"}, "not valid"),
        ({"Authorization": b"Bearer \xff\xfe"}, "not valid"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_without_a_valid_key_there_is_no_answer(
    running: Running, headers: dict[str, Any], words: str, method: str
) -> None:
    running.http.headers.pop("Authorization")
    path = CHAT if method == "POST" else "/v1/models"
    response = await running.http.request(method, path, headers=headers)

    assert response.status_code == 401
    error = error_of(response)
    assert (error["code"], error["type"]) == ("invalid_api_key", "authentication_error")
    assert words in error["message"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
async def test_what_machines_ask_needs_no_key(running: Running, path: str) -> None:
    running.http.headers.pop("Authorization")

    assert (await running.http.get(path)).status_code == 200


async def test_an_unknown_model_is_told_which_there_are(running: Running) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await running.openai.completions.create(model="nobody", prompt="a")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert "echo, other" in caught.value.message

    with pytest.raises(openai.NotFoundError, match="echo, other"):
        await running.openai.models.retrieve("nobody")


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "words"),
    [
        ("GET", "/v1/nothing", 404, "not_found", "there is nothing at /v1/nothing"),
        ("POST", "/v1/nothing", 404, "not_found", "there is nothing at /v1/nothing"),
        ("GET", CHAT, 405, "method_not_allowed", f"{CHAT} answers POST"),
        ("POST", "/v1/models", 405, "method_not_allowed", "answers GET, HEAD"),
    ],
)
async def test_a_wrong_path_or_method_is_told_what_is_right(
    running: Running, method: str, path: str, status: int, code: str, words: str
) -> None:
    response = await running.http.request(method, path)

    assert response.status_code == status
    error = error_of(response)
    assert error["code"] == code
    assert words in error["message"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"{", "not JSON"),
        (b'{"model": \xff}', "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"null", "not a JSON object"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(
    running: Running, content: bytes, words: str
) -> None:
    response = await running.http.post(CHAT, content=content)

    assert response.status_code == 400
    error = error_of(response)
    assert error["code"] == "invalid_json"
    assert words in error["message"]
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_refused(running: Running, chunked: bool) -> None:
    content = b" " * 70_000

    async def pieces() -> Any:
        for start in range(0, len(content), 10_000):
            yield content[start : start + 10_000]

    response = await running.http.post(CHAT, content=pieces() if chunked else content)

    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"


@pytest.mark.parametrize("sizes", [[70_000], [30_000, 30_000, 30_000]], ids=["file", "sum"])
async def test_an_upload_that_is_too_large_is_refused(running: Running, sizes: list[int]) -> None:
    files = [("file", (f"{number}.wav", b"\0" * size)) for number, size in enumerate(sizes)]
    response = await running.http.post("/v1/audio/transcriptions", files=files)

    assert response.status_code == 413
    assert error_of(response)["code"] == "body_too_large"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"json": {"model": "echo"}}, "multipart/form-data with a part named `file`"),
        ({"files": {"other": b"x"}}, "no part named `file`"),
        (
            {"content": b"junk", "headers": {"Content-Type": "multipart/form-data"}},
            "not multipart",
        ),
        (
            {"content": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            "not multipart",
        ),
        ({"files": {"file": b"x"}, "data": {"model": b"\xff"}}, "not multipart"),
    ],
)
async def test_an_upload_in_the_wrong_shape_is_refused(
    running: Running, options: dict[str, Any], words: str
) -> None:
    response = await running.http.post("/v1/audio/transcriptions", **options)

    assert response.status_code == 400
    error = error_of(response)
    assert error["code"] == "invalid_json"
    assert words in error["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/tokenize", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
    ],
)
async def test_a_model_is_not_asked_for_what_it_cannot_do(
    running: Running, path: str, body: dict[str, Any]
) -> None:
    response = await running.post(path, {"model": "echo", **body})

    assert response.status_code == 400
    error = error_of(response)
    assert (error["code"], error["param"]) == ("unsupported", "model")


@pytest.mark.parametrize(
    "field",
    [{"background": True}, {"previous_response_id": "resp_1"}, {"conversation": "conv_1"}],
)
async def test_a_response_that_would_have_to_be_stored_is_refused(
    running: Running, field: dict[str, Any]
) -> None:
    response = await running.post("/v1/responses", {"model": "echo", "input": "a", **field})

    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == next(iter(field))
    assert "not stored" in error["message"]


@pytest.mark.parametrize(
    ("body", "headers", "status", "kind"),
    [
        ({"model": "nobody"}, AUTH, 404, "not_found_error"),
        ({"model": "echo"}, AUTH, 400, "invalid_request_error"),
        ({"model": "echo"}, {"x-api-key": "nobody's"}, 401, "authentication_error"),
        (None, AUTH, 400, "invalid_request_error"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_anthropics_clients_are_told_in_anthropics_shape(
    running: Running,
    path: str,
    body: dict[str, Any] | None,
    headers: dict[str, str],
    status: int,
    kind: str,
) -> None:
    running.http.headers.pop("Authorization")
    response = await running.post(path, body, headers=headers)

    assert response.status_code == status
    answer = json.loads(response.content)
    assert answer["type"] == "error"
    assert answer["error"].keys() == {"type", "message"}
    assert answer["error"]["type"] == kind
    assert answer["request_id"] == response.headers["x-request-id"]


async def test_more_choices_than_an_engine_holds_are_the_clients_error(running: Running) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await running.openai.completions.create(model="echo", prompt="a", n=5)
    assert caught.value.code == "fanout_too_large"


async def test_a_full_queue_is_told_with_the_time_to_come_back(serve: Serve) -> None:
    running = await serve(SIM + "[scheduling]\nqueue_len_max = 1")
    async with running.streaming(n=4) as events:
        await events.next()
        waiting = asyncio.create_task(running.post("/v1/completions", ENDLESS))
        await until(lambda: running.queue.waiting == 1)
        response = await running.post("/v1/completions", ENDLESS)

        assert response.status_code == 503
        assert error_of(response)["code"] == "queue_full"
        assert int(response.headers["retry-after"]) >= 1
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_request_that_waits_too_long_is_told_so(serve: Serve) -> None:
    running = await serve(SIM + "[scheduling]\nwait_timeout_s = 0.05")
    async with running.streaming(n=4) as events:
        await events.next()
        response = await running.post("/v1/completions", ENDLESS)

    assert response.status_code == 503
    assert error_of(response)["code"] == "waited_too_long"


@pytest.mark.parametrize("target", [b"/\xff", b"/%ff", b"/%ed%b3%bf", b"/" + b"x" * 3000])
async def test_a_path_of_strange_bytes_is_not_found_and_not_our_fault(
    running: Running, target: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", running.daemon.doors.port)
    writer.write(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    status = (await reader.readline()).split()[1]
    await reader.read()
    writer.close()
    await writer.wait_closed()

    assert status in (b"404", b"400")
