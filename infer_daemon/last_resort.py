"""What is answered when no model can: a text from the configuration, as chats and completions look.
It has no tokens, and its `model` is `static`."""

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.engines.contract import EventStream, Reply

MODEL = "static"
HEADERS = {"x-infer-fallback": MODEL}
_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}


def answer(
    endpoint: Endpoint, body: Mapping[str, Any], request_id: str, text: str
) -> Reply | EventStream:
    """As the request wants it: whole, or as a stream."""
    is_chat = endpoint is Endpoint.CHAT
    head = {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{request_id}",
        "created": int(time.time()),
        "model": MODEL,
    }
    if body.get("stream") is True:
        return EventStream([], _events(head, body, text, is_chat=is_chat))
    said = {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    kind = "chat.completion" if is_chat else "text_completion"
    whole = {**head, "object": kind, "choices": [_choice("stop", said)], "usage": _USAGE}
    return Reply(msgspec.json.encode(whole))


async def _events(
    head: Mapping[str, Any], body: Mapping[str, Any], text: str, *, is_chat: bool
) -> AsyncGenerator[bytes, None]:
    kind = "chat.completion.chunk" if is_chat else "text_completion"
    said = {"delta": {"role": "assistant", "content": text}} if is_chat else {"text": text}
    end: dict[str, Any] = {"delta": {}} if is_chat else {"text": ""}
    for choices in ([_choice(None, said)], [_choice("stop", end)]):
        yield _event({**head, "object": kind, "choices": choices})
    options = body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage") is True:
        yield _event({**head, "object": kind, "choices": [], "usage": _USAGE})
    yield b"data: [DONE]\n\n"


def _choice(finish_reason: str | None, said: Mapping[str, Any]) -> dict[str, Any]:
    return {"index": 0, "finish_reason": finish_reason, "logprobs": None, **said}


def _event(fields: Mapping[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"
