"""What is written to stdout, by the daemon and by whatever uses the standard library's logging."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from infer_daemon.domain.outcomes import Outcome
from infer_daemon.ledger import logs


class Stdout:
    """What was written there."""

    def __init__(self, capture: pytest.CaptureFixture[bytes]) -> None:
        self._capture = capture

    def text(self) -> str:
        """All of it, once."""
        return self._capture.readouterr().out.decode()

    def lines(self) -> list[dict[str, object]]:
        """Every line, decoded."""
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def stdout(capsysbinary: pytest.CaptureFixture[bytes]) -> Iterator[Stdout]:
    """A stdout to configure logging on; everything is put back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers.clear()  # basicConfig(force=True) would close pytest's
    yield Stdout(capsysbinary)
    structlog.reset_defaults()
    root.handlers[:] = before[0]
    root.setLevel(before[1])


def test_a_line_is_one_json_object_with_a_level_and_a_time(stdout: Stdout) -> None:
    logs.configure("json", "info")
    structlog.get_logger().info("request", outcome=Outcome.OK, total_ms=1.5, text="a\nb")

    (line,) = stdout.lines()
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "outcome": "ok",
        "total_ms": 1.5,
        "text": "a\nb",
    }


def test_lines_below_the_level_are_not_written(stdout: Stdout) -> None:
    logs.configure("json", "warning")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")

    assert [line["event"] for line in stdout.lines()] == ["loud"]


def test_an_exception_is_a_key_of_its_line(stdout: Stdout) -> None:
    logs.configure("json", "info")
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger().exception("request_failed")

    (line,) = stdout.lines()
    assert line["level"] == "error"
    assert "ValueError: boom" in str(line["exception"])


def test_a_value_that_json_does_not_know_is_written_as_text(stdout: Stdout) -> None:
    logs.configure("json", "info")
    structlog.get_logger().info("x", error=ValueError("boom"))

    assert stdout.lines()[0]["error"] == "boom"


def test_what_libraries_log_looks_the_same(stdout: Stdout) -> None:
    logs.configure("json", "info")
    logging.getLogger("aiohttp.server").warning("slow %s", "client")
    logging.getLogger("aiohttp.server").info("chatter")

    (line,) = stdout.lines()
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {"event": "slow client", "level": "warning", "logger": "aiohttp.server"}


def test_a_line_from_an_engines_process_names_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFER_DAEMON_ENGINE", "chat-0")
    record = logging.LogRecord("vllm.core", logging.INFO, "f.py", 1, "loaded %d", (7,), None)
    line = json.loads(logs.foreign_formatter("json").format(record))

    assert line["engine"] == "chat-0"
    assert (line["event"], line["logger"], line["level"]) == ("loaded 7", "vllm.core", "info")


def test_a_terminal_gets_readable_lines(stdout: Stdout) -> None:
    logs.configure("console", "info")
    structlog.get_logger().info("daemon_ready", status="ready")

    text = stdout.text()
    assert "daemon_ready" in text
    assert not text.startswith("{")


@pytest.mark.parametrize(
    ("configured", "is_terminal", "chosen"),
    [
        ("auto", True, "console"),
        ("auto", False, "json"),
        ("json", True, "json"),
        ("console", False, "console"),
    ],
)
def test_auto_is_readable_on_a_terminal_and_json_elsewhere(
    monkeypatch: pytest.MonkeyPatch, configured: str, is_terminal: bool, chosen: str
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)

    assert logs.choose_format(configured) == chosen
