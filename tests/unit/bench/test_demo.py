"""Configurations and prompts of the benches."""

import random
from pathlib import Path

import pytest

from infer_daemon.bench import demo, prompts
from infer_daemon.settings.load import load
from infer_daemon.tenancy.registry import key_hash


@pytest.mark.parametrize("kind", ["vllm", "sim"])
def test_a_benchs_configuration_is_valid(kind: demo.Kind, tmp_path: Path) -> None:
    plan = demo.Plan(tenants={"a": {}, "b": {"weight": 3.0}}, is_wide_open=True)

    setup = demo.write(tmp_path, "x", kind, plan)

    settings = load(setup.config)
    assert settings.engines["demo"].kind == kind
    assert settings.engines["demo"].max_num_seqs == demo.SEQS_MAX
    assert settings.engines["demo"].window.seqs == demo.SEQS_MAX
    assert settings.scheduling.kept_for_newcomers == 0
    assert settings.tenants["b"].key_hashes == [key_hash(setup.keys["b"])]
    assert settings.tenants["b"].weight == 3


def test_a_window_is_as_it_ships_unless_it_is_to_be_open(root: Path, tmp_path: Path) -> None:
    settings = load(demo.write(tmp_path, "x", "sim", demo.Plan(tenants={})).config)
    shipped = load(root / "config/demo.toml")

    assert settings.engines["demo"].window == shipped.engines["demo"].window
    assert settings.scheduling == shipped.scheduling


def test_the_engine_is_the_demos(root: Path, tmp_path: Path) -> None:
    setup = demo.write(tmp_path, "x", "vllm", demo.Plan(tenants={}))
    ours = load(setup.config).engines["demo"]
    theirs = load(root / "config/demo.toml").engines["demo"]

    without_adapters = {k: v for k, v in theirs.vllm.items() if k != "max_lora_rank"}
    assert ours.vllm == without_adapters
    assert ours.kv_cache_memory_bytes == theirs.kv_cache_memory_bytes
    assert ours.max_num_seqs == theirs.max_num_seqs


def test_no_two_prompts_are_alike() -> None:
    rng = random.Random(1)

    made = {prompts.prompt(rng, 400) for _ in range(100)}

    assert len(made) == 100
    assert {len(text.split()) for text in made} == {401}
