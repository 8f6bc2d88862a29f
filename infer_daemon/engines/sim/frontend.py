"""The front-end half: chat, completions and embeddings in OpenAI's shapes, over words."""

import asyncio
import itertools
import re
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import ClientError, DaemonError, FrontendError, NotSupported
from infer_daemon.domain.events import error_event
from infer_daemon.domain.jobs import JobId
from infer_daemon.engines.contract import Call, EventStream, Reply, Work
from infer_daemon.engines.gate import Gate
from infer_daemon.engines.sim import tokens
from infer_daemon.engines.sim.tokens import Choice, Piece, SimPayload, SimProgress
from infer_daemon.settings.schema import SimSection

_numbers = itertools.count()


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _ResponseFormat(msgspec.Struct):
    type: str


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, Any]] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(str(part.get("text", "")) for part in self.content)
        return self.content or ""


class _Generation(msgspec.Struct, kw_only=True):
    """The fields of a chat or completion request that the simulation understands."""

    model: str
    messages: list[_Message] = []
    prompt: str | list[str] = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    response_format: _ResponseFormat | None = None
    """Only looked at when the answer is judged."""
    ignore_eos: bool = False
    seed: int | None = None
    truncate_prompt_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Of a completion: its prompt keeps as many words, the last."""

    @property
    def wants_json(self) -> bool:
        return self.response_format is not None and self.response_format.type.startswith("json_")

    @property
    def limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def limit_field(self) -> str:
        return "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"


class _Embedding(msgspec.Struct):
    model: str
    input: str | list[str]


class SimFrontend:
    """Implements `contract.Frontend`."""

    endpoints = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.EMBEDDINGS})

    def __init__(self, gate: Gate, script: SimSection) -> None:
        self._gate = gate
        self._script = script

    async def answer(self, call: Call) -> Reply | EventStream:
        """See `contract.Frontend.answer`."""
        try:
            if call.endpoint is Endpoint.EMBEDDINGS:
                return await self._embed(call, msgspec.convert(call.body, _Embedding))
            request = msgspec.convert(call.body, _Generation)
        except msgspec.ValidationError as error:
            raise _invalid(error) from error
        return await self._generate(call, request, _prompts(call, request))

    async def count_tokens(self, call: Call) -> int:
        """See `contract.Frontend.count_tokens`."""
        if call.endpoint not in (Endpoint.CHAT, Endpoint.COMPLETIONS):
            raise NotSupported(f"tokens of {call.endpoint.value} requests are not counted")
        try:
            request = msgspec.convert(call.body, _Generation)
        except msgspec.ValidationError as error:
            raise _invalid(error) from error
        return max(map(len, _prompts(call, request)), default=0)

    async def _generate(
        self, call: Call, request: _Generation, prompts: list[list[str]]
    ) -> Reply | EventStream:
        n = 1 if request.n is None else request.n
        if n < 1:
            raise ClientError(f"n must be at least 1, it is {n}", param="n")
        works = [self._work(call, request, prompt, n) for prompt in prompts]
        shape = _Shape(call, n)
        if not request.stream:
            results = await asyncio.gather(*(self._final(work) for work in works))
            return Reply(msgspec.json.encode(shape.whole(results, works)))
        include_usage = bool(request.stream_options and request.stream_options.include_usage)
        events = self._events(shape, works, include_usage=include_usage)
        # The first event comes with the first output, so a refusal is raised here.
        try:
            head = [await anext(events)]
        except BaseException:
            await events.aclose()
            raise
        return EventStream(head, events)

    def _work(self, call: Call, request: _Generation, prompt: list[str], n: int) -> Work:
        prompt_field = "messages" if call.endpoint is Endpoint.CHAT else "prompt"
        limit = self._limit(request, len(prompt), prompt_field)
        choice = tokens.answer(prompt, limit, ignore_eos=request.ignore_eos)

        payload = SimPayload(
            [Choice(list(choice.words), choice.finish_reason)] * n,
            is_json=request.wants_json,
            seed=request.seed,
        )

        def capped(tokens_max: int) -> SimPayload:
            ending = "length" if tokens_max < len(choice.words) else choice.finish_reason
            payload.choices[:] = [Choice(list(choice.words[:tokens_max]), ending)] * n
            return payload

        return Work(
            id=JobId(f"{call.request_id}.{next(_numbers)}"),
            payload=payload,
            wants="deltas" if request.stream else "final",
            merge=tokens.merge,
            prompt_tokens=len(prompt),
            output_tokens_max=len(choice.words) if limit is None else limit,
            seqs=n,
            cap=capped,
            progress=SimProgress(
                prompt_token_ids=tokens.ids(prompt),
                context_tokens=self._script.max_model_len,
                payload=payload,
            ),
        )

    def _limit(self, request: _Generation, prompt_tokens: int, prompt_field: str) -> int | None:
        """Like vLLM: what is asked for may be all of the context, and gets what the prompt leaves.

        Raises:
            FrontendError: the prompt leaves nothing.
            ClientError: no such number of tokens can be asked for.
        """
        most = self._script.max_model_len
        if prompt_tokens >= most:
            raise FrontendError(
                f"the maximum context length is {most} tokens, the prompt has {prompt_tokens}",
                status=400,
                code="context_length_exceeded",
                param=prompt_field,
            )
        asked, field = request.limit, request.limit_field
        if asked is None:
            return None
        if asked < 1:
            raise ClientError(f"{field} must be at least 1, it is {asked}", param=field)
        if asked > most:
            # Where such a request is to be clamped, it no longer asks for more when it comes here.
            raise ClientError(f"{field} must be at most {most}, it is {asked}", param=field)
        return min(asked, most - prompt_tokens)

    async def _final(self, work: Work) -> list[Piece]:
        async with aclosing(self._gate.run(work)) as outputs:
            async for output in outputs:
                return list(output)
        return []

    async def _outputs(self, works: list[Work]) -> AsyncGenerator[tuple[int, list[Piece]], None]:
        """Outputs, each with the number of its prompt. All prompts are generated at the same time
        and read one after the other; what arrives early is merged in its mailbox."""
        calls = [self._gate.run(work) for work in works]
        begun = [asyncio.create_task(call.__anext__()) for call in calls]
        try:
            for number, call in enumerate(calls):
                pieces = await begun[number]
                while pieces is not None:
                    yield number, pieces
                    pieces = await anext(call, None)
        finally:
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)
            for call in calls:
                await call.aclose()

    async def _events(
        self, shape: "_Shape", works: list[Work], *, include_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        """The events of a stream. What fails after the first of them is told as one."""
        has_begun = False
        try:
            async with aclosing(self._outputs(works)) as outputs:
                async for number, pieces in outputs:
                    for piece in pieces:
                        has_begun = True
                        yield shape.event(number, piece)
        except DaemonError as error:
            if not has_begun:
                raise
            yield error_event(error, shape.endpoint)
            return
        if include_usage:
            yield shape.usage_event(works)
        yield b"data: [DONE]\n\n"

    async def _embed(self, call: Call, request: _Embedding) -> Reply:
        texts = [request.input] if isinstance(request.input, str) else request.input
        if not texts:
            raise ClientError("input may not be an empty list", param="input")
        works = [
            Work(
                id=JobId(f"{call.request_id}.{next(_numbers)}"),
                payload=SimPayload([]),
                wants="final",
                merge=tokens.merge,
                prompt_tokens=len(text.split()),
                output_tokens_max=0,
            )
            for text in texts
        ]
        await asyncio.gather(*(self._final(work) for work in works))
        size = self._script.embedding_size
        used = sum(work.prompt_tokens for work in works)
        data = [
            {"object": "embedding", "index": i, "embedding": tokens.embedding(text, size)}
            for i, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": used, "total_tokens": used}
        body = {
            "id": f"embd-{call.request_id}",
            "object": "list",
            "model": call.body["model"],
            "data": data,
            "usage": usage,
        }
        return Reply(msgspec.json.encode(body))


def _invalid(error: msgspec.ValidationError) -> ClientError:
    """In the words of the real front end: the field, and what it should be. What does not fit the
    fields above has a message that ends with its place: "... - at `$.n`"."""
    text, _, place = str(error).partition(" - at `$")
    path = place.rstrip("`").lstrip(".")
    param = re.match(r"\w+", path)
    text = (text[:1].lower() + text[1:]).replace("`", "")
    return ClientError(f"{path}: {text}" if path else text, param=param and param[0])


def _prompts(call: Call, request: _Generation) -> list[list[str]]:
    """The words of a chat, or of each prompt of a completion."""
    if call.endpoint is Endpoint.CHAT:
        if not request.messages:
            raise ClientError("messages may not be empty", param="messages")
        return [[word for message in request.messages for word in message.text.split()]]
    texts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if not texts:
        raise ClientError("prompt may not be an empty list", param="prompt")
    return [text.split()[-(request.truncate_prompt_tokens or 0) :] for text in texts]


class _Shape:
    """OpenAI's two shapes for generated text, whole and in pieces."""

    def __init__(self, call: Call, n: int) -> None:
        self.endpoint = call.endpoint
        self._chat = call.endpoint is Endpoint.CHAT
        self._n = n
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{call.request_id}",
            "created": int(time.time()),
            "model": call.body["model"],
        }
        self._sent: dict[int, int] = {}

    def whole(self, results: list[list[Piece]], works: list[Work]) -> dict[str, Any]:
        choices = []
        for number, pieces in enumerate(results):
            for piece in sorted(pieces, key=lambda piece: piece.index):
                index = number * self._n + piece.index
                text = " ".join(piece.words)
                choices.append(
                    {"index": index, "finish_reason": piece.finish_reason, "logprobs": None}
                    | self._text(text)
                )
        kind = "chat.completion" if self._chat else "text_completion"
        generated = sum(len(piece.words) for pieces in results for piece in pieces)
        usage = self._usage(works, generated)
        return {**self._head, "object": kind, "choices": choices, "usage": usage}

    def event(self, number: int, piece: Piece) -> bytes:
        index = number * self._n + piece.index
        sent = self._sent.get(index, 0)
        text = ("" if sent == 0 else " ") + " ".join(piece.words)
        self._sent[index] = sent + len(piece.words)
        delta: dict[str, Any] = {"delta": {"content": text}} if self._chat else {"text": text}
        if self._chat and sent == 0:
            delta["delta"]["role"] = "assistant"
        choice = {"index": index, "finish_reason": piece.finish_reason, **delta}
        return self._line({"choices": [choice]})

    def usage_event(self, works: list[Work]) -> bytes:
        return self._line({"choices": [], "usage": self._usage(works, sum(self._sent.values()))})

    def _line(self, fields: dict[str, Any]) -> bytes:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return b"data: " + msgspec.json.encode({**self._head, "object": kind, **fields}) + b"\n\n"

    def _text(self, text: str) -> dict[str, Any]:
        if self._chat:
            return {"message": {"role": "assistant", "content": text}}
        return {"text": text}

    @staticmethod
    def _usage(works: list[Work], generated: int) -> dict[str, int]:
        prompt = sum(work.prompt_tokens for work in works)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": generated,
            "total_tokens": prompt + generated,
        }
