"""What operators ask the running daemon, on a socket of its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

State = Callable[[], dict[str, object]]
ASK_TIMEOUT_S = 10.0


def build(state: State) -> web.Application:
    """The admin application: `GET /state`."""
    app = web.Application()

    async def show_state(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(state()), content_type="application/json")

    app.router.add_get("/state", show_state)
    return app


async def ask(socket: Path, path: str) -> dict[str, Any]:
    """GET from a running daemon's admin socket.

    Raises:
        OSError: nobody answers there.
    """
    connector = aiohttp.UnixConnector(str(socket))
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.get(f"http://daemon{path}", raise_for_status=True) as response,
        ):
            answer: dict[str, Any] = await response.json()
            return answer
    except (aiohttp.ClientError, TimeoutError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise OSError(str(error) or "no answer in time") from error
