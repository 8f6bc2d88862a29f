"""The arguments of an engine, judged by vLLM's own parser. Imports vLLM, starts no engine."""

from typing import Any

import pytest
from harness import ROOT

from infer_daemon.settings.load import load
from infer_daemon.settings.schema import EngineSection

pytestmark = pytest.mark.vllm


def problems(**vllm: Any) -> list[str]:
    from infer_daemon.engines.vllm import arguments

    return list(arguments.problems(EngineSection(model="builtin:demo", vllm=vllm), "$.engines.x"))


@pytest.mark.parametrize(
    ("vllm", "said"),
    [
        pytest.param({"max_model_lenn": 5}, "$.engines.x.vllm.max_model_lenn: ", id="unknown"),
        pytest.param({"max_model_len": "many"}, "$.engines.x.vllm.max_model_len: ", id="type"),
        pytest.param({"dtype": "float3"}, "$.engines.x.vllm.dtype: ", id="choice"),
    ],
)
def test_an_argument_that_vllm_refuses_is_named(vllm: dict[str, Any], said: str) -> None:
    (problem,) = problems(**vllm)

    assert problem.startswith(said)


def test_every_bad_argument_is_named_at_once() -> None:
    assert len(problems(nonsense=1, dtype="float3", max_model_len=2048)) == 2


@pytest.mark.parametrize("model", ["builtin:nobody", "package:no_such_package/x", "/not/there"])
def test_a_model_that_is_not_there_is_named(model: str) -> None:
    from infer_daemon.engines.vllm import arguments

    (problem,) = arguments.problems(EngineSection(model=model), "$.engines.x")

    assert problem.startswith("$.engines.x.model: ")


def test_the_demos_arguments_are_vllms() -> None:
    from infer_daemon.engines.vllm import arguments

    for name, engine in load(ROOT / "config/demo.toml").engines.items():
        assert list(arguments.problems(engine, name)) == []


def test_one_adapter_slot_stays_empty() -> None:
    from infer_daemon.engines.vllm import arguments

    chosen = arguments.namespace(EngineSection(model="builtin:demo"), ["demo"], loras=2)
    too_few = EngineSection(model="builtin:demo", vllm={"max_loras": 2})

    assert chosen.enable_lora
    assert chosen.max_loras == 3
    assert len(list(arguments.slot_problems(too_few, 2, "$.engines.x"))) == 1
    assert list(arguments.slot_problems(too_few, 1, "$.engines.x")) == []
