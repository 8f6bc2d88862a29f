"""vLLM's own serving handlers as a `Frontend`.

Chat templates, tool and reasoning parsers, structured output, logprobs and the shapes of every
response come from vLLM: what `vllm serve` answers, this answers.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.datastructures import State, UploadFile
from starlette.responses import Response, StreamingResponse
from vllm.entrypoints.anthropic.protocol import (
    AnthropicCountTokensRequest,
    AnthropicMessagesRequest,
)
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.classify.protocol import ClassificationRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
from vllm.entrypoints.pooling.pooling.protocol import PoolingRequest
from vllm.entrypoints.pooling.scoring.protocol import RerankRequest, ScoreRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest
from vllm.entrypoints.speech_to_text.transcription.protocol import TranscriptionRequest
from vllm.entrypoints.speech_to_text.translation.protocol import TranslationRequest

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import DaemonError, FrontendError, NotSupported
from infer_daemon.domain.events import error_event
from infer_daemon.domain.record import CURRENT, RequestRecord
from infer_daemon.engines.contract import Call, EventStream, Reply
from infer_daemon.engines.vllm import errors
from infer_daemon.engines.vllm.conversion import Conversion, ItemsConversion, MessagesConversion
from infer_daemon.engines.vllm.counting import TokenCounter
from infer_daemon.engines.vllm.requests import Validator, is_long
from infer_daemon.engines.vllm.usage import note_reasoning


@dataclass(frozen=True, slots=True)
class _Route:
    """How an endpoint is answered: by which handler, called how, with what."""

    handler: str
    """Attribute of the state that `init_app_state` fills."""
    method: str
    request: Validator
    by_alias: bool = False
    exclude_none: bool = False
    takes_upload: bool = False


_ROUTES: dict[Endpoint, _Route] = {
    Endpoint.CHAT: _Route(
        "openai_serving_chat", "create_chat_completion", Validator(ChatCompletionRequest)
    ),
    Endpoint.COMPLETIONS: _Route(
        "openai_serving_completion", "create_completion", Validator(CompletionRequest)
    ),
    Endpoint.RESPONSES: _Route(
        "openai_serving_responses",
        "create_responses",
        Validator(ResponsesRequest),
        by_alias=True,
    ),
    Endpoint.MESSAGES: _Route(
        "anthropic_serving_messages",
        "create_messages",
        Validator(AnthropicMessagesRequest),
        exclude_none=True,
    ),
    Endpoint.COUNT_TOKENS: _Route(
        "anthropic_serving_messages",
        "count_tokens",
        Validator(AnthropicCountTokensRequest),
        exclude_none=True,
    ),
    Endpoint.EMBEDDINGS: _Route("serving_embedding", "__call__", Validator(EmbeddingRequest)),
    Endpoint.SCORE: _Route("serving_scores", "__call__", Validator(ScoreRequest)),
    Endpoint.RERANK: _Route("serving_scores", "__call__", Validator(RerankRequest)),
    Endpoint.CLASSIFY: _Route(
        "serving_classification", "__call__", Validator(ClassificationRequest)
    ),
    Endpoint.POOLING: _Route("serving_pooling", "__call__", Validator(PoolingRequest)),
    Endpoint.TRANSCRIPTIONS: _Route(
        "openai_serving_transcription",
        "create_transcription",
        Validator(TranscriptionRequest),
        takes_upload=True,
    ),
    Endpoint.TRANSLATIONS: _Route(
        "openai_serving_translation",
        "create_translation",
        Validator(TranslationRequest),
        takes_upload=True,
    ),
    Endpoint.TOKENIZE: _Route(
        "serving_tokenization", "create_tokenize", Validator(TokenizeRequest)
    ),
    Endpoint.DETOKENIZE: _Route(
        "serving_tokenization", "create_detokenize", Validator(DetokenizeRequest)
    ),
}


class VllmFrontend:
    """Implements `contract.Frontend` with the handlers of one engine."""

    def __init__(self, state: State, tasks: Iterable[str]) -> None:
        """Args: state: as filled by vLLM's `init_app_state`; tasks: what the model can do."""
        self._state = state
        self.endpoints = frozenset(
            endpoint
            for endpoint, route in _ROUTES.items()
            if getattr(state, route.handler, None) is not None
        )
        if "generate" not in tasks and "embed" not in tasks and "classify" not in tasks:
            self.endpoints -= {Endpoint.TOKENIZE, Endpoint.DETOKENIZE}
        messages = getattr(state, "anthropic_serving_messages", None)
        self._conversions: dict[Endpoint, Conversion] = {Endpoint.RESPONSES: ItemsConversion()}
        if messages is not None:
            conversion = MessagesConversion(messages)
            self._conversions[Endpoint.MESSAGES] = conversion
            self._conversions[Endpoint.COUNT_TOKENS] = conversion
        self._counter = TokenCounter(state)
        # Handlers take the name in a response from here; the client gets back the one it asked for.
        state.openai_serving_models.model_name = _public_model_name

    async def answer(self, call: Call) -> Reply | EventStream:
        """See `contract.Frontend.answer`."""
        route = _ROUTES[call.endpoint]
        handler = getattr(self._state, route.handler, None)
        if handler is None:
            raise NotSupported(f"this model does not answer {call.endpoint} requests")
        body = call.body
        if call.upload is not None:
            body = {**body, "file": UploadFile(BytesIO(call.upload))}
        if call.endpoint is Endpoint.RESPONSES:
            # Its handler takes the id from the body and looks at no header.
            body = {**body, "request_id": f"resp_{call.request_id}"}
        with _in_our_words():
            request = await self._validated(call.endpoint, body)
            if getattr(request, "use_beam_search", False):
                raise NotSupported("beam search is not offered here", param="use_beam_search")
            raw_request = _raw_request(call)
            arguments = (request, raw_request)
            if route.takes_upload:
                arguments = (call.upload, *arguments)  # type: ignore[assignment]
            result = await getattr(handler, route.method)(*arguments)
            if not isinstance(result, ErrorResponse):
                return await _answer(result, route, raw_request)
        if (task := asyncio.current_task()) is not None and task.cancelling():
            # Some handlers answer a cancellation with an error instead of passing it on.
            raise asyncio.CancelledError
        raise _record().refusal or errors.from_response(result)

    async def count_tokens(self, call: Call) -> int:
        """See `contract.Frontend.count_tokens`."""
        with _in_our_words():
            request = await self._validated(call.endpoint, call.body)
            return await self._counter.count(call.endpoint, request)

    async def _validated(self, endpoint: Endpoint, body: dict[str, Any]) -> Any:
        """The body as vLLM's request, made in the renderer's thread if it takes long."""
        validator = _ROUTES[endpoint].request
        if not is_long(body):
            return validator.validate(body)
        conversion = self._conversions.get(endpoint)

        def make() -> tuple[Any, Any]:
            request = validator.validate(body)
            return request, None if conversion is None else conversion.run(request)

        executor = self._state.online_renderer.renderer._executor
        loop = asyncio.get_running_loop()
        request, made = await loop.run_in_executor(executor, make)
        if conversion is not None and made is not None:
            conversion.keep(request, made)
        return request


