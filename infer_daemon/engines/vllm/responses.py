"""Embeddings as JSON, written so that the event loop goes on.

vLLM writes the whole response with one call of Python's `json`, in the renderer's thread. That call
does not let go of the interpreter: for two thousand embeddings everything stood still for half a
second.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from starlette.responses import JSONResponse


class PiecewiseJson(JSONResponse):
    """Writes one item of its `data` after the other, and faster."""

    def render(self, content: Any) -> bytes:
        """See `JSONResponse.render`."""
        items = content.get("data") if isinstance(content, dict) else None
        if not isinstance(items, list):
            return super().render(content)
        head = super().render({name: v for name, v in content.items() if name != "data"})
        comma = b"," if len(content) > 1 else b""
        return head[:-1] + comma + b'"data":[' + b",".join(map(self._written, items)) + b"]}"

    def _written(self, item: Any) -> bytes:
        text = msgspec.json.encode(item)
        # A number that JSON has no word for becomes a null here, and an error there.
        return super().render(item) if b"null" in text else text


def write_in_pieces(handlers: Iterable[Any]) -> None:
    """Have these handlers answer so. Once for each."""
    for handler in handlers:
        if hasattr(handler, "json_response_cls"):
            handler.json_response_cls = PiecewiseJson
