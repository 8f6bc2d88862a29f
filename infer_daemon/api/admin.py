"""What operators ask the running daemon, on a socket of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from infer_daemon.api.app import Handler, View, add_operator_paths, errors_in_shape
from infer_daemon.api.openai import bearer_key
from infer_daemon.domain.errors import InvalidKey
from infer_daemon.tenancy.registry import key_hash

ASK_TIMEOUT_S = 10.0


def build(view: View, key_hashes: Sequence[str] | None = None) -> web.Application:
    """The operators' application: `GET /state`, and what load balancers and Prometheus ask.

    Args:
        key_hashes: of the operators' keys, one of which every request must carry; None where the
            file mode of a socket is the key.
    """
    app = web.Application(middlewares=[errors_in_shape])
    if key_hashes is not None:
        app.middlewares.append(_keyed(frozenset(key_hashes)))

    async def show_state(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(view.state()), content_type="application/json")

    app.router.add_get("/state", show_state)
    add_operator_paths(app, view)
    return app


def _keyed(key_hashes: frozenset[str]) -> Middleware:
    @web.middleware
    async def keyed(request: web.Request, handler: Handler) -> web.StreamResponse:
        key = bearer_key(request)
        if key is None or key_hash(key) not in key_hashes:
            raise InvalidKey
        return await handler(request)

    return keyed


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
