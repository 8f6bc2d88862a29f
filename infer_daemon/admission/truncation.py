"""A prompt that is longer than it may be, made to fit where its client asked for that.

A chat loses its oldest turns and a completion the beginning of its prompt; whatever was dropped is
told to the client in the header `HEADER`. Who may have this done, and what the limit is, are the
caller's to decide.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

HEADER = "x-infer-truncated"
"""Response header that says what was dropped; absent where nothing was."""

Messages = list[Any]
"""A chat's messages as the client sent them: nobody has validated them yet."""

_ALWAYS_KEPT = ("system", "developer")


@dataclass(frozen=True, slots=True)
class Room:
    """How long a prompt may be."""

    most_tokens: int
    """What is no longer is left alone."""
    cut_tokens: int
    """What is longer becomes as long as this, to leave room for an answer."""


class DoesNotFit(Exception):
    """Not even the least that must be kept fits. The caller refuses, with both numbers."""

    def __init__(self, least_tokens: int, limit_tokens: int) -> None:
        super().__init__(f"at least {least_tokens} tokens remain, {limit_tokens} fit")
        self.least_tokens = least_tokens
        self.limit_tokens = limit_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedChat:
    """A chat that fits, and what it lost."""

    messages: Messages
    turns_dropped: int = 0
    tokens_dropped: int = 0

    @property
    def header(self) -> str:
        """The value of `HEADER`; empty if nothing was dropped."""
        if not self.turns_dropped:
            return ""
        return f"turns={self.turns_dropped} tokens={self.tokens_dropped}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TruncatedPrompt:
    """A completion's body whose prompt will be cut when it is tokenised, and by how much."""

    body: dict[str, Any]
    tokens_dropped: int = 0

    @property
    def header(self) -> str:
        """The value of `HEADER`; empty if nothing will be dropped."""
        return f"tokens={self.tokens_dropped}" if self.tokens_dropped else ""


async def drop_oldest_turns(
    messages: Messages, room: Room, count: Callable[[Messages], Awaitable[int]]
) -> TruncatedChat:
    """Drop as few of a chat's oldest turns as make it fit, if it does not.

    A turn is a user's message with all that follows up to the next one, so that a tool's result
    never stays without its call. Instructions (system, developer) stay wherever they are, and so
    does the last turn, also where that is longer than a chat is to become, but not too long. The
    items of a Responses request divide the same way.

    `count` renders, which is slow: it is called twice, and then once for each doubling of the
    number of turns.

    Args:
        count: prompt tokens of a chat with these messages.

    Raises:
        DoesNotFit: what must stay is too long.
    """
    before = await count(messages)
    if before <= room.most_tokens:
        return TruncatedChat(messages=messages)
    starts = turn_starts(messages)
    too_few, enough = 0, max(len(starts) - 1, 0)
    shortest = _without_turns(messages, starts, enough)
    after = await count(shortest) if enough else before
    if after > room.most_tokens:
        raise DoesNotFit(after, room.most_tokens)
    while enough - too_few > 1 and after <= room.cut_tokens:
        half = (too_few + enough) // 2
        candidate = _without_turns(messages, starts, half)
        tokens = await count(candidate)
        if tokens <= room.cut_tokens:
            enough, shortest, after = half, candidate, tokens
        else:
            too_few = half
    return TruncatedChat(
        messages=shortest, turns_dropped=enough, tokens_dropped=max(before - after, 0)
    )


def turn_starts(messages: Messages) -> list[int]:
    """Where each turn begins. What comes before the first user's message counts as a turn, unless
    it is nothing but instructions."""
    starts = [index for index, message in enumerate(messages) if _is_a_users(message)]
    ahead = messages[: starts[0]] if starts else messages
    first = next((i for i, message in enumerate(ahead) if not _is_kept(message)), None)
    return starts if first is None else [first, *starts]


def _without_turns(messages: Messages, starts: Sequence[int], turns: int) -> Messages:
    end = starts[turns] if turns else 0
    return [*filter(_is_kept, messages[:end]), *messages[end:]]


def _is_kept(message: Any) -> bool:
    return _role(message) in _ALWAYS_KEPT


def _is_a_users(message: Any) -> bool:
    """Whether a user says something in it; Anthropic's clients send tools' results as a user's."""
    if _role(message) != "user":
        return False
    parts = message.get("content")
    return not isinstance(parts, list) or not any(
        isinstance(part, dict) and part.get("type") == "tool_result" for part in parts
    )


def _role(message: Any) -> object:
    return message.get("role") if isinstance(message, dict) else None


def keep_tail(body: dict[str, Any], room: Room, prompt_tokens: int) -> TruncatedPrompt:
    """Have a completion's prompt, or each of a list, cut to its last tokens, if one does not fit.

    The front end does it while it tokenises, through vLLM's own field. vLLM's `truncation_side` is
    left out: tokenisers of models that generate cut from the left unless told otherwise, and told
    to by name they would cut off the token that begins a text as well.

    Args:
        prompt_tokens: tokens of the longest prompt.
    """
    if prompt_tokens <= room.most_tokens:
        return TruncatedPrompt(body=body)
    rest = {name: value for name, value in body.items() if name != "truncation_side"}
    return TruncatedPrompt(
        body={**rest, "truncate_prompt_tokens": room.cut_tokens},
        tokens_dropped=prompt_tokens - room.cut_tokens,
    )
