"""Where lines of the log go, for writers that must not fail for it.

A request that is answered is not to break because the disk of its log is full, or whoever read it
has gone. Such lines are lost; how many, the first line after them says.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, AnyStr, Generic

import msgspec


class LogStream(Generic[AnyStr]):
    """Never raises OSError. What a flush could not write waits in the file's own buffer."""

    def __init__(self, file: IO[AnyStr], note: Callable[[int], AnyStr]) -> None:
        """Args: note: the line that says how many were lost."""
        self._file: IO[AnyStr] = file
        self._note: Callable[[int], AnyStr] = note
        self._lost = 0

    def write(self, line: AnyStr) -> int:
        """Returns the line's length, written or not."""
        try:
            if self._lost:
                self._file.write(self._note(self._lost))
                self._lost = 0
            self._file.write(line)
        except OSError:
            self._lost += 1
        return len(line)

    def flush(self) -> None:
        """As far as that can be done."""
        with suppress(OSError):
            self._file.flush()


def json_note(lost: int) -> bytes:
    """A line like others of the daemon."""
    said = {"count": lost, "event": "log_lines_lost", "level": "warning", "timestamp": _now()}
    return msgspec.json.encode(said) + b"\n"


def text_note(lost: int) -> str:
    """The same for a terminal."""
    return f"{_now()} [warning  ] log_lines_lost count={lost}\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
