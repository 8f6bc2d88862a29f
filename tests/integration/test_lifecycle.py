"""A daemon's doors, readiness, figures and end."""

import asyncio
import errno
import json
import os
import socket
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import NoReturn

import openai
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from structlog.types import EventDict

from infer_daemon.api import listeners
from infer_daemon.daemon import Daemon
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.fleet import Fleet
from infer_daemon.settings.state_folder import StateFolder
from tests.conftest import MakeSettings
from tests.integration.conftest import Serve
from tests.integration.running import ENDLESS, SIM, Running, error_of, until

SLOW = SIM.replace("sim.step_ms = 1", "sim.start_s = {seconds}", 1)


async def test_a_daemon_is_not_ready_before_its_engines_and_says_what_they_do(
    serve: Serve,
) -> None:
    running = await serve(SLOW.format(seconds=3600), ready=False)
    await until(lambda: bool(running.daemon.pools["other"].facts))
    response = await running.http.get("/ready")
    refused = await running.post("/v1/completions", ENDLESS)

    assert response.status_code == 503
    assert response.json() == {
        "status": "not ready",
        "models": {
            "echo": {"state": "starting", "reason": "engine a is starting: pretending to load"},
            "other": {"state": "ready"},
        },
    }
    assert (await running.http.get("/health")).status_code == 200
    assert refused.status_code == 503
    assert error_of(refused)["code"] == "model_not_ready"
    assert refused.headers["retry-after"] == "10"


async def test_a_daemon_becomes_ready_when_its_last_engine_is(
    serve: Serve, log_lines: list[EventDict]
) -> None:
    running = await serve(SLOW.format(seconds=1), ready=False)
    before = await running.http.get("/ready")
    await running.daemon.fleet.settled()
    after = await running.http.get("/ready")

    assert (before.status_code, after.status_code) == (503, 200)
    assert after.json()["status"] == "ready"
    await until(lambda: any(line["event"] == "daemon_ready" for line in log_lines))


async def test_a_failed_engine_does_not_keep_the_daemon_from_being_ready(serve: Serve) -> None:
    running = await serve(SIM.replace("sim.step_ms = 1", 'sim.fail_start = "no GPU"', 1))
    response = await running.http.get("/ready")

    assert response.status_code == 200
    assert response.json()["models"] == {
        "echo": {"state": "failed", "reason": "engine a is failed: no GPU"},
        "other": {"state": "ready"},
    }


async def test_a_daemon_whose_engines_all_failed_is_not_ready(
    serve: Serve, log_lines: list[EventDict]
) -> None:
    running = await serve(SIM.replace("sim.step_ms = 1", 'sim.fail_start = "no GPU"'))

    assert (await running.http.get("/ready")).status_code == 503
    await until(lambda: any(line["event"] == "daemon_not_ready" for line in log_lines))


async def test_metrics_are_read_by_prometheus_and_have_every_engine(running: Running) -> None:
    await running.openai.completions.create(model="echo", prompt="one two three")
    await running.openai.completions.create(model="other", prompt="one")
    response = await running.http.get("/metrics")
    families = list(text_string_to_metric_families(response.text))
    samples = {
        (sample.name, sample.labels.get("engine"), sample.labels.get("state")): sample.value
        for family in families
        for sample in family.samples
    }

    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert samples["infer_completion_tokens_total", "a", None] == 3
    assert samples["infer_completion_tokens_total", "b", None] == 1
    assert samples["infer_engine_state", "a", "ready"] == 1
    assert samples["infer_engine_state", "b", "failed"] == 0
    assert samples["infer_ttft_seconds_count", "a", None] == 1
    assert {family.name for family in families} >= {
        "infer_requests",
        "infer_requests_running",
        "infer_event_loop_lag_seconds",
        "process_resident_memory_bytes",
    }


