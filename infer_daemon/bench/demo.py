"""The configuration of a bench: the demo's model, without adapters, and tenants of its own.

The engine is that of `config/demo.toml`. Adapters would make every step slower and are not what is
measured; vLLM's own server goes without them too.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from infer_daemon.bench.launches import toml
from infer_daemon.bench.prompts import MODEL
from infer_daemon.tenancy.registry import key_hash

ENGINE = "demo"
SEQS_MAX = 64
"""That the engine itself could hold."""
WINDOW_SEQS = 22
"""That it is given at once, as in `config/demo.toml`."""
WIDE_OPEN = {"seqs": SEQS_MAX, "prefill_tokens": 1_000_000, "kv_share": 1.0}
NOTHING_KEPT = {"kept_for_critical": 0.0, "kept_for_newcomers": 0.0, "kept_from_batch": 0.0}
"""Together they hold nothing back which the engine itself would take."""
Kind = Literal["vllm", "sim"]

_VLLM: dict[str, Any] = {
    "model": "builtin:demo",
    "kv_cache_memory_bytes": 268_435_456,
    "vllm": {
        "max_model_len": 2048,
        "dtype": "float32",
        "max_num_batched_tokens": 128,
        "long_prefill_token_threshold": 32,
        "enforce_eager": True,
        "enable_auto_tool_choice": True,
        "tool_call_parser": "hermes",
        "tool_strict_level": "parameter",
        "enable_prompt_tokens_details": True,
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
    },
}
_WINDOW = {"seqs": WINDOW_SEQS, "prefill_tokens": 144}
_SCHEDULING = {"kept_for_newcomers": 0.3, "kept_from_batch": 0.3}
"""As in `config/demo.toml`, both."""
_SIM: dict[str, Any] = {"kind": "sim", "model": "echo", "sim": {"step_ms": 2.0}}


@dataclass(frozen=True, slots=True)
class Demo:
    """A configuration that was written for a bench."""

    config: Path
    state_dir: Path
    keys: Mapping[str, str] = field(repr=False)
    """Of its tenants, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a bench wants of its configuration beside the model."""

    tenants: Mapping[str, Mapping[str, Any]]
    """Name -> keys of its table."""
    is_wide_open: bool = False
    """Whether the engine is given whatever it can hold; else the window is as it ships."""


def write(folder: Path, name: str, kind: Kind, plan: Plan) -> Demo:
    """Write `NAME.toml` into the folder, with new keys for its tenants."""
    keys = {tenant: f"sk-bench-{secrets.token_hex(12)}" for tenant in plan.tenants}
    engine = {**(_VLLM if kind == "vllm" else _SIM), "max_num_seqs": SEQS_MAX}
    engine["window"] = WIDE_OPEN if plan.is_wide_open else _WINDOW
    tables = {
        "daemon": {"engine_log_level": "error", "log_format": "json", "drain_timeout_s": 5.0},
        "scheduling": NOTHING_KEPT if plan.is_wide_open else _SCHEDULING,
        "engines": {ENGINE: engine},
        "models": {MODEL: {"engines": [ENGINE]}},
        "tenants": {
            tenant: {"key_hashes": [key_hash(keys[tenant])], **table}
            for tenant, table in plan.tenants.items()
        },
    }
    config = folder / f"{name}.toml"
    config.write_text(toml(tables))
    return Demo(config, folder / name, keys)
