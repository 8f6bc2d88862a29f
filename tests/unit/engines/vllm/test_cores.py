"""Dealing out cores is arithmetic; no vLLM needed."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infer_daemon.engines.vllm.cores import CoresSetting, deal, environment


@pytest.mark.parametrize(
    ("wishes", "available", "dealt"),
    [
        ({"a": "auto"}, [0, 1, 2, 3], {"a": [0, 1, 2]}),
        ({"a": "auto", "b": "auto"}, range(5), {"a": [0, 1], "b": [2, 3]}),
        ({"a": "auto", "b": "auto"}, range(6), {"a": [0, 1, 2], "b": [3, 4]}),
        ({"a": [0, 1], "b": "auto"}, range(6), {"a": [0, 1], "b": [2, 3, 4]}),
        ({"a": "none", "b": "auto"}, [4, 5, 6], {"a": [], "b": [4, 5]}),
        ({"a": "auto", "b": "auto"}, range(4), {"a": [], "b": []}),
        ({"a": "auto"}, [0, 1], {"a": []}),
        ({"a": [0, 1], "b": "auto"}, [0, 1], {"a": [0, 1], "b": []}),
        ({}, [0, 1], {}),
    ],
    ids=[
        "one core is left to the daemon",
        "equal parts",
        "the first gets what is over",
        "named cores are not dealt again",
        "none is left alone",
        "too few for two each",
        "too few for one",
        "nothing left",
        "no engines",
    ],
)
def test_cores_are_dealt_out(
    wishes: Mapping[str, CoresSetting], available: Sequence[int], dealt: dict[str, list[int]]
) -> None:
    assert deal(wishes, available) == dealt


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
WISHES = st.one_of(st.sampled_from(["auto", "none"]), st.lists(st.integers(0, 7), unique=True))


@settings(deadline=None)
@given(wishes=st.dictionaries(NAMES, WISHES), available=st.lists(st.integers(0, 15), unique=True))
def test_no_two_engines_that_leave_it_to_us_share_a_core(
    wishes: dict[str, CoresSetting], available: list[int]
) -> None:
    dealt = deal(wishes, available)
    automatic = [dealt[name] for name, wish in wishes.items() if wish == "auto"]
    named = {core for wish in wishes.values() if isinstance(wish, list) for core in wish}
    given_out = [core for cores in automatic for core in cores]

    assert dealt.keys() == wishes.keys()
    assert len(set(given_out)) == len(given_out)
    assert set(given_out) <= set(available) - named
    assert not automatic or max(map(len, automatic)) - min(map(len, automatic)) <= 1


def test_a_bound_engine_has_a_thread_for_each_of_its_cores() -> None:
    assert environment([2, 3]) == {"VLLM_CPU_OMP_THREADS_BIND": "2,3", "OMP_NUM_THREADS": "2"}


def test_an_unbound_engine_computes_on_one_thread() -> None:
    assert environment([]) == {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
