"""Which other model may answer when one cannot: a chain per class of failure. Pure.

As it is configured:

    [models.chat.fallback]
    dead = ["chat-small"]
    timeout = ["chat-small"]
    too_long = ["chat-long"]

    [models.legal.fallback]
    fail_closed = true      # never another model, whatever happens

A chain is that of the model which the client asked for, to its end: the chains of its members are
not followed. Only before the first content has been sent, and only a model that can do what the
request needs and that its tenant may use; the client is told which one answered, and why.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from infer_daemon.domain.endpoints import Endpoint


class FailureClass(StrEnum):
    """Why the model that was asked for does not answer."""

    DEAD = "dead"
    """None of its engines is alive, or the last one died or stalled."""
    TIMEOUT = "timeout"
    OVERLOAD = "overload"
    """No room, or no turn in time."""
    LOAD_FAILED = "load_failed"
    TOO_LONG = "too_long"
    """The prompt, with the answer that is asked for, is longer than its context."""


class Feature(StrEnum):
    """What a request may need besides its endpoint."""

    TOOLS = "tools"
    VISION = "vision"
    AUDIO = "audio"
    REASONING = "reasoning"
    GRAMMAR = "grammar"
    LOGPROBS = "logprobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a request needs of whoever answers it."""

    endpoint: Endpoint
    tokens: int
    """Prompt, and the answer that was asked for."""
    features: frozenset[Feature] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Abilities:
    """What a model can do, as far as is known while it may not be running."""

    endpoints: frozenset[Endpoint]
    context_tokens: int | None
    """None while it is not known: nothing is sent to such a model."""
    features: frozenset[Feature] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """Of one model."""

    by_class: Mapping[FailureClass, tuple[str, ...]] = field(default_factory=dict)
    fail_closed: bool = False


@dataclass(frozen=True, slots=True)
class Fallback:
    """Another model may answer."""

    model: str
    failure: FailureClass

    @property
    def headers(self) -> Mapping[str, str]:
        """What the client is told; in the stream if that has begun with comments."""
        return {"x-infer-model": self.model, "x-infer-fallback": str(self.failure)}


@dataclass(frozen=True, slots=True)
class NoFallback:
    """The failure is the client's to see."""

    reason: str
    """For the log."""


def fallback(
    chains: Chains,
    failure: FailureClass,
    needs: Needs,
    abilities: Mapping[str, Abilities],
    *,
    tried: Collection[str],
    has_sent: bool,
    may_use: Callable[[str], bool],
) -> Fallback | NoFallback:
    """The model to try next.

    1. Content has been sent: none, the answer may only be continued by the same model.
    2. The model must not be replaced: none.
    3. The first of the chain that was not tried, is allowed, and can do what is needed.

    Args:
        abilities: of the models that can answer now: ready, and passed by their breakers.
        tried: models that this request has had already.
        may_use: whether whoever asks may use the model of a name.
    """
    if has_sent:
        return NoFallback("content has been sent")
    if chains.fail_closed:
        return NoFallback("fail_closed")
    why_not = list[str]()
    for model in chains.by_class.get(failure, ()):
        if model in tried:
            problem = "was tried"
        elif not may_use(model):
            problem = "is not for this tenant"
        elif (able := abilities.get(model)) is None:
            problem = "is not ready"
        else:
            problem = lacks(able, needs)
        if not problem:
            return Fallback(model, failure)
        why_not.append(f"{model} {problem}")
    return NoFallback("; ".join(why_not) or f"no fallback for {failure}")


def lacks(abilities: Abilities, needs: Needs) -> str:
    """What a model lacks to answer a request; "" if nothing."""
    if needs.endpoint not in abilities.endpoints:
        return f"has no {needs.endpoint}"
    if abilities.context_tokens is None:
        return "has a context of unknown length"
    if needs.tokens > abilities.context_tokens:
        return f"has a context of {abilities.context_tokens} tokens, not {needs.tokens}"
    missing = sorted(needs.features - abilities.features)
    return f"lacks {', '.join(missing)}" if missing else ""


def problems(chains: Mapping[str, Chains]) -> Iterator[tuple[str, str]]:
    """All that is wrong with the chains of a configuration: the place, and what it is.

    Args: chains: of every model of the configuration, also of those that have none.
    """
    for model, own in chains.items():
        place = f"models.{model}.fallback"
        if own.fail_closed and any(own.by_class.values()):
            yield f"{place}.fail_closed", "a model that must not be replaced has no chains"
        for failure, chain in own.by_class.items():
            for number, name in enumerate(chain):
                if name not in chains:
                    yield f"{place}.{failure}[{number}]", f"there is no model {name!r}"
                elif name == model:
                    yield f"{place}.{failure}[{number}]", "is the model itself"
                elif name in chain[:number]:
                    yield f"{place}.{failure}[{number}]", f"{name!r} is in the chain already"
    for failure in FailureClass:
        for cycle in _cycles(chains, failure):
            way = " -> ".join([*cycle, cycle[0]])
            yield f"models.{cycle[0]}.fallback.{failure}", f"goes round in a circle: {way}"


def _cycles(chains: Mapping[str, Chains], failure: FailureClass) -> Iterator[list[str]]:
    """At least one circle for each group of models that send to each other what they fail at: such
    would pass an outage on and back. A model in its own chain is told elsewhere."""
    done = set[str]()
    for start in chains:
        # Depth first without recursion: the way so far, and what is left to try from each of it.
        way, rest = [start], [_following(chains, failure, start)]
        while way and way[0] not in done:
            following = next(rest[-1], None)
            if following is None:
                done.add(way.pop())
                rest.pop()
            elif following in way:
                at = way.index(following)
                yield (cycle := way[at:])
                done.update(cycle)
                del way[at:], rest[at:]
            elif following not in done:
                way.append(following)
                rest.append(_following(chains, failure, following))


def _following(chains: Mapping[str, Chains], failure: FailureClass, model: str) -> Iterator[str]:
    own = chains.get(model, Chains())
    return (name for name in own.by_class.get(failure, ()) if name != model)
