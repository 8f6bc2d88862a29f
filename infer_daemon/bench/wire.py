"""An HTTP/1.1 client that does next to nothing, since it shares its cores with what it measures.

One request at a time on a persistent connection. Bodies are handed on piece by piece, as they
arrive; headers are only searched for what delimits the body.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens: a Unix socket if there is one, else TCP."""

    host: str
    port: int
    socket: str = ""


class Connection(asyncio.Protocol):
    """One connection to a server."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[int] | None = None
        self._on_body: Callable[[bytes], None] = lambda _: None
        self._status = 0
        self._length = 0
        self._step = self._take_head
        self.head = b""
        """Status line and headers of the last answer, in lower case."""

    async def ask(self, request: bytes, on_body: Callable[[bytes], None], timeout_s: float) -> int:
        """Send a whole request; returns the status when `on_body` has had all of the answer.

        Raises:
            OSError: the connection broke; it cannot be used again.
            TimeoutError: likewise, after `timeout_s`.
        """
        assert self._transport is not None, "not connected"
        assert self._answered is None, "one request at a time"
        if not self.is_open:
            raise ConnectionResetError("the server closed the connection between two requests")
        self._on_body = on_body
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._answered
        finally:
            self._answered = None

    @property
    def is_open(self) -> bool:
        """Whether neither side has hung up, as far as is known here."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        # uvloop's transports have the methods but not the type.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(
                ConnectionResetError(f"the server hung up in the middle of an answer ({exc})")
            )

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._buffer += data
        try:
            while self._step():
                pass
        except ValueError as error:
            if self._answered is not None and not self._answered.done():
                self._answered.set_exception(ConnectionError(f"not HTTP: {error}"))

    # Each step takes one unit off the buffer, and returns whether there may be another.

    def _take_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end]).lower()
        del self._buffer[: end + 4]
        self.head = head
        self._status = int(head.split(b" ", 2)[1])
        if b"\r\ntransfer-encoding: chunked" in head:
            self._step = self._chunk
            return True
        found = _LENGTH.search(head)
        if found is None:
            raise ValueError("an answer without a length")
        self._length = int(found[1])
        self._step = self._whole
        return True

    def _chunk(self) -> bool:
        buffer = self._buffer
        line_end = buffer.find(b"\r\n")
        if line_end < 0:
            return False
        size = int(buffer[:line_end].partition(b";")[0], 16)
        start, end = line_end + 2, line_end + 2 + size
        if len(buffer) < end + 2:
            return False
        body = bytes(buffer[start:end])
        del buffer[: end + 2]
        if body:
            self._on_body(body)
            return True
        return self._end()

    def _whole(self) -> bool:
        if len(self._buffer) < self._length:
            return False
        body = bytes(self._buffer[: self._length])
        del self._buffer[: self._length]
        self._on_body(body)
        return self._end()

    def _end(self) -> bool:
        self._step = self._take_head
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(self._status)
        return False


async def connect(address: Address) -> Connection:
    """Open a connection."""
    loop = asyncio.get_running_loop()
    if address.socket:
        _, connection = await loop.create_unix_connection(Connection, address.socket)
    else:
        _, connection = await loop.create_connection(Connection, address.host, address.port)
    return connection
