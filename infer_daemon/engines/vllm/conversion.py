"""What vLLM's handlers make of many messages, made beside the event loop.

They convert and check each message before they first wait for anything: 10,000 of them take 15
milliseconds for the Responses API and 50 for Anthropic's. Here the same code runs in the renderer's
thread and gives others a turn between messages; the handler then finds what it would have made.
"""

from contextvars import ContextVar
from typing import Any, Protocol

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.responses import utils as responses

from infer_daemon.engines.vllm.requests import Validator

_CHAT = Validator(ChatCompletionRequest)
_CONVERTED: ContextVar[tuple[Any, Any] | None] = ContextVar("converted", default=None)
"""What this task is about to hand to the handler, and what it becomes."""


class Conversion(Protocol):
    """For the requests of one endpoint."""

    def run(self, request: Any) -> Any:
        """In a thread. What it becomes, for `keep`; None where only the handler can make it."""

    def keep(self, request: Any, made: Any) -> None:
        """The request must go to the handler in the same task."""


def _found(source: Any) -> Any:
    """What was made of this very thing, for once: it is changed when it is answered."""
    kept = _CONVERTED.get()
    if kept is None or kept[0] is not source:
        return None
    _CONVERTED.set(None)
    return kept[1]


class ItemsConversion:
    """The Responses API's items as the messages of a chat."""

    def __init__(self) -> None:
        original = responses.construct_chat_messages_with_tool_call
        self._convert = getattr(original, "original", original)
        if self._convert is not original:
            return  # another engine's was first

        def found_or_made(items: list[Any]) -> Any:
            made = _found(items)
            return original(items) if made is None else made

        found_or_made.original = original  # type: ignore[attr-defined]
        responses.construct_chat_messages_with_tool_call = found_or_made

    def run(self, request: Any) -> Any:
        """See `Conversion.run`."""
        if not isinstance(request.input, list):
            return None
        try:
            return self._convert(request.input)
        except Exception:  # noqa: BLE001 - the handler finds it, too, and says it
            return None

    def keep(self, request: Any, made: Any) -> None:
        """See `Conversion.keep`."""
        _CONVERTED.set((request.input, made))


class MessagesConversion:
    """Anthropic's messages as a chat, for the handler of one engine; made once, before the handler
    is copied or used."""

    def __init__(self, handler: Any) -> None:
        """Args: handler: vLLM's for Anthropic's endpoints."""
        self._convert = handler.to_chat_completion_request
        self._convert_long = _polite(type(handler)).to_chat_completion_request
        self._merges_system = handler._merge_inline_system
        handler.to_chat_completion_request = self._found_or_made

    def run(self, request: Any) -> Any:
        """See `Conversion.run`."""
        thinking = request.thinking
        if thinking is not None and thinking.type == "disabled":
            return None  # what that means for the model, the handler has to find out
        return self._convert_long(request, merge_inline_system=self._merges_system)

    def keep(self, request: Any, made: Any) -> None:
        """See `Conversion.keep`."""
        _CONVERTED.set((request, made))

    def _found_or_made(self, request: Any, **options: Any) -> Any:
        made = _found(request)
        return self._convert(request, **options) if made is None else made


def _polite(handler_type: Any) -> Any:
    """The handler's type, as far as it converts, checking messages with our validator."""

    class Polite(handler_type):
        @classmethod
        def _build_base_request(cls, request: Any, messages: list[dict[str, Any]]) -> Any:
            chat = super()._build_base_request(request, [])
            body = {"model": request.model, "messages": messages}
            chat.messages = _CHAT.validate(body).messages
            return chat

    return Polite
