"""The OpenAI-compatible application: which path leads where."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from infer_daemon import __version__
from infer_daemon.api import sse
from infer_daemon.api.openai import (
    PATHS,
    bearer_key,
    error_response,
    is_large,
    is_retry,
    peer_uid,
    read_body,
    read_small,
)
from infer_daemon.asking import Ask
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import (
    BodyTooLarge,
    ClientError,
    DaemonError,
    MethodNotAllowed,
    NoSuchPath,
)
from infer_daemon.domain.record import new_id
from infer_daemon.domain.tenant import Tenant
from infer_daemon.engines.contract import Reply
from infer_daemon.ledger.feedback import Feedback
from infer_daemon.ledger.refusals import DoorRefusals
from infer_daemon.request_path import RequestPath
from infer_daemon.routing.catalog import no_model
from infer_daemon.settings.schema import ListenSection

Application = web.Application
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class View(Protocol):
    """What the door shows of the daemon besides answering requests; see `view.View`."""

    def models(self, tenant: Tenant) -> list[dict[str, object]]:
        """One card per public model that the tenant may use, in OpenAI's shape."""

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Whether the daemon is ready, and the state of each model."""

    def metrics(self) -> bytes:
        """The page for Prometheus. Called from a thread."""

    def authenticate(self, key: str | None, uid: int | None) -> Tenant:
        """Whose the key is, or without one the user; raises InvalidKey if nobody's."""

    def state(self) -> dict[str, object]:
        """Everything, for operators."""

    def story(self, request_id: str) -> dict[str, object] | None:
        """One request's history; None if it is not known (any more)."""

    async def usage(self, tenant: Tenant, words: Mapping[str, str]) -> dict[str, object]:
        """What a tenant has used; raises ClientError, TooManyInFlight or LedgerUnavailable."""

    async def ledger(self, question: str, words: Mapping[str, str]) -> dict[str, object]:
        """What the ledger tells an operator; raises ClientError or LedgerUnavailable."""

    async def ledger_request(self, request_id: str) -> dict[str, object] | None:
        """What the ledger has of one request, if anything; raises as `ledger` does."""

    async def feedback(self, tenant: Tenant, feedback: Feedback) -> dict[str, object]:
        """Take what a tenant says of an answer; raises RequestNotFound, LedgerUnavailable."""

    async def reload(self) -> dict[str, object]:
        """Read the configuration again; raises SettingsError, and then nothing has changed."""

    def drain(self, engine: str) -> dict[str, object]:
        """Give an engine no more work; raises ClientError. Returns what becomes of it."""

    def undrain(self, engine: str) -> dict[str, object]:
        """Give it work again; raises ClientError. Returns what becomes of it."""


def build(
    path: RequestPath, view: View, limits: ListenSection, refusals: DoorRefusals
) -> web.Application:
    """The application; the daemon puts it behind its listeners."""
    app = web.Application(
        client_max_size=limits.body_bytes_max, middlewares=[errors_in_shape(refusals)]
    )
    app.on_response_prepare.append(_sign)
    for url, endpoint in PATHS.items():
        app.router.add_post(url, partial(_ask, path, limits, endpoint), expect_handler=_expect)
    app.router.add_post("/v1/feedback", partial(_feedback, view, limits), expect_handler=_expect)
    app.router.add_get("/v1/models", partial(_models, view))
    app.router.add_get("/v1/models/{id:.+}", partial(_model, view))
    app.router.add_get("/v1/usage", partial(_usage, view))
    app.router.add_get("/version", partial(_version, view))
    if limits.operator_paths:
        add_operator_paths(app, view)
    return app


async def _expect(request: web.Request) -> None:
    """Tell a client that waits for it to go on. Other expectations are not met and not refused: the
    library would, before our errors have their shape."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


async def _sign(_: web.Request, response: web.StreamResponse) -> None:
    """Versions of libraries are nobody's business; what belongs to no request has an id, too."""
    response.headers["Server"] = "infer-daemon"
    if "x-request-id" not in response.headers:
        response.headers["x-request-id"] = new_id()


