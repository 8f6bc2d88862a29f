"""The daemon as a process of its own, on uvloop: its log, its signals and its exit codes."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from infer_daemon.settings.state_folder import StateFolder

WATCHDOG_S = 60.0
AUTH = {"Authorization": "Bearer sk-demo-acme"}
ENDLESS = {"model": "echo", "prompt": "a", "max_tokens": 8000, "ignore_eos": True, "stream": True}


class Process:
    """A daemon that was started from the command line."""

    def __init__(self, root: Path, folder: StateFolder, *options: str) -> None:
        command = [sys.executable, "-m", "infer_daemon", "serve", "--config", "config/sim.toml"]
        self.popen = subprocess.Popen(
            [*command, "--port", "0", "--state-dir", str(folder.root), *options],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []
        # A daemon that hangs ends its log, and so fails the test, instead of hanging it too.
        self._watchdog = threading.Timer(WATCHDOG_S, self.popen.kill)
        self._watchdog.daemon = True
        self._watchdog.start()

    def close(self) -> None:
        """Kill it if it has not ended by itself."""
        self._watchdog.cancel()
        self.popen.kill()
        self.popen.communicate()

    def log_until(self, event: str) -> dict[str, Any]:
        """Read the log up to this event; every line must be JSON."""
        assert self.popen.stdout is not None
        for text in self.popen.stdout:
            self.lines.append(json.loads(text))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise EOFError(f"the log ended without {event}: {self.lines}")

    def send(self, number: signal.Signals, *, until: str) -> None:
        """Send a signal and read the log up to what it brings about."""
        self.popen.send_signal(number)
        self.log_until(until)


@pytest.fixture
def process(root: Path, folder: StateFolder) -> Iterator[Process]:
    """A daemon on a free port."""
    with closing(Process(root, folder, "--examples")) as process:
        yield process


@contextmanager
def endless_stream(url: str) -> Iterator[Iterator[str]]:
    """The lines of a stream that outlives the test, opened and begun."""
    with (
        httpx2.Client(base_url=url, headers=AUTH, timeout=30) as client,
        client.stream("POST", "/v1/completions", json=ENDLESS) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        yield lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_daemon_serves_until_it_is_told_to_stop(
    process: Process, folder: StateFolder, number: signal.Signals
) -> None:
    url = process.log_until("door_open")["url"]
    process.log_until("daemon_ready")
    with httpx2.Client(base_url=url, headers=AUTH, timeout=30) as client:
        body = {"model": "echo", "messages": [{"role": "user", "content": "one two"}]}
        answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == "one two"
    line = process.log_until("request")
    assert (line["outcome"], line["tenant"], line["completion_tokens"]) == ("ok", "acme", 2)
    assert line["total_ms"] > 0

    process.send(number, until="daemon_stopped")
    _, stderr = process.popen.communicate()
    assert process.popen.returncode == 0
    assert f"curl -s {url}/v1/chat/completions" in stderr
    assert "Traceback" not in stderr
    assert not folder.runtime.exists()


def test_a_second_signal_ends_a_drain_at_once(process: Process) -> None:
    url = process.log_until("door_open")["url"]
    process.log_until("daemon_ready")
    with endless_stream(url):
        process.send(signal.SIGTERM, until="draining")
        process.send(signal.SIGTERM, until="daemon_stopped")
        assert process.popen.wait() == 0
    outcomes = [line["outcome"] for line in process.lines if line["event"] == "request"]
    assert outcomes == ["evicted"]


def test_a_port_that_is_taken_is_an_error_with_exit_code_1(root: Path, folder: StateFolder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with closing(Process(root, folder, "--port", str(port))) as process:
            stdout, stderr = process.popen.communicate()

    assert process.popen.returncode == 1
    assert stderr.startswith(f"cannot listen on 127.0.0.1:{port}: ")
    assert stderr.count("\n") == 1
    assert "engine_state" not in stdout


def test_a_state_folder_that_is_in_use_is_an_error_with_exit_code_1(
    root: Path, folder: StateFolder
) -> None:
    with folder.locked(), closing(Process(root, folder)) as process:
        _, stderr = process.popen.communicate()

    assert process.popen.returncode == 1
    assert "another daemon" in stderr
