"""Which other model may answer."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.routing.fallback import (
    Abilities,
    Chains,
    FailureClass,
    Fallback,
    Feature,
    Needs,
    NoFallback,
    fallback,
    lacks,
    problems,
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


# A configuration.


def configured(**chains: Mapping[FailureClass, tuple[str, ...]]) -> dict[str, Chains]:
    return {model: Chains(by_class=by_class) for model, by_class in chains.items()}


def test_chains_of_known_models_without_circles_are_right() -> None:
    chains = configured(
        chat={F.DEAD: ("small", "tiny"), F.TOO_LONG: ("long",)},
        long={F.DEAD: ("small",), F.OVERLOAD: ("chat",)},
        small={F.DEAD: ("tiny",)},
        tiny={},
    )

    assert list(problems(chains)) == []


def test_everything_that_is_wrong_is_told_at_once_with_its_place() -> None:
    chains = configured(
        chat={F.DEAD: ("small", "gone", "small"), F.TIMEOUT: ("chat",)}, small={}
    ) | {"legal": Chains(by_class={F.OVERLOAD: ("small",)}, fail_closed=True)}

    assert list(problems(chains)) == [
        ("models.chat.fallback.dead[1]", "there is no model 'gone'"),
        ("models.chat.fallback.dead[2]", "'small' is in the chain already"),
        ("models.chat.fallback.timeout[0]", "is the model itself"),
        ("models.legal.fallback.fail_closed", "a model that must not be replaced has no chains"),
    ]


def test_a_circle_is_told_with_its_way() -> None:
    chains = configured(
        out={F.DEAD: ("a",)}, a={F.DEAD: ("x", "b")}, b={F.DEAD: ("c",)}, c={F.DEAD: ("a",)}, x={}
    )

    assert list(problems(chains)) == [
        ("models.a.fallback.dead", "goes round in a circle: a -> b -> c -> a")
    ]


def test_models_that_stand_in_for_each_other_at_different_failures_are_right() -> None:
    chains = configured(chat={F.DEAD: ("small",)}, small={F.TOO_LONG: ("chat",)})

    assert list(problems(chains)) == []


MODELS = "abcdef"


@given(
    edges=st.dictionaries(
        st.sampled_from(MODELS), st.lists(st.sampled_from(MODELS), unique=True), max_size=6
    )
)
def test_circles_are_found_where_there_are_any_and_only_there(edges: dict[str, list[str]]) -> None:
    others = {model: [name for name in edges.get(model, []) if name != model] for model in MODELS}
    chains = configured(**{model: {F.DEAD: tuple(names)} for model, names in others.items()})
    left = set(MODELS)
    while gone := {model for model in left if not left & set(others[model])}:
        left -= gone

    found = list(problems(chains))
    assert bool(found) == bool(left)
    for _, told in found:
        way = told.removeprefix("goes round in a circle: ").split(" -> ")
        assert all(after in others[before] for before, after in itertools.pairwise(way))
        assert way[0] == way[-1]
