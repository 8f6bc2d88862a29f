"""Server-sent events to a client."""

import asyncio
from contextlib import aclosing, suppress

from aiohttp import web

from infer_daemon.engines.contract import Reply
from infer_daemon.request_path import Answer
from infer_daemon.streams import SettledStream

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # Proxies that buffer would turn a stream into one late lump.
    "X-Accel-Buffering": "no",
}


async def send(request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
    """Write a stream to its end. A client that goes away cancels this, which closes the stream."""
    stream = answer.content
    assert not isinstance(stream, Reply), "a whole answer is no stream"
    async with aclosing(stream):
        headers = {**_HEADERS, **answer.headers, "x-request-id": answer.request_id}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        pauses = _Pauses(response, stream)
        try:
            async for chunk in stream:
                pauses.chunks += 1
                pauses.is_writing = True
                await response.write(chunk)
                pauses.is_writing = False
        finally:
            pauses.end()
        await response.write_eof()
    return response


class _Pauses:
    """Comments while a stream pauses, so that neither its client nor a proxy takes the connection
    for dead: its engine is started again, or it gave its place up. It looks from time to time,
    since chunks come by the thousand: the first comment comes after one to two intervals."""

    def __init__(self, response: web.StreamResponse, stream: SettledStream) -> None:
        self._response = response
        self._stream = stream
        self.chunks = 0
        """That were there to be written."""
        self.is_writing = False
        """Whether the pause is the client's, who does not read."""
        self._seen = 0
        self._comment: asyncio.Task[None] | None = None
        self._next_look()

    def end(self) -> None:
        """Nothing more is said."""
        self._timer.cancel()
        if self._comment is not None:
            self._comment.cancel()

    def _next_look(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._stream.comment_after_s, self._look)

    def _look(self) -> None:
        is_busy = self.is_writing or (self._comment is not None and not self._comment.done())
        if self.chunks == self._seen and not is_busy:
            self._comment = asyncio.create_task(self._write(), name="comment")
        self._seen = self.chunks
        self._next_look()

    async def _write(self) -> None:
        with suppress(ConnectionError):  # that it has gone is told to whoever reads the stream
            await self._response.write(self._stream.comment())