async def test_a_draining_daemon_refuses_what_is_new_and_finishes_what_runs(
    serve: Serve, log_lines: list[EventDict]
) -> None:
    running = await serve(SIM.replace("sim.step_ms = 1", "sim.step_ms = 20"))
    async with running.streaming(max_tokens=60) as events:
        await events.next()
        running.daemon.stop()
        await until(lambda: running.daemon.path.is_draining)
        refused = await running.post("/v1/completions", ENDLESS)
        ready = await running.http.get("/ready")
        assert not running.task.done()
        rest = await events.rest()
    await running.task

    assert refused.status_code == 503
    assert error_of(refused)["code"] == "shutting_down"
    assert refused.headers["retry-after"] == "10"
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert rest[-1] == "[DONE]"
    ends = [(x["outcome"], x["completion_tokens"]) for x in log_lines if x["event"] == "request"]
    assert ends == [("rejected", 0), ("ok", 60)]


@pytest.mark.parametrize("how", ["timeout", "second signal"])
async def test_a_drain_does_not_wait_for_ever_and_tells_who_is_left(
    serve: Serve, log_lines: list[EventDict], how: str
) -> None:
    timeout_s = 0.2 if how == "timeout" else 3600
    hung = SIM.replace("sim.step_ms = 1", "sim.hang_after_tokens = 3", 1)
    running = await serve(f"daemon.drain_timeout_s = {timeout_s}\n{hung}")
    async with running.streaming(n=4) as events:
        await events.next()
        waiting = asyncio.create_task(running.post("/v1/completions", ENDLESS))
        await until(lambda: running.queue.waiting == 1)
        running.daemon.stop()
        if how == "second signal":
            await until(lambda: running.daemon.path.is_draining)
            running.daemon.stop()
        *_, last = await events.rest()
    await running.task

    assert json.loads(last)["error"]["code"] == "cut_short"
    assert (await waiting).status_code == 503
    assert error_of(await waiting)["code"] == "cut_short"
    ends = [(x["outcome"], x["code"]) for x in log_lines if x["event"] == "request"]
    assert ends == [("evicted", "cut_short")] * 2
    assert log_lines[-1]["event"] == "daemon_stopped"


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
async def test_openais_client_raises_for_a_stream_that_is_cut_short(
    serve: Serve, endpoint: str
) -> None:
    running = await serve()
    client, asked = running.openai, {"model": "echo", "max_tokens": 8000, "stream": True}
    extra = {"ignore_eos": True}
    if endpoint == "chat":
        said = [{"role": "user", "content": "a"}]
        stream = await client.chat.completions.create(messages=said, **asked, extra_body=extra)
    else:
        stream = await client.completions.create(prompt="a", **asked, extra_body=extra)

    async def read() -> None:
        async for _ in stream:
            for _ in range(2):
                running.daemon.stop()

    with pytest.raises(openai.APIError) as caught:
        await read()
    await running.task

    assert caught.value.code == "cut_short"
    del caught  # it holds what is left of the stream, which is to end here and in no other thread


@pytest.mark.parametrize("when", ["while requests run", "while engines stop"])
async def test_a_second_signal_kills_engines_that_shut_down_slowly(serve: Serve, when: str) -> None:
    running = await serve(SIM.replace("sim.step_ms = 1", "sim.stop_s = 3600"))
    async with AsyncExitStack() as stack:
        if when == "while requests run":
            events = await stack.enter_async_context(running.streaming())
            await events.next()
        running.daemon.stop()
        await until(lambda: running.daemon.path.is_draining)
        if when == "while engines stop":
            statuses = running.daemon.pools["echo"].statuses.values()
            await until(lambda: all(s.state is EngineState.STOPPING for s in statuses))
        assert not running.task.done()
        running.daemon.stop()
        async with asyncio.timeout(5):
            await running.task


async def test_a_daemon_that_has_ended_leaves_no_file_but_its_lock(serve: Serve) -> None:
    running = await serve()
    assert running.socket.exists()
    running.daemon.stop()
    await running.task

    assert not running.socket.exists()
    assert not running.folder.admin_socket.exists()


