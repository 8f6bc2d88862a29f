"""A log whose disk is full, or whose reader has gone, breaks nothing else."""

import errno
import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import structlog

from infer_daemon.ledger import logs
from infer_daemon.ledger.log_stream import LogStream, json_note, text_note

Capture = pytest.CaptureFixture[str]


class Disk(io.BytesIO):
    """One that is full from time to time."""

    is_full = False

    def write(self, line: object, /) -> int:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(line)  # type: ignore[arg-type]

    def flush(self) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_lines_that_cannot_be_written_are_lost_and_counted() -> None:
    disk = Disk()
    stream = LogStream(disk, json_note)

    stream.write(b"first\n")
    disk.is_full = True
    for _ in range(3):
        stream.write(b"lost\n")
        stream.flush()
    disk.is_full = False
    stream.write(b"last\n")
    stream.write(b"and more\n")

    first, note, *rest = disk.getvalue().splitlines()
    assert [first, *rest] == [b"first", b"last", b"and more"]
    said = json.loads(note)
    assert said.pop("timestamp").endswith("Z")
    assert said == {"count": 3, "event": "log_lines_lost", "level": "warning"}


def test_a_terminal_is_told_in_words() -> None:
    assert text_note(3).endswith("Z [warning  ] log_lines_lost count=3\n")


@pytest.fixture
def as_before() -> Iterator[None]:
    """Logging may be configured; everything is put back afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers.clear()  # basicConfig(force=True) would close pytest's
    yield
    structlog.reset_defaults()
    root.handlers[:] = before[0]
    root.setLevel(before[1])


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("style", ["json", "console"])
def test_whoever_writes_a_line_goes_on(
    style: logs.LogFormat, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    stdout = io.TextIOWrapper(disk, write_through=True)
    monkeypatch.setattr(sys, "stdout", stdout)
    logs.configure(style, "info")
    disk.is_full = True

    structlog.get_logger().info("request", outcome="ok")
    logging.getLogger("vendor").error("a line of another's")

    assert (disk.getvalue(), capsys.readouterr().err) == (b"", "")
    disk.is_full = False
