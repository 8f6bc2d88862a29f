"""What becomes of a generation whose engine was lost under it. Pure.

What has sent nothing is *rerun* from scratch: the same request to another engine, which may draw
other tokens; nobody has seen the first. What has sent content is *continued*: what was generated
becomes part of the prompt of another call, a *leg*, that asks for the rest. The client keeps
exactly the tokens that it has.

An engine counts only what it generated itself, unless something in it sees to the kept tokens at
the end of the prompt. Without that a leg needs help to count what came before:

* `max_tokens` and `min_tokens` are what is left of them. A repetition penalty looks at the prompt
  too and needs none.
* A frequency penalty is restored exactly by a bias of -penalty x count on each earlier token.
* A presence penalty is restored by a bias of -penalty on each earlier token. The engine applies it
  once more to an earlier token that comes again, which no bias can prevent.
* Both only nearly where there is a repetition penalty as well, which engines apply after the bias;
  and not at all by an engine that takes no bias (speculative decoding).
* Bad words of several tokens may be completed across the cut, unless the engine counts.
* Draws of a seeded leg are others: the seed's sequence has been used up to the cut. The leg has a
  seed of its own, made of the first and the length of what there is, so that the same cut continues
  the same way.
* A grammar would begin again at its root: refused, unless the engine lets it begin behind what is
  kept.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

SEED_BITS = 63
_SPREAD = 0x9E3779B97F4A7C15  # odd, of no pattern: the golden ratio in 64 bits


class Inexact(StrEnum):
    """What is not as in an undisturbed run; the client is told."""

    SEED = "seed"
    PRESENCE_PENALTY = "presence_penalty"
    FREQUENCY_PENALTY = "frequency_penalty"
    BAD_WORDS = "bad_words"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What a request asked of its engine, as far as it matters here."""

    max_tokens: int
    """Of each sequence; resolved, at most what the context has room for."""
    min_tokens: int = 0
    n: int = 1
    seed: int | None = None
    is_greedy: bool = False
    """At temperature 0 there are no draws: a seed makes no difference."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    stop_token_ids: frozenset[int] = frozenset()
    """That end a sequence, the end-of-text token included unless it is ignored."""
    has_grammar: bool = False
    has_long_bad_words: bool = False
    """Words of several tokens that must not be generated."""


class Counting(StrEnum):
    """How the tokens that a leg keeps come to count as output."""

    ENGINE = "engine"
    """It is told how many they are and counts them."""
    BIAS = "bias"
    NOT = "not"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The engine that is to go on, as far as it matters here."""

    context_tokens: int
    counting: Counting = Counting.BIAS
    restores_grammars: bool = False
    """Whether a grammar may begin behind the tokens that a leg keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """The call that continues one sequence. Everything that is not here is as in the request; it
    has no stop strings and no prompt logprobs, of which the gate takes care."""

    index: int
    """Of the sequence among the request's `n`."""
    prompt_token_ids: tuple[int, ...]
    kept_tokens: int
    """At the end of that prompt, which the client knows as output."""
    max_tokens: int
    min_tokens: int
    seed: int | None
    logit_bias: Mapping[int, float]

    @property
    def waste_tokens(self) -> int:
        """Prompt tokens that an engine has worked on before: nobody is billed for them again."""
        return len(self.prompt_token_ids)


@dataclass(frozen=True, slots=True)
class Rerun:
    """Nothing was sent: the request begins again."""

    waste_tokens: int
    """Tokens that were worked on in vain."""


@dataclass(frozen=True, slots=True)
class Continue:
    """Each unfinished sequence goes on with a leg of its own."""

    legs: tuple[Leg, ...]
    endings: Mapping[int, str]
    """Index -> finish reason of sequences that need no leg: their last token was there already and
    only the word of it was lost. Those that had finished before are not among them."""
    inexact: frozenset[Inexact]


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot go on."""

    reason: str
    """For the client, in an event that ends the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """One of the `n` sequences that a request asked for, as far as it got."""

    index: int
    token_ids: Sequence[int]
    """All that have arrived, whether or not they have been sent yet."""
    is_finished: bool = False


