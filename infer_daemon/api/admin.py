"""What operators ask the running daemon, on a socket of its own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from infer_daemon.api.app import Handler, View, add_operator_paths, errors_in_shape
from infer_daemon.api.openai import bearer_key, error_response
from infer_daemon.domain.errors import ClientError, InvalidKey, NoSuchPath
from infer_daemon.ledger.refusals import DoorRefusals
from infer_daemon.settings.load import SettingsError
from infer_daemon.tenancy.registry import key_hash

ASK_TIMEOUT_S = 10.0
_FORGOTTEN = (
    "no request of the last ones has this id (`infer-daemon ledger request` knows older ones)"
)


def build(
    view: View, refusals: DoorRefusals, key_hashes: Sequence[str] | None = None
) -> web.Application:
    """The operators' application: `GET /state`, `GET /story/ID`, `GET /ledger/...`, `POST /reload`,
    `POST /drain/ENGINE`, `POST /undrain/ENGINE`, and what load balancers and Prometheus ask.

    Args:
        key_hashes: of the operators' keys, one of which every request must carry; None where the
            file mode of a socket is the key.
    """
    app = web.Application(middlewares=[errors_in_shape(refusals)])
    if key_hashes is not None:
        app.middlewares.append(_keyed(frozenset(key_hashes)))

    async def show_state(_: web.Request) -> web.Response:
        return _json(view.state())

    async def show_story(request: web.Request) -> web.Response:
        story = view.story(request.match_info["id"])
        if story is None:
            return error_response(NoSuchPath(_FORGOTTEN), None)
        return _json(story)

    async def reload(_: web.Request) -> web.Response:
        try:
            return _json(await view.reload())
        except SettingsError as error:
            return error_response(ClientError(str(error)), None)

    async def drain(request: web.Request) -> web.Response:
        return _json(view.drain(request.match_info["engine"]))

    async def undrain(request: web.Request) -> web.Response:
        return _json(view.undrain(request.match_info["engine"]))

    async def ask_ledger(request: web.Request) -> web.Response:
        return _json(await view.ledger(request.match_info["question"], request.query))

    async def show_request(request: web.Request) -> web.Response:
        row = await view.ledger_request(request.match_info["id"])
        if row is None:
            return error_response(NoSuchPath("the ledger has no request of this id"), None)
        return _json(row)

    app.router.add_get("/state", show_state)
    app.router.add_get("/ledger/{question}", ask_ledger)
    app.router.add_get("/ledger/request/{id}", show_request)
    app.router.add_get("/story/{id:[^/]*}", show_story)
    app.router.add_post("/reload", reload)
    app.router.add_post("/drain/{engine:.+}", drain)
    app.router.add_post("/undrain/{engine:.+}", undrain)
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


def _json(body: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")


class Refused(Exception):
    """The daemon has refused what an operator asked; the message is its own."""


async def ask(socket: Path, path: str, *, method: str = "GET") -> dict[str, Any]:
    """Ask a running daemon on its admin socket.

    Raises:
        OSError: nobody answers there.
        Refused: it does not do that.
    """
    connector = aiohttp.UnixConnector(str(socket))
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.request(method, f"http://daemon{path}") as response,
        ):
            answer: dict[str, Any] = await response.json()
            if response.status != 200:
                raise Refused(answer["error"]["message"])
            return answer
    except (aiohttp.ClientError, TimeoutError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise OSError(str(error) or "no answer in time") from error
