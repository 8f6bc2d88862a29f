"""Server-sent events to a client."""

from contextlib import aclosing

from aiohttp import web

from infer_daemon.engines.contract import Reply
from infer_daemon.request_path import Answer

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
        async for chunk in stream:
            await response.write(chunk)
        await response.write_eof()
    return response
