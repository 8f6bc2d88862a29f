"""Which other model may answer."""

from collections.abc import Mapping
from typing import Any

import pytest

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.failures import Chains, FailureClass
from infer_daemon.domain.features import Feature
from infer_daemon.routing.fallback import (
    Abilities,
    Fallback,
    Needs,
    NoFallback,
    fallback,
    lacks,
)

F = FailureClass
CHAINS = Chains(by_class={F.DEAD: ("small", "tiny"), F.TOO_LONG: ("long",)})
ABLE = Abilities(
    endpoints=frozenset({Endpoint.CHAT}),
    context_tokens=4096,
    features=frozenset({Feature.TOOLS}),
)
ALL = dict.fromkeys(["small", "tiny", "long"], ABLE)
NEEDS = Needs(endpoint=Endpoint.CHAT, tokens=1000)


def instead(
    failure: FailureClass = F.DEAD,
    *,
    chains: Chains = CHAINS,
    needs: Needs = NEEDS,
    abilities: Mapping[str, Abilities] = ALL,
    **others: Any,
) -> Fallback | NoFallback:
    asked = {"tried": ["chat"], "has_sent": False, "may_use": lambda _: True, **others}
    return fallback(chains, failure, needs, abilities, **asked)


def reason(found: Fallback | NoFallback) -> str:
    assert isinstance(found, NoFallback), found
    return found.reason


def test_the_first_of_the_chain_of_that_failure_answers() -> None:
    assert instead(F.DEAD) == Fallback("small", F.DEAD)
    assert instead(F.TOO_LONG) == Fallback("long", F.TOO_LONG)


def test_the_client_is_told_who_answers_and_why() -> None:
    assert Fallback("small", F.LOAD_FAILED).headers == {
        "x-infer-model": "small",
        "x-infer-fallback": "load_failed",
    }


def test_a_failure_without_a_chain_is_the_clients_to_see() -> None:
    assert reason(instead(F.OVERLOAD)) == "no fallback for overload"
    assert reason(instead(F.DEAD, chains=Chains())) == "no fallback for dead"


def test_once_content_has_been_sent_no_other_model_answers() -> None:
    assert reason(instead(has_sent=True)) == "content has been sent"


def test_a_model_that_must_not_be_replaced_is_not() -> None:
    chains = Chains(by_class=CHAINS.by_class, fail_closed=True)

    assert reason(instead(chains=chains)) == "fail_closed"


def test_what_was_tried_is_not_tried_again() -> None:
    assert instead(tried=["chat", "small"]) == Fallback("tiny", F.DEAD)
    assert reason(instead(tried=["small", "tiny"])) == "small was tried; tiny was tried"


def test_a_model_that_cannot_answer_now_is_passed_over() -> None:
    assert instead(abilities={"tiny": ABLE}) == Fallback("tiny", F.DEAD)


def test_a_tenant_gets_no_model_by_a_fallback_that_it_may_not_use() -> None:
    assert instead(may_use=lambda model: model != "small") == Fallback("tiny", F.DEAD)


@pytest.mark.parametrize(
    ("needs", "missing"),
    [
        (Needs(endpoint=Endpoint.CHAT, tokens=4096), ""),
        (Needs(endpoint=Endpoint.CHAT, tokens=9, features=frozenset({Feature.TOOLS})), ""),
        (Needs(endpoint=Endpoint.CHAT, tokens=4097), "has a context of 4096 tokens, not 4097"),
        (Needs(endpoint=Endpoint.EMBEDDINGS, tokens=9), "has no embeddings"),
        (
            Needs(
                endpoint=Endpoint.CHAT,
                tokens=9,
                features=frozenset({Feature.VISION, Feature.GRAMMAR, Feature.TOOLS}),
            ),
            "lacks grammar, vision",
        ),
    ],
)
def test_a_model_that_lacks_what_the_request_needs_is_not_taken(needs: Needs, missing: str) -> None:
    assert lacks(ABLE, needs) == missing
    taken = instead(needs=needs)
    assert isinstance(taken, NoFallback) == bool(missing)


def test_a_model_of_which_the_context_is_not_known_is_not_taken() -> None:
    unknown = Abilities(endpoints=ABLE.endpoints, context_tokens=None)

    assert "small has a context of unknown length" in reason(instead(abilities={"small": unknown}))