async def test_a_daemon_that_has_ended_leaves_nothing_to_connect_to(serve: Serve) -> None:
    running = await serve()
    port = running.daemon.doors.port
    running.daemon.stop()
    await running.task

    doors: list[tuple[int, tuple[str, int] | str]] = [
        (socket.AF_INET, ("127.0.0.1", port)),
        (socket.AF_UNIX, str(running.socket)),
        (socket.AF_UNIX, str(running.folder.admin_socket)),
    ]
    for family, address in doors:
        with socket.socket(family) as probe:
            assert probe.connect_ex(address) in (errno.ECONNREFUSED, errno.ENOENT)


async def test_sockets_are_born_with_their_modes(serve: Serve) -> None:
    running = await serve(SIM.replace("[listen]", '[listen]\nunix_socket_mode = "0606"'))

    assert running.socket.stat().st_mode & 0o777 == 0o606
    assert running.folder.admin_socket.stat().st_mode & 0o777 == 0o600
    assert os.umask(os.umask(0o022)) == 0o022


async def test_a_socket_file_of_a_dead_process_is_replaced(
    serve: Serve, folder: StateFolder
) -> None:
    folder.root.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder.root / "api.sock"))
    running = await serve()

    assert (await running.unix.get("/health")).status_code == 200


async def refused(settings_of: MakeSettings, folder: StateFolder, text: str) -> str:
    """Start a daemon that cannot open its doors, and return why."""
    with folder.locked(), pytest.raises(listeners.AddressInUse) as caught:
        await Daemon(settings_of(text), folder).run()
    return str(caught.value)


@pytest.mark.parametrize("content", ["file", "listener"])
async def test_a_socket_path_that_is_taken_is_left_alone(
    settings_of: MakeSettings, folder: StateFolder, short_dir: Path, content: str
) -> None:
    path = short_dir / "taken.sock"
    text = SIM.replace("[listen]", f'[listen]\nunix_socket = "{path}"')
    with ExitStack() as stack:
        if content == "file":
            path.write_text("precious")
        else:
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(path))
            listener.listen()
        why = await refused(settings_of, folder, text)

    assert str(path) in why
    assert path.exists()


async def test_a_host_that_nobody_knows_is_named_with_the_reason(
    settings_of: MakeSettings, folder: StateFolder
) -> None:
    why = await refused(
        settings_of, folder, SIM.replace("port = 0", 'port = 0\nhost = "300.1.1.1"')
    )

    assert why.startswith("cannot listen on 300.1.1.1:0: ")
    assert "nknown error" not in why


async def test_a_port_that_is_taken_is_named(
    settings_of: MakeSettings, folder: StateFolder
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        why = await refused(settings_of, folder, SIM.replace("port = 0", f"port = {port}"))

    assert why.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert why.lower().endswith("address already in use")


class BrokenFleet(Fleet):
    """Fails as nobody expected."""

    async def run(self, load_vendor: object) -> NoReturn:
        """See `Fleet`."""
        raise KeyError("broken")


async def test_a_part_that_fails_ends_the_daemon_with_its_error(
    settings_of: MakeSettings, folder: StateFolder, log_lines: list[EventDict]
) -> None:
    """Exit code 0 would keep a service manager from starting it again."""
    with folder.locked():
        daemon = Daemon(settings_of(SIM), folder)
        daemon.fleet = BrokenFleet({}, [], lambda _: CollectorRegistry(), lambda *_: None)
        with pytest.raises(KeyError, match="broken"):
            async with asyncio.timeout(20):
                await daemon.run()

    assert any(line["event"] == "task_failed" for line in log_lines)
    assert log_lines[-1]["event"] == "daemon_stopped"


async def test_the_log_tells_where_the_doors_are(
    running: Running, log_lines: list[EventDict]
) -> None:
    (line,) = [line for line in log_lines if line["event"] == "door_open"]

    assert line["url"] == running.daemon.doors.url
    assert line["unix_socket"] == str(running.socket)