def add_operator_paths(app: web.Application, view: View) -> None:
    """What load balancers and Prometheus ask, without a key."""
    app.router.add_get("/health", _health)
    app.router.add_get("/ready", partial(_ready, view))
    app.router.add_get("/metrics", partial(_metrics, view))


async def _ask(
    path: RequestPath, limits: ListenSection, endpoint: Endpoint, request: web.Request
) -> web.StreamResponse:
    uid = peer_uid(request)
    ask = Ask(
        endpoint=endpoint,
        key=bearer_key(request),
        uid=uid,
        client=f"uid {uid}" if uid is not None else request.remote or "",
        read=partial(read_body, request, endpoint, limits),
        priority=request.headers.get("x-priority"),
        deadline_ms=request.headers.get("x-deadline-ms"),
        connection=id(request.transport),
        is_large=is_large(request),
        is_retry=is_retry(request),
    )
    answer = await path.run(ask)
    if not isinstance(answer.content, Reply):
        return await sse.send(request, answer)
    reply = answer.content
    return web.Response(
        status=reply.status,
        body=reply.body,
        content_type=reply.content_type,
        headers={**reply.headers, **answer.headers, "x-request-id": answer.request_id},
    )


def errors_in_shape(refusals: DoorRefusals) -> Middleware:
    """Every refusal in the shape that the client's library parses."""

    @web.middleware
    async def in_shape(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except (DaemonError, web.HTTPClientError) as caught:
            error = _in_our_words(caught, request)
            if not error.request_id:  # else it has settled, and has a line of its own
                refusals.add(error)
            return error_response(error, PATHS.get(request.path))

    return in_shape


def _in_our_words(error: DaemonError | web.HTTPClientError, request: web.Request) -> DaemonError:
    match error:
        case DaemonError():
            return error
        case web.HTTPNotFound():
            return NoSuchPath(f"there is nothing at {request.path[:200]}")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            refusal = MethodNotAllowed(f"{request.path[:200]} answers {allowed}")
            refusal.headers = {"Allow": allowed}
            return refusal
        case web.HTTPRequestEntityTooLarge():
            return BodyTooLarge()
        case _:
            return ClientError(error.reason)


async def _models(view: View, request: web.Request) -> web.Response:
    tenant = view.authenticate(bearer_key(request), peer_uid(request))
    return _json({"object": "list", "data": view.models(tenant)})


async def _model(view: View, request: web.Request) -> web.Response:
    tenant = view.authenticate(bearer_key(request), peer_uid(request))
    wanted = request.match_info["id"]
    cards = view.models(tenant)
    for card in cards:
        if card["id"] == wanted:
            return _json(card)
    raise no_model(wanted, (str(card["id"]) for card in cards))


async def _usage(view: View, request: web.Request) -> web.Response:
    tenant = view.authenticate(bearer_key(request), peer_uid(request))
    return _json(await view.usage(tenant, request.query))


async def _feedback(view: View, limits: ListenSection, request: web.Request) -> web.Response:
    tenant = view.authenticate(bearer_key(request), peer_uid(request))
    return _json(await view.feedback(tenant, await read_small(request, limits, Feedback)))


async def _version(view: View, request: web.Request) -> web.Response:
    view.authenticate(bearer_key(request), peer_uid(request))
    return _json({"version": __version__})


async def _health(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")


async def _ready(view: View, _: web.Request) -> web.Response:
    ready, body = view.readiness()
    return _json(body, status=200 if ready else 503)


async def _metrics(view: View, _: web.Request) -> web.Response:
    page = await asyncio.to_thread(view.metrics)
    return web.Response(
        body=page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(
        status=status, body=msgspec.json.encode(body), content_type="application/json"
    )
