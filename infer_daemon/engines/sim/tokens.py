"""The simulated model: a token is a word, and the answer to a prompt is the prompt."""

import hashlib
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Choice:
    """One sequence to generate, worked out beforehand."""

    words: list[str]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class SimPayload:
    """What a simulated engine needs to run a call. No choices: a pooling call."""

    choices: list[Choice]


@dataclass(slots=True)
class Piece:
    """New words of one choice."""

    index: int
    words: list[str]
    finish_reason: str | None


def merge(earlier: list[Piece], later: list[Piece]) -> None:
    """Add later pieces to earlier ones, in place."""
    known = {piece.index: piece for piece in earlier}
    for piece in later:
        if piece.index in known:
            known[piece.index].words.extend(piece.words)
            known[piece.index].finish_reason = piece.finish_reason
        else:
            earlier.append(piece)


def answer(prompt: list[str], max_tokens: int | None, *, ignore_eos: bool) -> Choice:
    """The words of the prompt again: once, or, where the end is ignored, over and over up to
    `max_tokens`."""
    words = prompt or ["nothing"]
    if max_tokens is None:
        return Choice(words, "stop")
    if ignore_eos:
        repeats = math.ceil(max_tokens / len(words))
        return Choice((words * repeats)[:max_tokens], "length")
    if max_tokens < len(words):
        return Choice(words[:max_tokens], "length")
    return Choice(words, "stop")


def embedding(text: str, size: int) -> list[float]:
    """A unit vector that depends on the text alone."""
    digest = hashlib.shake_128(text.encode()).digest(size)
    values = [byte - 127.5 for byte in digest]
    norm = math.sqrt(sum(value * value for value in values))
    return [value / norm for value in values]
