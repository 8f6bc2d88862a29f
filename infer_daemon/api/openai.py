"""OpenAI's ways: the paths, the body's encoding and the shape of an error."""

import asyncio
import gc
import math
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from aiohttp import BodyPartReader, web

from infer_daemon.api import fields
from infer_daemon.asking import Body
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import (
    BodyTooLarge,
    ClientError,
    DaemonError,
    EncodedBody,
    MalformedBody,
    SentTooSlowly,
)
from infer_daemon.domain.events import anthropic_type
from infer_daemon.settings.schema import ListenSection

PATHS: dict[str, Endpoint] = {
    "/v1/chat/completions": Endpoint.CHAT,
    "/v1/completions": Endpoint.COMPLETIONS,
    "/v1/responses": Endpoint.RESPONSES,
    "/v1/messages": Endpoint.MESSAGES,
    "/v1/messages/count_tokens": Endpoint.COUNT_TOKENS,
    "/v1/embeddings": Endpoint.EMBEDDINGS,
    "/v1/score": Endpoint.SCORE,
    "/score": Endpoint.SCORE,
    "/v1/rerank": Endpoint.RERANK,
    "/v2/rerank": Endpoint.RERANK,
    "/rerank": Endpoint.RERANK,
    "/classify": Endpoint.CLASSIFY,
    "/pooling": Endpoint.POOLING,
    "/v1/audio/transcriptions": Endpoint.TRANSCRIPTIONS,
    "/v1/audio/translations": Endpoint.TRANSLATIONS,
    "/tokenize": Endpoint.TOKENIZE,
    "/detokenize": Endpoint.DETOKENIZE,
}
"""Every POST path. All of them need a key."""

_UPLOADS = (Endpoint.TRANSCRIPTIONS, Endpoint.TRANSLATIONS)
_decoder = msgspec.json.Decoder()
T = TypeVar("T")
PARTS_MAX = 64
LARGE_BYTES = 131_072
"""Bodies from this size on are decoded and looked through in a thread: a megabyte of small messages
takes 15 ms."""
SMALL_BYTES = 32_768
"""Of bodies that are no requests to a model: 2,000 characters may be 24,000 bytes of JSON."""
_UCRED = struct.Struct("iII")
"""pid, uid, gid; see unix(7)."""


async def read_body(request: web.Request, endpoint: Endpoint, limits: ListenSection) -> Body:
    """Read and decode a request's body.

    Raises:
        BodyTooLarge, EncodedBody, MalformedBody, SentTooSlowly, ClientError: as they say.
    """
    async with _reading(request, limits):
        if endpoint in _UPLOADS:
            return await _read_form(request, limits)
        return await _read_json(request, endpoint, limits)


async def read_small(request: web.Request, limits: ListenSection, shape: type[T]) -> T:
    """Read a body of a known shape and at most `SMALL_BYTES`.

    Raises:
        BodyTooLarge, EncodedBody, MalformedBody, SentTooSlowly, ClientError: as they say.
    """
    async with _reading(request, limits):
        raw = await _read_at_most(request, SMALL_BYTES)
    try:
        return msgspec.json.decode(raw, type=shape)
    except msgspec.ValidationError as error:
        raise ClientError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error


@asynccontextmanager
async def _reading(request: web.Request, limits: ListenSection) -> AsyncGenerator[None, None]:
    """What can go wrong while a body is read, in our words."""
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise EncodedBody
    try:
        async with asyncio.timeout(limits.send_timeout_s):
            yield
    except web.HTTPRequestEntityTooLarge as error:
        raise BodyTooLarge(f"the body is larger than {limits.body_bytes_max} bytes") from error
    except TimeoutError as error:
        raise SentTooSlowly from error


async def _read_raw(request: web.Request) -> bytes:
    try:
        raw = await request.read()
    except web.RequestPayloadError as error:
        raise MalformedBody(f"the body cannot be read: {error}") from error
    if not raw:
        raise MalformedBody("the body is empty")
    return raw


async def _read_at_most(request: web.Request, bytes_max: int) -> bytes:
    """No more than that is kept, or waited for where the head says that more comes."""
    try:
        if (request.content_length or 0) <= bytes_max:
            await request.content.readexactly(bytes_max + 1)
    except asyncio.IncompleteReadError as whole:
        return whole.partial
    except web.RequestPayloadError as error:
        raise MalformedBody(f"the body cannot be read: {error}") from error
    raise BodyTooLarge(f"the body is larger than {bytes_max} bytes")


