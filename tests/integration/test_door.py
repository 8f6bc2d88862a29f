"""The door: who may stand in it, for how long, and who is let in by which sign."""

import asyncio
import grp
import json
import os
import re
import socket
import ssl
import subprocess
from pathlib import Path

import httpx2
import pytest
from structlog.types import EventDict

from infer_daemon.tenancy.registry import key_hash
from tests.integration.conftest import Serve
from tests.integration.running import AUTH, SIM, Running, error_of, until

COMPLETIONS = "/v1/completions"
BODY = {"model": "echo", "prompt": "one two"}
HEAD = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-acme\r\n"


def listening(*lines: str) -> str:
    """The usual configuration with more lines in [listen]."""
    return SIM.replace("[listen]", "\n".join(["[listen]", *lines]), 1)


async def say(running: Running, text: str | bytes) -> tuple[int, dict[str, str]]:
    """Send raw bytes, and read the answer to its end: status and error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.daemon.doors.port)
    writer.write(text.encode() if isinstance(text, str) else text)
    async with asyncio.timeout(10):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert re.search(rb"(?i)\r\nx-request-id: [0-9a-f]{24}\r\n", head + b"\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def refusals(running: Running) -> dict[str, int]:
    """What Prometheus is told of refusals before there was a request."""
    page = running.daemon.view.metrics().decode()
    found = re.findall(r'infer_door_refusals_total{reason="(\w+)"} (\d+)', page)
    return {reason: int(count) for reason, count in found}


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("", 408, "request_timeout"),
        ("POST /v1/comp", 408, "request_timeout"),
        (HEAD, 408, "request_timeout"),
        (f"{HEAD}Content-Length: 100\r\n\r\n{{", 408, "request_timeout"),
        (f"{HEAD}X-Long: {'x' * 5000}\r\n\r\n", 431, "header_too_large"),
        (f"GET /{'x' * 5000} HTTP/1.1\r\n\r\n", 431, "header_too_large"),
        ("nonsense\r\n\r\n", 400, "malformed_request"),
        (f"{HEAD}Content-Length: -1\r\n\r\n", 400, "malformed_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed_request"),
        (f"{HEAD}Content-Length: 2\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n{{}}",
         415, "unsupported_encoding"),
    ],
)  # fmt: skip
async def test_what_is_no_request_or_comes_too_slowly_is_told_so_and_the_door_closes(
    serve: Serve, log_lines: list[EventDict], text: str | bytes, status: int, code: str
) -> None:
    running = await serve(listening("send_timeout_s = 0.3", "header_bytes_max = 4096"))
    told, error = await say(running, text)

    assert (told, error["code"]) == (status, code)
    # A request that was begun has a line of its own.
    codes = [line.get("code") or line.get("reason") for line in log_lines]
    assert codes.count(code) == 1
    assert (await running.post(COMPLETIONS, BODY)).status_code == 200


async def test_a_connection_may_rest_between_requests_longer_than_one_may_take_to_send(
    serve: Serve,
) -> None:
    running = await serve(listening("send_timeout_s = 0.1"))
    reader, writer = await asyncio.open_connection("127.0.0.1", running.daemon.doors.port)
    for pause_s in (0, 0.3):
        await asyncio.sleep(pause_s)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        await reader.readuntil(b"ok\n")
    writer.close()


async def test_a_connection_that_rests_too_long_is_closed(serve: Serve) -> None:
    running = await serve(listening("keepalive_timeout_s = 0.1"))
    reader, writer = await asyncio.open_connection("127.0.0.1", running.daemon.doors.port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    async with asyncio.timeout(5):
        assert (await reader.read()).endswith(b"ok\n")
    writer.close()


async def test_a_client_that_never_reads_is_cut_off(
    serve: Serve, log_lines: list[EventDict]
) -> None:
    running = await serve(listening("receive_timeout_s = 0.2"))
    big = {**BODY, "prompt": "x" * 20_000, "ignore_eos": True, "stream": True, "max_tokens": 2000}
    with socket.create_connection(("127.0.0.1", running.daemon.doors.port)) as client:
        client.setblocking(False)
        body = json.dumps(big).encode()
        head = f"{HEAD}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        await asyncio.get_running_loop().sock_sendall(client, head.encode() + body)
        await until(lambda: running.daemon.path.in_flight == 1)
        await until(lambda: running.daemon.path.in_flight == 0)

    outcomes = [line["outcome"] for line in log_lines if line["event"] == "request"]
    assert outcomes == ["cancelled"]


async def test_an_unmet_expectation_is_no_reason_to_refuse(running: Running) -> None:
    for expected in ("100-continue", "miracles"):
        answer = await running.post(COMPLETIONS, BODY, headers={"Expect": expected})
        assert answer.status_code == 200


async def test_one_connection_too_many_is_turned_away_and_the_next_is_welcome(
    serve: Serve,
) -> None:
    running = await serve(listening("connections_max = 2"))
    held = [await asyncio.open_connection("127.0.0.1", running.daemon.doors.port) for _ in range(2)]
    for _, writer in held:
        writer.write(b"GET /health")
    await asyncio.sleep(0.05)

    status, error = await say(running, "")
    for _, writer in held:
        writer.close()
        await writer.wait_closed()

    assert (status, error["code"]) == (503, "too_many_connections")
    assert refusals(running) == {"too_many_connections": 1}
    await asyncio.sleep(0.05)
    assert (await running.post(COMPLETIONS, BODY)).status_code == 200


async def test_a_body_is_nested_as_deep_as_allowed_and_no_deeper(serve: Serve) -> None:
    running = await serve(listening("json_depth_max = 8"))

    def nested(levels: int) -> str:
        return '{"model": "echo", "prompt": "a", "x": ' + "[" * levels + "]" * levels + "}"

    headers = {"Content-Type": "application/json"}
    fine = await running.http.post(COMPLETIONS, content=nested(7), headers=headers)
    deep = await running.http.post(COMPLETIONS, content=nested(8), headers=headers)

    assert fine.status_code == 200
    assert error_of(deep)["code"] == "invalid_json"
    assert "deeper than 8" in error_of(deep)["message"]


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest",
        "https://elsewhere.example/a",
        "file:///etc/passwd",
        "http://elsewhere.example\\@images.example/",
        "http://images.example@elsewhere.example/",
        "http://[",
        "//images.example/a",
        "",
    ],
)
async def test_the_daemon_fetches_nothing_for_a_client_unless_from_a_listed_host(
    serve: Serve, url: str
) -> None:
    running = await serve(listening('media_hosts = ["images.example"]'))

    async def ask(of: str) -> httpx2.Response:
        part = {"type": "image_url", "image_url": {"url": of}}
        messages = [{"role": "user", "content": [part]}]
        return await running.post("/v1/chat/completions", {"model": "echo", "messages": messages})

    refused = await ask(url)
    hidden = await running.post(COMPLETIONS, {**BODY, "documents": [{"source": {"url": url}}]})
    assert (refused.status_code, hidden.status_code) == (400, 400)
    assert "does not fetch from" in error_of(refused)["message"]
    for fine in (
        "https://images.example/a.png",
        "https://IMAGES.example/a",
        "data:image/png;base64,AA==",
    ):
        assert "does not fetch" not in (await ask(fine)).text


async def test_a_user_of_this_machine_is_a_tenant_without_a_key_on_the_socket_alone(
    serve: Serve, log_lines: list[EventDict]
) -> None:
    running = await serve(f"{SIM}\n[tenants.local]\nuids = [{os.getuid()}]\n")
    for client in (running.unix, running.http):
        client.headers.pop("Authorization")

    assert (await running.unix.post(COMPLETIONS, json=BODY)).status_code == 200
    assert (await running.post(COMPLETIONS, BODY)).status_code == 401
    bad = await running.unix.post(COMPLETIONS, json=BODY, headers={"x-api-key": "nobody's"})
    assert bad.status_code == 401
    tenants = [line["tenant"] for line in log_lines if line["event"] == "request"]
    assert tenants == ["local", "", ""]


async def test_the_sockets_group_is_the_configurations(serve: Serve) -> None:
    others = [gid for gid in os.getgroups() if gid != os.getgid()] or [os.getgid()]
    group = grp.getgrgid(others[0])
    running = await serve(listening(f'unix_socket_group = "{group.gr_name}"'))

    assert running.socket.stat().st_gid == group.gr_gid
    assert running.socket.stat().st_mode & 0o777 == 0o660


async def test_operators_paths_may_be_for_operators_alone(serve: Serve) -> None:
    running = await serve(listening("operator_paths = false"))
    transport = httpx2.AsyncHTTPTransport(uds=str(running.folder.admin_socket), verify=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://daemon") as operator:
        for path in ("/health", "/ready", "/metrics"):
            assert (await running.http.get(path)).status_code == 404
            assert (await operator.get(path)).status_code == 200
        assert (await operator.get("/nothing")).json()["error"]["code"] == "not_found"


async def test_the_operators_tcp_door_opens_to_their_key_and_no_tenants(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    running = await serve(f'{SIM}\n[admin]\nport = {port}\nkey_hashes = ["{key_hash("sk-op")}"]\n')
    answers = {}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", verify=False) as client:
        for key in ("sk-op", "sk-acme", "nonsense"):
            headers = {"Authorization": f"Bearer {key}"}
            answers[key] = (await client.get("/state", headers=headers)).status_code
        answers["none"] = (await client.get("/metrics")).status_code

    assert answers == {"sk-op": 200, "sk-acme": 401, "nonsense": 401, "none": 401}
    assert refusals(running) == {"invalid_api_key": 3}
    assert (await running.http.get("/state")).status_code == 404


async def test_whoever_is_refused_before_a_request_is_counted_and_logged_without_a_word_of_theirs(
    running: Running, log_lines: list[EventDict]
) -> None:
    for _ in range(20):
        await running.http.get("/wp-login.php")
    await running.http.get(COMPLETIONS)
    await running.http.get("/v1/models", headers={"Authorization": "Bearer sk-nobody"})
    await running.post(COMPLETIONS, BODY, headers={"Authorization": "Bearer sk-nobody"})

    refused = {"not_found": 20, "method_not_allowed": 1, "invalid_api_key": 1}
    assert refusals(running) == refused
    lines = [line for line in log_lines if line["event"] == "door_refused"]
    assert {line["reason"] for line in lines} == set(refused)
    assert len(lines) < 10
    assert all(line.keys() == {"event", "log_level", "reason", "count", "id"} for line in lines)


async def test_what_belongs_to_no_request_has_an_id_to_be_quoted_too(
    running: Running, log_lines: list[EventDict]
) -> None:
    nobody = {"Authorization": "Bearer sk-nobody"}
    answers = {
        (answer := await running.http.request(method, path, headers=headers)).status_code: answer
        for method, path, headers in [
            ("GET", "/nothing", AUTH),
            ("GET", COMPLETIONS, AUTH),
            ("GET", "/v1/models", nobody),
            ("GET", "/v1/models", AUTH),
        ]
    }

    assert answers.keys() == {404, 405, 401, 200}
    ids = {status: answer.headers["x-request-id"] for status, answer in answers.items()}
    told = [line["id"] for line in log_lines if line["event"] == "door_refused"]
    assert told == [ids[status] for status in (404, 405, 401)]
    assert len(set(ids.values())) == 4


async def test_who_asks_in_a_wrong_way_is_told_the_right_one(running: Running) -> None:
    assert (await running.http.get(COMPLETIONS)).headers["Allow"] == "POST"
    assert (await running.http.post("/v1/models")).headers["Allow"] == "GET, HEAD"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for this machine and its key."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "1", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


async def test_with_a_certificate_the_tcp_door_speaks_tls(
    serve: Serve, certificate: tuple[Path, Path]
) -> None:
    chain, key = certificate
    running = await serve(listening(f'tls_certificate = "{chain}"', f'tls_key = "{key}"'))
    trusting = ssl.create_default_context(cafile=str(chain))
    async with httpx2.AsyncClient(verify=trusting, headers=AUTH) as client:
        answer = await client.post(f"{running.daemon.doors.url}{COMPLETIONS}", json=BODY)

    assert running.daemon.doors.url.startswith("https://")
    assert answer.status_code == 200


async def test_a_slow_reader_makes_no_memory_grow(running: Running) -> None:
    """What it has not read is merged or waits in the kernel; its engine's work goes on to its end
    and the stream is still whole."""
    tokens, word = 4000, "x" * 1000
    async with running.streaming(prompt=word, max_tokens=tokens, n=4) as events:
        await events.next()
        await until(lambda: running.engine("a").stats.running == 0, timeout_s=30)
        rest = await events.rest()

    assert rest[-1] == "[DONE]"
    assert sum(line.count(word) for line in rest) >= 4 * tokens - 1
    # Far fewer events than tokens: the rest was merged while nobody read.
    assert len(rest) < 4 * tokens / 2


async def test_keys_appear_in_nothing_that_is_shown(
    running: Running, log_lines: list[EventDict]
) -> None:
    await running.post(COMPLETIONS, BODY)
    bad = {"Authorization": "Bearer sk-of-somebody-else"}
    told = [
        (await running.post(COMPLETIONS, BODY, headers=bad)).text,
        (await running.post(COMPLETIONS, {**BODY, "model": "x"})).text,
        (await running.http.get("/metrics")).text,
        json.dumps(running.daemon.view.state()),
        repr(log_lines),
    ]

    for text in told:
        assert "sk-acme" not in text
        assert "sk-of-somebody-else" not in text
        assert key_hash("sk-acme") not in text
