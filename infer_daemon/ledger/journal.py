"""Where rows go while the database cannot be written: one line for each, appended.

A line is the CRC-32 of the row's JSON in eight hex digits, a space, and the JSON. Whatever was
cut off by a kill or a full disk fails its check and was never confirmed to anybody. A row may stand
here and in the database both: who replays goes by its id.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from infer_daemon.ledger.rows import Row

_DECODER: msgspec.json.Decoder[Row] = msgspec.json.Decoder(Row)


class Journal:
    """Used by one thread. The file is there only while there is something in it."""

    def __init__(self, path: Path, *, is_synced: bool) -> None:
        """Args: is_synced: whether a row outlives the machine once it is appended."""
        self.path = path
        self.waiting = 0
        """Rows that were appended and not cleared, as far as this process knows."""
        self.damaged = 0
        """Lines that the last reading could not make out, without those at the end: these were cut
        off while they were written."""
        self._is_synced = is_synced
        self._file: int | None = None
        self._bytes = 0
        """Up to where it is whole."""

    def append(self, lines: Sequence[bytes]) -> None:
        """All of these lines, or an exception; the next append goes over what is there of them.

        Raises:
            OSError: it cannot be written.
        """
        data = b"".join(lines)
        file = self._opened()
        try:
            _write(file, data, self._bytes)
            if self._is_synced:
                os.fdatasync(file)
        except OSError:
            with suppress(OSError):
                if self._bytes:
                    os.ftruncate(file, self._bytes)
                elif not self.path.is_symlink():  # somebody's choice of another disk stays
                    self.clear()
            raise
        self._bytes += len(data)
        self.waiting += len(lines)

    def read(self, chunk: int) -> Iterator[list[Row]]:
        """Its rows in order, so many at a time.

        Raises:
            OSError: it cannot be read.
        """
        self.damaged = unreadable = 0
        rows: list[Row] = []
        for line in self._lines():
            row = _row(line)
            if row is None:
                unreadable += 1
                continue
            self.damaged, unreadable = self.damaged + unreadable, 0
            rows.append(row)
            if len(rows) == chunk:
                yield rows
                rows = []
        if rows:
            yield rows

    def _lines(self) -> Iterator[bytes]:
        try:
            with self.path.open("rb") as file:
                left = os.fstat(file.fileno()).st_size
                while left > 0:
                    line = file.readline(left)
                    left -= len(line)
                    yield line
        except FileNotFoundError:
            return

    def clear(self, *, keep_as: Path | None = None) -> None:
        """Everything in it is in the database, durably: remove it, or keep it by another name.

        Raises:
            OSError: it cannot be removed. It will be replayed again, which is harmless.
        """
        self.close()
        with suppress(FileNotFoundError):
            if keep_as is None:
                self.path.unlink()
            else:
                self.path.replace(keep_as)
        self.waiting = 0

    def close(self) -> None:
        """Idempotent. Appending opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _opened(self) -> int:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._bytes = os.fstat(self._file).st_size
            if self._bytes and os.pread(self._file, 1, self._bytes - 1) != b"\n":
                # What was cut off becomes a line of its own.
                self._bytes += os.pwrite(self._file, b"\n", self._bytes)
            if self._is_synced:
                _sync_folder(self.path.parent)
        return self._file


def _write(file: int, data: bytes, at: int) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], at + written)


def _sync_folder(folder: Path) -> None:
    """A new file outlives the machine only with its folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def line_of(row: Row) -> bytes:
    """Raises: OverflowError, TypeError, UnicodeError: it holds what is no JSON."""
    text = msgspec.json.encode(row)
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _row(line: bytes) -> Row | None:
    check, _, text = line.rstrip(b"\n").partition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        return None
    try:
        return _DECODER.decode(text)
    except msgspec.DecodeError:
        return None
