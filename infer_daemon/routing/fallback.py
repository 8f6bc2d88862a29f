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

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.failures import Chains, FailureClass
from infer_daemon.domain.features import Feature


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
