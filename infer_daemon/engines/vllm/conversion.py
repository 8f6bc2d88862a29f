"""Anthropic's messages as a chat, made of them beside the event loop where there are many.

vLLM's handler converts and checks each message before it first waits for anything: 10,000 of them
take 50 milliseconds. Here the same code runs in the renderer's thread and gives others a turn
between messages; the handler then finds what it would have made.
"""

from contextvars import ContextVar
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from infer_daemon.engines.vllm.requests import Validator

_CHAT = Validator(ChatCompletionRequest)
_CONVERTED: ContextVar[tuple[Any, Any] | None] = ContextVar("converted_messages", default=None)
"""A request that this task is about to hand to the handler, and what it becomes."""


class Conversion:
    """For the handler of one engine; made once, before the handler is copied or used."""

    def __init__(self, handler: Any) -> None:
        """Args: handler: vLLM's for Anthropic's endpoints."""
        self._convert = handler.to_chat_completion_request
        self._convert_long = _polite(type(handler)).to_chat_completion_request
        self._merges_system = handler._merge_inline_system
        handler.to_chat_completion_request = self._found_or_made

    def run(self, request: Any) -> Any:
        """In a thread. The chat, for `keep`; None where only the handler can make it."""
        thinking = request.thinking
        if thinking is not None and thinking.type == "disabled":
            return None  # what that means for the model, the handler has to find out
        return self._convert_long(request, merge_inline_system=self._merges_system)

    def keep(self, request: Any, chat: Any) -> None:
        """The request must go to the handler in the same task."""
        _CONVERTED.set((request, chat))

    def _found_or_made(self, request: Any, **options: Any) -> Any:
        kept = _CONVERTED.get()
        if kept is None or kept[0] is not request:
            return self._convert(request, **options)
        _CONVERTED.set(None)  # what it becomes is changed when it is answered
        return kept[1]


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