@contextmanager
def _in_our_words() -> Iterator[None]:
    """Whatever is raised inside, as a `DaemonError`."""
    try:
        yield
    except ValidationError as error:
        raise errors.from_validation(error) from error
    except DaemonError:
        raise
    except Exception as error:
        if (refusal := _record().refusal) is not None:
            raise refusal  # noqa: B904 - the handler has only a copy of its words
        raise errors.from_exception(error) from error


async def _answer(result: Any, route: _Route, raw_request: Any) -> Reply | EventStream:
    """Any of the things that a handler may return, in our words."""
    if isinstance(result, BaseModel):
        _tell_class(result)
        note_reasoning(_record(), raw_request, result)
        text = result.model_dump_json(by_alias=route.by_alias, exclude_none=route.exclude_none)
        return Reply(text.encode())
    if isinstance(result, StreamingResponse):
        body = b"".join([_bytes(part) async for part in result.body_iterator])
        kind = result.media_type or "application/octet-stream"
        return Reply(body, result.status_code, kind, _headers(result))
    if isinstance(result, Response):
        kind = result.media_type or "text/plain"
        return Reply(bytes(result.body), result.status_code, kind, _headers(result))
    return await _primed(_sse(result, raw_request))


def _tell_class(response: Any) -> None:
    """Handlers echo the class that was asked for; clients are to know the one that was used."""
    if hasattr(response, "service_tier"):
        response.service_tier = _record().tier.service_tier


