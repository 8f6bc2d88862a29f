"""What a request asks for besides an answer: a class, a deadline, a length. Pure."""

import re
from collections.abc import Mapping
from typing import Any

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import ClientError
from infer_daemon.domain.jobs import Tier

DEADLINE_MAX_MS = 86_400_000
_TIERS: dict[str, Tier | None] = {
    "auto": None,
    **{tier.service_tier: tier for tier in Tier},
    "scale": None,
    "standard_only": None,
}
"""OpenAI's `service_tier` and Anthropic's. The last two are about what was paid for beforehand."""
_PROMPTS = ("prompt", "input")
_THOUGHTS = ("reasoning", "reasoning_content", "thinking")
_PARTS = frozenset(("content", "text", "tool_calls", "function", "output", *_THOUGHTS))
"""Where messages, their parts and items of responses have text, or parts that have some."""
_WRITTEN = frozenset({"name", "id", "tool_call_id", "call_id", "arguments", "input"})
"""What else templates write into a prompt, objects as JSON: what a model was told of its calls."""
_CONVERSATION = ("messages", "system", "instructions")
_COUNTING = (Endpoint.TOKENIZE, Endpoint.DETOKENIZE, Endpoint.COUNT_TOKENS)
_LENGTHS: dict[Endpoint, tuple[str, ...]] = {
    Endpoint.CHAT: ("max_completion_tokens", "max_tokens"),
    Endpoint.COMPLETIONS: ("max_tokens",),
    Endpoint.RESPONSES: ("max_output_tokens",),
    Endpoint.MESSAGES: ("max_tokens",),
}
"""Where requests say how long an answer may be: the first of these that is there. The same name
means nothing to another endpoint."""
GENERATING = frozenset(_LENGTHS)
_WHOLE_NUMBER = re.compile(r"\+?[0-9]++(_[0-9]++)*+(\.0++)?")


def tier(header: str | None, body: Mapping[str, Any]) -> Tier | None:
    """The class that a request names, by `x-priority` or by `service_tier`; None if by neither.

    Raises:
        ClientError: there is no such class.
    """
    if header is not None:
        try:
            return Tier(header.strip().lower())
        except ValueError:
            known = ", ".join(Tier)
            raise ClientError(
                f"x-priority: there is no {header[:50]!r}, but {known}", param="x-priority"
            ) from None
    asked = body.get("service_tier")
    if asked is None:
        return None
    if not isinstance(asked, str) or asked not in _TIERS:
        known = ", ".join(_TIERS)
        raise ClientError(
            f"service_tier: there is no {str(asked)[:50]!r}, but {known}", param="service_tier"
        )
    return _TIERS[asked]


def deadline_s(header: str | None) -> float | None:
    """Seconds from the request's arrival by which its answer must have begun (`x-deadline-ms`).

    Raises:
        ClientError: it is not a number of milliseconds in the future.
    """
    if header is None:
        return None
    text = header.strip()
    # A header may hold more digits than Python is willing to read.
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(DEADLINE_MAX_MS))
    milliseconds = int(text) if is_number else 0
    if not 0 < milliseconds <= DEADLINE_MAX_MS:
        raise ClientError(
            f"x-deadline-ms: {header[:50]!r} is no number of milliseconds from now, "
            f"1 to {DEADLINE_MAX_MS}",
            param="x-deadline-ms",
        )
    return milliseconds / 1e3


def output_tokens(endpoint: Endpoint, body: Mapping[str, Any]) -> int | None:
    """The most tokens that a request wants of each answer; None if it does not say, or says it in
    a way that the front end will refuse."""
    field = length_field(endpoint, body)
    return None if field is None else _whole_number(body[field])


def with_output_tokens(
    endpoint: Endpoint, body: Mapping[str, Any], most_tokens: int
) -> dict[str, Any]:
    """The same request, wanting so much of each answer and no more. It must have said how much."""
    field = length_field(endpoint, body)
    assert field is not None, "a request that does not say how much it wants cannot want less"
    return {**body, field: most_tokens}


def length_field(endpoint: Endpoint, body: Mapping[str, Any]) -> str | None:
    """Where a request says how long an answer may be; None if it does not."""
    names = _LENGTHS.get(endpoint, ())
    return next((name for name in names if body.get(name) is not None), None)


def _whole_number(value: Any) -> int | None:
    """A number above 0 in any of the ways in which pydantic takes one: 4000.0 and "4000" are
    numbers, too. What only resembles one is nothing."""
    if isinstance(value, str):
        text = value.strip()  # of more than `float` knows as spaces
        value = float(text) if _WHOLE_NUMBER.fullmatch(text) else None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    return int(value) if isinstance(value, int) and value > 0 else None


def generations(body: Mapping[str, Any]) -> int:
    """How many answers a request wants: `n` times its prompts."""
    n = body.get("n")
    return (n if isinstance(n, int) and n > 0 else 1) * prompts(body)


def prompts(body: Mapping[str, Any]) -> int:
    """How many prompts, or texts to be embedded, stand side by side in a request."""
    for name in _PROMPTS:
        found = body.get(name)
        if isinstance(found, list) and found and isinstance(found[0], str | list):
            return len(found)
    return 1


def may_be_any_length(endpoint: Endpoint, body: Mapping[str, Any]) -> bool:
    """Whether its text need not fit: it is only to be counted, or to be cut as the client says."""
    is_cut = body.get("truncate_prompt_tokens") is not None
    is_cut = is_cut or body.get("truncation") not in (None, "disabled")
    return is_cut or endpoint in _COUNTING


def longest_text(body: Mapping[str, Any]) -> int:
    """Length of all text that would be tokenised, in characters; of several prompts, the longest's.
    Not a token count: it tells the absurd from the possible."""
    prompts = max(_longest(body.get(name)) for name in _PROMPTS)
    return prompts + sum(_text_len(body.get(name)) for name in _CONVERSATION)


def _longest(prompts: Any) -> int:
    """Of one prompt or of the longest of several, as text or as token ids. A list of objects is one
    conversation."""
    if not isinstance(prompts, list) or (prompts and isinstance(prompts[0], dict)):
        return _text_len(prompts)
    if prompts and isinstance(prompts[0], int):
        return len(prompts)
    return max([len(item) for item in prompts if isinstance(item, str | list)], default=0)


def _text_len(value: Any) -> int:
    """Of a string, a message, a part or a tool call of one, or a list of any of these."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        found = [_text_len(part) for name, part in value.items() if name in _PARTS]
        written = [len(str(part)) for name, part in value.items() if name in _WRITTEN]
        return sum(found) + sum(written)
    if not isinstance(value, list):
        return 0
    strings = sum([len(item) for item in value if type(item) is str])
    return strings + sum([_text_len(item) for item in value if type(item) is dict])
