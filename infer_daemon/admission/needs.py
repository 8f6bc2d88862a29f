"""What a request needs of whoever answers it, as far as its body says."""

from collections.abc import Iterator, Mapping
from typing import Any

from infer_daemon.domain.features import Feature

_GRAMMARS = ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
_PARTS = {
    "image": Feature.VISION,
    "image_url": Feature.VISION,
    "input_image": Feature.VISION,
    "video_url": Feature.VISION,
    "audio_url": Feature.AUDIO,
    "input_audio": Feature.AUDIO,
}
"""Kinds of parts of a message, in any of the shapes that clients send."""


def features(body: Mapping[str, Any]) -> frozenset[Feature]:
    """What a model that lacks it would answer wrongly without, or not at all."""
    return frozenset(_features(body))


def _features(body: Mapping[str, Any]) -> Iterator[Feature]:
    if body.get("tools") and body.get("tool_choice") != "none":
        yield Feature.TOOLS
    if body.get("reasoning_effort") or body.get("reasoning") or body.get("thinking"):
        yield Feature.REASONING
    if any(body.get(name) for name in _GRAMMARS) or _is_shaped(body):
        yield Feature.GRAMMAR
    # Chats say whether, completions how many: none is a number, too.
    asked = body.get("logprobs")
    if (asked is not None and asked is not False) or body.get("top_logprobs"):
        yield Feature.LOGPROBS
    turns = body.get("messages") or body.get("input")
    for turn in turns if isinstance(turns, list) else ():
        content = turn.get("content") if isinstance(turn, dict) else None
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if isinstance(kind, str) and kind in _PARTS:
                yield _PARTS[kind]


def _is_shaped(body: Mapping[str, Any]) -> bool:
    """Whether the answer is to be JSON of some kind, as chats or responses ask for it."""
    text = body.get("text")
    shape = body.get("response_format") or (text.get("format") if isinstance(text, dict) else None)
    return isinstance(shape, dict) and shape.get("type") not in (None, "text")