async def _sse(events: AsyncIterator[Any], raw_request: Any) -> AsyncGenerator[bytes, None]:
    """Events as they go over the wire. Handlers yield finished lines or, for responses, objects."""
    record = _record()
    async with aclosing(events) as open_events:  # type: ignore[type-var]
        async for event in open_events:
            if isinstance(event, str):
                line = event.encode()
            else:
                response = getattr(event, "response", None)
                _tell_class(response)
                note_reasoning(record, raw_request, response)
                data = event.model_dump_json(by_alias=True)
                line = f"event: {getattr(event, 'type', 'unknown')}\ndata: {data}\n\n".encode()
            if (error := _error_event(line)) is not None:
                # The gate's own refusal in the handler's words, or what the handler found.
                record.refusal = record.refusal or error
                yield error_event(record.refusal, record.endpoint)
                return  # what handlers say after it (`[DONE]`, `message_stop`) sounds like success
            yield line
    note_reasoning(record, raw_request)


async def _primed(events: AsyncGenerator[bytes, None]) -> EventStream:
    """Read ahead until the engine has produced something, so that what fails before that is still
    answered with a status. (The Responses API sends two events before its engine does anything.)

    Raises:
        DaemonError: the gate refused, or the handler's stream begins with an error.
    """
    record = _record()
    head: list[bytes] = []
    try:
        async for event in events:
            head.append(event)
            if record.refusal is not None:
                raise record.refusal
            if record.first_token_s is not None:
                break
    except BaseException:
        await events.aclose()
        raise
    return EventStream(head, events)


def _error_event(event: bytes) -> FrontendError | None:
    """The error that an event carries, if it is one: vLLM reports what goes wrong in a stream, at
    its beginning or later, as an event."""
    if not event.startswith(_ERROR_STARTS):
        return None
    with suppress(ValueError, KeyError, TypeError):
        error = json.loads(event.partition(b"data: ")[2])["error"]
        status = error.get("code") if isinstance(error.get("code"), int) else 500
        return errors.frontend_error(str(error["message"]), status, error.get("param"))
    return None


_ERROR_STARTS = (b'data: {"error"', b"event: error")


def _raw_request(call: Call) -> Any:
    """The two attributes of a Starlette request that handlers look at. No header of the client is
    among them: some choose priorities, ranks or other clients' request ids."""
    return SimpleNamespace(headers={"X-Request-Id": call.request_id}, state=SimpleNamespace())


def _record() -> RequestRecord:
    record = CURRENT.get()
    assert record is not None, "a front end works for a request"
    return record


def _public_model_name(lora_request: object = None) -> str:
    return _record().served_model


def _headers(response: Response) -> dict[str, str]:
    """What a handler tells beside the body: shapes and usage of embeddings sent as bytes."""
    return {"metadata": response.headers["metadata"]} if "metadata" in response.headers else {}


def _bytes(part: Any) -> bytes:
    return part.encode() if isinstance(part, str) else bytes(part)
