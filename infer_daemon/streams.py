"""What the client of a stream reads: comments while it waits, then its answer, then the end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import structlog

from infer_daemon.domain.errors import DaemonError
from infer_daemon.domain.events import error_event
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import CONTINUED, RequestRecord
from infer_daemon.engines.contract import EventStream, Reply

log = structlog.get_logger()

FALLBACK = "x-infer-fallback"

Settle = Callable[[RequestRecord, Outcome, DaemonError | None], Awaitable[None]]


class Chunks(Protocol):
    """Pieces of a response; *must* be closed, also if none was read."""

    async def __anext__(self) -> bytes:
        """The next piece."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Itself."""

    async def aclose(self) -> None:
        """Stop the work behind it. Idempotent."""


class WaitingStream:
    """Comments for as long as the answer does not begin, so that neither the client nor a proxy
    takes the connection for dead; then the answer. The status has been sent by then, so a refusal
    becomes an event."""

    def __init__(
        self,
        answering: "asyncio.Task[Reply | EventStream]",
        record: RequestRecord,
        *,
        comment: Callable[[], str],
        interval_s: float,
    ) -> None:
        """Args: comment: what to say now."""
        self._answering = answering
        self._record = record
        self._comment = comment
        self._interval_s = interval_s
        self._has_spoken = False
        self._answer: EventStream | None = None
        self._is_over = False
        #: What the headers said, which have been sent.
        self._told_of = record.told.get(FALLBACK)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._is_over:
            raise StopAsyncIteration
        if self._answer is not None:
            return await anext(self._answer)
        if self._has_spoken:
            await asyncio.wait({self._answering}, timeout=self._interval_s)
        if not self._answering.done():
            self._has_spoken = True
            return _comment(self._comment())
        try:
            content = self._answering.result()
        except DaemonError as error:
            self._record.refusal = self._record.refusal or error
            self._is_over = True
            return error_event(error, self._record.endpoint)
        if (why := self._record.told.get(FALLBACK)) is not None and why != self._told_of:
            self._told_of = why  # and the answer itself the next time
            model = self._record.told.get("x-infer-model")
            who = f" model={model}" if model else ""
            return _comment(f"fallback{who} why={why}")
        if isinstance(content, Reply):
            self._is_over = True
            return b"data: " + content.body + b"\n\n"
        self._answer = content
        return await anext(self._answer)

    async def aclose(self) -> None:
        """Stop, wherever it is. Idempotent."""
        self._answering.cancel()
        await asyncio.wait({self._answering})
        if not self._answering.cancelled() and self._answering.exception() is None:
            content = self._answering.result()
            if isinstance(content, EventStream):
                await content.aclose()


class SettledStream:
    """A stream that settles its request *before* it hands out its last chunk: a client that has
    seen the end of its response finds it written down."""

    def __init__(
        self,
        stream: Chunks,
        record: RequestRecord,
        settle: Settle,
        *,
        comment: Callable[[], str],
        comment_after_s: float,
    ) -> None:
        """Args: comment: what to say now, if it has said nothing for so long."""
        self._stream = stream
        self._record = record
        self._settle = settle
        self._comment = comment
        self.comment_after_s = comment_after_s
        #: What the headers say, or a comment did.
        self._told_of = record.told.get(CONTINUED)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._record.outcome is not None:
            raise StopAsyncIteration
        tail: list[bytes] = []
        try:
            if not self._record.is_generated:
                chunk = await anext(self._stream)
                return self._news() + chunk
            # The engine is done, so the rest comes without waiting: hold it back until settled.
            async for chunk in self._stream:
                tail.append(chunk)  # one by one: what comes before a failure is to be sent
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError:
            await self.aclose()
            raise
        except Exception as error:  # noqa: BLE001 - told as an event: the status has been sent
            tail.append(self._failure(error))
            await self._stream.aclose()
        await self._end()
        if not tail:
            raise StopAsyncIteration
        return self._news() + b"".join(tail)

    def comment(self) -> bytes:
        """What its client may be told between two chunks while it pauses."""
        return _comment(self._comment())

    def _news(self) -> bytes:
        """A comment, once the answer goes on otherwise than it would have; else nothing."""
        continued = self._record.told.get(CONTINUED)
        if continued is None or continued == self._told_of:
            return b""
        self._told_of = continued
        return _comment(f"continued inexact={continued}")

    def _failure(self, error: Exception) -> bytes:
        """The event for what was raised instead of told. A vendor's handler may raise anything for
        a refusal of the gate, which is kept on the record; all else is for the log."""
        if self._record.refusal is None:
            log.error("request_failed", id=self._record.id, exc_info=error)
            self._record.detail = f"{type(error).__name__}: {error}"[:500]
            self._record.refusal = DaemonError()
        return error_event(self._record.refusal, self._record.endpoint)

    async def _end(self) -> None:
        await self._record.close_calls()
        refusal = self._record.refusal
        outcome = refusal.outcome if refusal is not None else Outcome.OK
        await self._settle(self._record, outcome, refusal)

    async def aclose(self) -> None:
        """Stop whatever still works for this stream and settle it. Idempotent."""
        try:
            await self._stream.aclose()
        finally:
            await self._record.close_calls()
            if self._record.outcome is None:
                if self._record.refusal is None:
                    await self._settle(self._record, Outcome.CANCELLED, None)
                else:
                    await self._end()


def _comment(text: str) -> bytes:
    """No event: whoever reads events passes over it."""
    return f": {text}\n\n".encode()
