"""The door's patience: how many may stand in it, and how long one may take to say what it wants.

The HTTP library reads and parses; what it leaves open is closed here: a limit on connections, a
deadline for the head of a request, and errors of the protocol in the shape of all others.
"""

import asyncio
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from infer_daemon.api.openai import error_response
from infer_daemon.domain.errors import (
    DaemonError,
    HeaderTooLarge,
    MalformedRequest,
    SentTooSlowly,
    TooManyConnections,
)
from infer_daemon.ledger.refusals import DoorRefusals
from infer_daemon.settings.schema import ListenSection

log = structlog.get_logger()


class Door(web.Server):
    """Makes a protocol for each connection, up to a limit."""

    def __init__(self, made: web.Server, limits: ListenSection, refusals: DoorRefusals) -> None:
        """Args: made: the server that the application would use; its handlers are kept."""
        super().__init__(
            made.request_handler,
            request_factory=made.request_factory,
            handler_cancellation=True,
            loop=made._loop,
            access_log=None,
            keepalive_timeout=limits.keepalive_timeout_s,
            max_line_size=limits.header_bytes_max,
            max_field_size=limits.header_bytes_max,
            lingering_time=1.0,
            # A body that cannot be unpacked would be a traceback in the log, for anybody to cause.
            auto_decompress=False,
        )
        self.limits = limits
        self.refusals = refusals

    def __call__(self) -> RequestHandler:
        """A new connection."""
        is_full = len(self._connections) >= self.limits.connections_max
        return Visitor(self, is_full=is_full, kwargs=self._kwargs)


class Visitor(RequestHandler):
    """One connection."""

    __slots__ = ("_is_full", "_limits", "_patience", "_refusals", "_unread")

    def __init__(self, door: Door, *, is_full: bool, kwargs: dict[str, Any]) -> None:
        super().__init__(door, loop=asyncio.get_running_loop(), **kwargs)
        self._limits = door.limits
        self._refusals = door.refusals
        self._is_full = is_full
        self._patience: asyncio.TimerHandle | None = None
        """Runs while the head of a request is awaited."""
        self._unread: asyncio.TimerHandle | None = None
        """Runs while the client does not read what it asked for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        if self._is_full:
            self._turn_away(TooManyConnections(retry_after_s=1))
        else:
            self._be_patient()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. The deadline holds from the first byte of a head to its last;
        what comes while a request is answered is its body, or early."""
        super().data_received(data)
        if self._messages or self._current_request is not None:
            self._stop_waiting()
        elif self._patience is None and self._waiter is not None and not self._waiter.done():
            self._be_patient()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: the client does not read."""
        super().pause_writing()
        loop = asyncio.get_running_loop()
        self._unread = loop.call_later(self._limits.receive_timeout_s, self._give_up)

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`: it reads again."""
        super().resume_writing()
        self._stop_giving_up()

    def connection_lost(self, exc: BaseException | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop_waiting()
        self._stop_giving_up()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no request, or what nobody expected; the connection is closed either way."""
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the response is out already")
        error: DaemonError
        if isinstance(exc, LineTooLong):
            error = HeaderTooLarge()
        elif status < 500:
            first_line = (message or "").strip().partition("\n")[0]
            error = MalformedRequest(f"this is not HTTP as it should be: {first_line[:200]}")
        else:
            error = DaemonError()
        self._refusals.add(error)
        if status >= 500:
            log.error("request_failed", id=error.request_id, exc_info=exc)
        response = error_response(error, None)
        response.force_close()
        return response

    def _be_patient(self) -> None:
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(self._limits.send_timeout_s, self._lose_patience)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _lose_patience(self) -> None:
        self._patience = None
        self._turn_away(SentTooSlowly())

    def _give_up(self) -> None:
        self._unread = None
        if self.transport is not None:
            self.transport.abort()

    def _stop_giving_up(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _turn_away(self, error: DaemonError) -> None:
        """Answer without a request, and close."""
        transport = self.transport
        if transport is None:
            return
        self._refusals.add(error)
        response = error_response(error, None)
        assert isinstance(response.body, bytes)
        head = [f"HTTP/1.1 {error.status} {response.reason}", "Connection: close"]
        head += [f"{name}: {value}" for name, value in response.headers.items()]
        head += [f"Content-Length: {len(response.body)}", "", ""]
        transport.write("\r\n".join(head).encode() + response.body)
        self.force_close()
        # Closing waits until the answer is read; this client may not even do that.
        asyncio.get_running_loop().call_later(1.0, transport.abort)