async def _read_json(request: web.Request, endpoint: Endpoint, limits: ListenSection) -> Body:
    raw = await _read_raw(request)
    if len(raw) < LARGE_BYTES:
        return _looked_through(raw, endpoint, limits)
    return await asyncio.to_thread(_looked_through, raw, endpoint, limits)


def _looked_through(raw: bytes, endpoint: Endpoint, limits: ListenSection) -> Body:
    decoded = _decoded(raw, limits)
    fields.refuse_what_is_not_ours(endpoint, decoded)
    return Body(fields.without_what_is_ours(decoded))


def _decoded(raw: bytes, limits: ListenSection) -> dict[str, Any]:
    """What the body says, if it is something to look at any further."""
    # Collections would look at all that is decoded, over and over, and find nothing.
    is_collecting = len(raw) >= LARGE_BYTES and gc.isenabled()
    if is_collecting:
        gc.disable()
    try:
        decoded = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(f"the body is not JSON: {error}") from error
    finally:
        if is_collecting:
            gc.enable()
    if not isinstance(decoded, dict):
        raise MalformedBody
    depth_max = limits.json_depth_max
    # Counting brackets is cheap, and few of them cannot be deep.
    if raw.count(b"{") + raw.count(b"[") > depth_max and fields.depth(decoded) > depth_max:
        raise MalformedBody(f"the body is nested deeper than {depth_max} levels")
    fields.refuse_strange_media(decoded, limits.media_hosts)
    return decoded


async def _read_form(request: web.Request, limits: ListenSection) -> Body:
    if not request.content_type.startswith("multipart/"):
        raise MalformedBody("this path takes multipart/form-data with a part named `file`")
    form: dict[str, Any] = {}
    upload: bytes | None = None
    count = 0
    try:
        async for part in await request.multipart():
            count += 1
            if count > PARTS_MAX:
                raise MalformedBody(f"more than {PARTS_MAX} parts")
            if not isinstance(part, BodyPartReader):
                raise MalformedBody("parts may not be nested")
            data = bytes(await part.read(decode=True))
            # The library's limit is for the data of each part; names and heads count too.
            if request.content.total_raw_bytes > request.client_max_size:
                raise web.HTTPRequestEntityTooLarge(request.client_max_size)
            if part.name == "file":
                upload = data
            elif part.name and part.name.endswith("[]"):  # how OpenAI's clients send a list
                form.setdefault(part.name.removesuffix("[]"), []).append(data.decode())
            elif part.name:
                form[part.name] = data.decode()
    except (DaemonError, web.HTTPException, ConnectionError):
        raise
    except Exception as error:  # the library answers bad parts with whatever its parser meets
        raise MalformedBody(f"the body is not multipart/form-data: {error}") from error
    if upload is None:
        raise MalformedBody("there is no part named `file`")
    fields.refuse_strange_media(form, limits.media_hosts)
    return Body(fields.without_what_is_ours(form), upload)


def bearer_key(request: web.BaseRequest) -> str | None:
    """The API key: OpenAI's `Authorization: Bearer`, or Anthropic's `x-api-key`."""
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return request.headers.get("x-api-key")


def is_large(request: web.BaseRequest) -> bool:
    """Whether the body takes long to read, as far as its head says; one of unknown length may."""
    length = request.content_length
    return length is None or length >= LARGE_BYTES


def is_retry(request: web.BaseRequest) -> bool | None:
    """Whether this is a request that was refused before, as OpenAI's and Anthropic's libraries say;
    None if nobody says."""
    count = request.headers.get("x-stainless-retry-count")
    return None if count is None else count.strip() != "0"


def peer_uid(request: web.BaseRequest) -> int | None:
    """The user at the other end of a Unix socket, as the kernel says it; None over TCP."""
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    uid: int = _UCRED.unpack(credentials)[1]
    return uid


def error_response(error: DaemonError, endpoint: Endpoint | None) -> web.Response:
    """An error in OpenAI's shape, or in Anthropic's for their endpoints."""
    if endpoint in (Endpoint.MESSAGES, Endpoint.COUNT_TOKENS):
        body: dict[str, object] = {
            "type": "error",
            "error": {"type": anthropic_type(error.status), "message": error.message},
            "request_id": error.request_id,
        }
    else:
        body = {
            "error": {
                "message": error.message,
                "type": error.type,
                "param": error.param,
                "code": error.code,
            }
        }
    headers = dict(error.headers)
    if error.request_id:
        headers["x-request-id"] = error.request_id
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(math.ceil(error.retry_after_s * 1e3))
    if error.should_retry is not None:
        headers["x-should-retry"] = str(error.should_retry).lower()
    return web.Response(
        status=error.status,
        body=msgspec.json.encode(body),
        content_type="application/json",
        headers=headers,
    )
