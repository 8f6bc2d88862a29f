"""Server-sent events to a client."""

from contextlib import aclosing

from aiohttp import web

from infer_daemon.request_path import SettledStream

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    # Proxies that buffer would turn a stream into one late lump.
    "X-Accel-Buffering": "no",
}


async def send(
    request: web.BaseRequest, stream: SettledStream, request_id: str
) -> web.StreamResponse:
    """Write a stream to its end. A client that goes away cancels this, which closes the stream."""
    async with aclosing(stream):
        response = web.StreamResponse(headers={**_HEADERS, "x-request-id": request_id})
        await response.prepare(request)
        async for chunk in stream:
            await response.write(chunk)
        await response.write_eof()
    return response
