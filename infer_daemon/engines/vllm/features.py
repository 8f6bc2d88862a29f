"""What a model can do beside text, as its engine was started."""

from collections.abc import Iterable
from typing import Any

from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY

from infer_daemon.domain.features import Feature


def features(args: Any, model: ModelConfig, tasks: Iterable[str]) -> frozenset[Feature]:
    """Args: args: as `vllm serve` has them; tasks: what the engine says that it can do."""
    found = set[Feature]()
    if "generate" in tasks:
        found |= {Feature.GRAMMAR, Feature.LOGPROBS}
    if args.enable_auto_tool_choice and args.tool_call_parser:
        found.add(Feature.TOOLS)
    if args.reasoning_parser:
        found.add(Feature.REASONING)
    if model.supports_multimodal_inputs:
        limits = MULTIMODAL_REGISTRY.get_processing_info(model).allowed_mm_limits
        kinds = {"image": Feature.VISION, "video": Feature.VISION, "audio": Feature.AUDIO}
        found |= {kinds[kind] for kind, most in limits.items() if most and kind in kinds}
    return frozenset(found)
