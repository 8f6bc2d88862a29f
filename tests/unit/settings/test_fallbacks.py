"""Chains of fallbacks as they are configured: what is wrong with them."""

import itertools
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from infer_daemon.domain.failures import Chains, FailureClass
from infer_daemon.settings.fallbacks import problems

F = FailureClass


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
