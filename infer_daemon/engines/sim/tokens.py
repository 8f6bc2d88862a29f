"""The simulated model: a token is a word, and the answer to a prompt is the prompt."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

from infer_daemon.engines.continuing import Continue, Generated, Sampling, Target
from infer_daemon.engines.contract import Ended


@dataclass(frozen=True, slots=True)
class Choice:
    """One sequence to generate, worked out beforehand."""

    words: list[str]
    finish_reason: str


@dataclass(frozen=True, slots=True)
class SimPayload:
    """What a simulated engine needs to run a call. No choices: a pooling call."""

    choices: list[Choice]
    made: list[int] = field(default_factory=list)
    """Words of each choice that have been generated."""
    has_grammar: bool = False
    """Whether the choices follow one, of which no engine can find the place again."""
    is_json: bool = False
    """Whether the choices were to be JSON. They are what they are."""
    seed: int | None = None
    """Of draws that nobody makes: what a real engine could not go on with, this one says too."""

    def __post_init__(self) -> None:
        if not self.made:
            self.made.extend([0] * len(self.choices))


@dataclass(slots=True, kw_only=True)
class SimProgress:
    """Implements `contract.Progress`: a payload knows how far it has come."""

    prompt_token_ids: Sequence[int]
    context_tokens: int
    payload: SimPayload

    @property
    def target(self) -> Target:
        """See `contract.Progress`."""
        return Target(context_tokens=self.context_tokens)

    @property
    def sampling(self) -> Sampling:
        """See `contract.Progress`."""
        choices = self.payload.choices
        return Sampling(
            max_tokens=max((len(choice.words) for choice in choices), default=0),
            n=len(choices),
            seed=self.payload.seed,
            is_greedy=self.payload.seed is None,
            has_grammar=self.payload.has_grammar,
        )

    def detach(self) -> None:
        """See `contract.Progress`."""
        self.payload = replace(self.payload, made=list(self.payload.made))

    def sequences(self) -> list[Generated]:
        """See `contract.Progress`."""
        return [
            Generated(
                index=index,
                token_ids=ids(choice.words[:made]),
                is_finished=made == len(choice.words),
            )
            for index, (choice, made) in enumerate(
                zip(self.payload.choices, self.payload.made, strict=True)
            )
        ]

    def again(self) -> SimPayload:
        """See `contract.Progress`."""
        self.payload.made[:] = [0] * len(self.payload.choices)
        return self.payload

    def further(self, step: Continue) -> SimPayload:
        """See `contract.Progress`."""
        for leg in step.legs:
            assert leg.kept_tokens == self.payload.made[leg.index], "what was made is kept"
        return self.payload

    def endings(self) -> list[Ended]:
        """See `contract.Progress`."""
        texts = (" ".join(choice.words) for choice in self.payload.choices)
        return [
            Ended(
                token_ids=ids(choice.words),
                finish_reason=choice.finish_reason,
                text=text,
                json=text if self.payload.is_json else None,
            )
            for choice, text in zip(self.payload.choices, texts, strict=True)
        ]


@dataclass(slots=True)
class Piece:
    """New words of one choice."""

    index: int
    words: list[str]
    finish_reason: str | None


def ids(words: list[str]) -> list[int]:
    """A number for each word."""
    return [crc32(word.encode()) for word in words]


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