def next_step(
    prompt_token_ids: Sequence[int],
    sequences: Sequence[Generated],
    sampling: Sampling,
    target: Target,
    *,
    has_sent: bool,
) -> Rerun | Continue | Refuse:
    """What to do with a call whose engine was lost.

    1. Nothing was sent: rerun.
    2. A sequence that is not finished is under a grammar that would begin again: refuse.
    3. The target has no room for the longest sequence: refuse.
    4. Else continue.

    Args: has_sent: whether the client has seen content. A unary request has not before its end.
    """
    if not has_sent:
        generated = sum(len(sequence.token_ids) for sequence in sequences)
        return Rerun(len(prompt_token_ids) + generated)
    open_ones = [sequence for sequence in sequences if not sequence.is_finished]
    endings = {one.index: why for one in open_ones if (why := _ended(one.token_ids, sampling))}
    open_ones = [one for one in open_ones if one.index not in endings]
    begins_again = sampling.has_grammar and not target.restores_grammars
    if begins_again and any(one.token_ids for one in open_ones):
        return Refuse("the engine was lost, and its place in the grammar cannot be found again")
    if open_ones and len(prompt_token_ids) + sampling.max_tokens > target.context_tokens:
        return Refuse("the engine was lost, and no other has room for the rest of the answer")
    return Continue(
        tuple(_leg(prompt_token_ids, one, sampling, target) for one in open_ones),
        endings,
        frozenset(what for one in open_ones for what in _inexact(one.token_ids, sampling, target)),
    )


def is_exact(prompt_tokens: int, sampling: Sampling, target: Target) -> bool:
    """Whether a call of one sequence may be cut anywhere, goes on, and comes to the same as if it
    had not been."""
    if sampling.n != 1 or sampling.has_grammar:
        return False
    has_room = prompt_tokens + sampling.max_tokens <= target.context_tokens
    return has_room and not _inexact((0,), sampling, target)


def child_seed(sampling: Sampling, index: int) -> int | None:
    """The seed of one of `n` sequences, as vLLM gives them out."""
    return None if sampling.seed is None else sampling.seed + index


def _ended(token_ids: Sequence[int], sampling: Sampling) -> str | None:
    """The finish reason of a sequence that has its last token, None if it has not."""
    if token_ids and token_ids[-1] in sampling.stop_token_ids:
        return "stop"
    return "length" if len(token_ids) >= sampling.max_tokens else None


def _leg(prompt: Sequence[int], sequence: Generated, sampling: Sampling, target: Target) -> Leg:
    kept = len(sequence.token_ids)
    bias = dict(sampling.logit_bias)
    if target.counting is Counting.BIAS:
        for token, count in Counter(sequence.token_ids).items():
            earlier = sampling.frequency_penalty * count + sampling.presence_penalty
            if earlier:
                bias[token] = bias.get(token, 0.0) - earlier
    return Leg(
        index=sequence.index,
        prompt_token_ids=(*prompt, *sequence.token_ids),
        kept_tokens=kept,
        max_tokens=sampling.max_tokens - kept,
        min_tokens=max(0, sampling.min_tokens - kept),
        seed=_leg_seed(child_seed(sampling, sequence.index), kept),
        logit_bias=bias,
    )


def _leg_seed(seed: int | None, kept: int) -> int | None:
    if seed is None or not kept:
        return seed
    return (seed + kept * _SPREAD) % (1 << SEED_BITS)


def _inexact(token_ids: Sequence[int], sampling: Sampling, target: Target) -> set[Inexact]:
    """Nothing, of a sequence that has no tokens yet: it begins like any other."""
    if not token_ids:
        return set()
    found = set[Inexact]()
    if sampling.seed is not None and not sampling.is_greedy:
        found.add(Inexact.SEED)
    if target.counting is Counting.ENGINE:
        return found
    if sampling.has_long_bad_words:
        found.add(Inexact.BAD_WORDS)
    if sampling.presence_penalty:
        found.add(Inexact.PRESENCE_PENALTY)
    is_exact = target.counting is Counting.BIAS and sampling.repetition_penalty == 1.0
    if sampling.frequency_penalty and not is_exact:
        found.add(Inexact.FREQUENCY_PENALTY)
    return found
