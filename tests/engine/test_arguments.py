"""The arguments of an engine, judged by vLLM's own parser. Imports vLLM, starts no engine."""

from typing import Any

import pytest
from harness import ROOT

from infer_daemon.settings.load import load
from infer_daemon.settings.schema import EngineSection

pytestmark = pytest.mark.vllm


def engine(model: str = "builtin:demo", **fields: Any) -> EngineSection:
    return EngineSection(model=model, **{"kv_cache_memory_bytes": 2**26, **fields})


def problems(section: EngineSection, *, loras: int = 0) -> list[str]:
    from infer_daemon.engines.vllm import arguments

    return list(arguments.problems(section, "$.engines.x", loras=loras))


@pytest.mark.parametrize(
    ("vllm", "said"),
    [
        pytest.param({"max_model_lenn": 5}, "$.engines.x.vllm.max_model_lenn: ", id="unknown"),
        pytest.param({"max_model_len": "many"}, "$.engines.x.vllm.max_model_len: ", id="type"),
        pytest.param({"dtype": "float3"}, "$.engines.x.vllm.dtype: ", id="choice"),
    ],
)
def test_an_argument_that_vllm_refuses_is_named(vllm: dict[str, Any], said: str) -> None:
    (problem,) = problems(engine(vllm=vllm))

    assert problem.startswith(said)


def test_every_bad_argument_is_named_at_once() -> None:
    vllm: dict[str, Any] = {"nonsense": 1, "dtype": "float3", "max_model_len": 2048}

    assert len(problems(engine(vllm=vllm))) == 2


@pytest.mark.parametrize("model", ["builtin:nobody", "package:no_such_package/x", "/not/there"])
def test_a_model_that_is_not_there_is_named(model: str) -> None:
    (problem,) = problems(engine(model))

    assert problem.startswith("$.engines.x.model: ")


def test_the_demos_arguments_are_vllms() -> None:
    from infer_daemon.engines.vllm import arguments

    for name, engine in load(ROOT / "config/demo.toml").engines.items():
        assert list(arguments.problems(engine, name)) == []


def test_one_adapter_slot_stays_empty() -> None:
    from infer_daemon.engines.vllm import arguments

    chosen = arguments.namespace(engine(), ["demo"], loras=2)

    assert chosen.enable_lora
    assert chosen.max_loras == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param(
            {"vllm": {"max_loras": 2}}, "vllm.max_loras: must be more than the 2", id="slots"
        ),
        pytest.param(
            {"kv_cache_memory_bytes": None}, "kv_cache_memory_bytes: is needed", id="KV cache"
        ),
    ],
)
def test_what_vllm_accepts_on_the_cpu_and_should_not_is_refused_by_check_and_by_the_start(
    fields: dict[str, Any], said: str
) -> None:
    from infer_daemon.engines.vllm import arguments

    (problem,) = problems(engine(**fields), loras=2)

    assert problem.startswith(f"$.engines.x.{said}")
    with pytest.raises(arguments.ArgumentProblem, match=said):
        arguments.namespace(engine(**fields), ["demo"], loras=2)
    assert problems(engine(vllm={"max_loras": 2}), loras=1) == []
