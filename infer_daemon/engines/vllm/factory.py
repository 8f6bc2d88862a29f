"""From configuration to engines. Importing this imports vLLM: seconds, so not on the event loop."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from prometheus_client import CollectorRegistry
from vllm.platforms import current_platform

from infer_daemon.domain.jobs import EngineName
from infer_daemon.engines.gate import Gate
from infer_daemon.engines.vllm import arguments, cores
from infer_daemon.engines.vllm.engine import VllmEngine, VllmSpec
from infer_daemon.engines.vllm.plugin import NAP_ENV
from infer_daemon.settings.schema import EngineSection

NAP_S = 200e-6
"""Long enough to leave the core to others, short beside a step. On two cores 64 streams got 2,200
tokens/s with naps of 20 microseconds, 2,450 with 200 or 500, and 2,250 with vLLM's yields."""
CORES_THAT_AFFORD_SPINNING = 16
ENGINE_BASE_BYTES = 1_600_000_000
"""What the processes of an engine take before any weights: 1.3 GB seen, and some room."""


class VllmFactory:
    """Makes the engines of one daemon."""

    def __init__(
        self, engines: Mapping[str, EngineSection], media_hosts: Sequence[str] = ()
    ) -> None:
        """Args: engines: all vLLM engines of the configuration; cores are dealt out over them."""
        self._media_hosts = media_hosts
        self._engines = engines
        self._is_cpu = bool(current_platform.is_cpu())
        available = sorted(os.sched_getaffinity(0))
        wishes = {name: section.cpu_cores for name, section in engines.items()}
        self._cores = cores.deal(wishes, available) if self._is_cpu else {}
        self._may_spin = len(available) >= CORES_THAT_AFFORD_SPINNING

    def build(
        self,
        name: EngineName,
        section: EngineSection,
        *,
        served_names: list[str],
        loras: Mapping[str, str],
        gate: Gate,
        registry: CollectorRegistry,
    ) -> VllmEngine:
        """One engine, not started. `registry` gets its `vllm:*` series."""
        spec = VllmSpec(
            name=name,
            section=section,
            served_names=served_names,
            loras=loras,
            child_env=self.child_env(name, section),
            media_hosts=self._media_hosts,
        )
        return VllmEngine(spec, gate, registry)

    def child_env(self, name: str, section: EngineSection) -> dict[str, str]:
        """What the engine's processes find in their environment beside the daemon's own."""
        env: dict[str, str] = {}
        if section.spin == "nap" or (section.spin == "auto" and not self._may_spin):
            env[NAP_ENV] = repr(NAP_S)
        if self._is_cpu:
            env |= cores.environment(self._cores[name])
            if section.vllm.get("enforce_eager"):
                # vLLM compiles two small functions even so: 14 seconds at the first logprobs, and
                # without a C++ compiler the end of the engine.
                env["TORCHDYNAMO_DISABLE"] = "1"
        return {**env, **section.env}

    @property
    def cpu_bindings(self) -> dict[str, str]:
        """Engine name -> its cores, "" for any; empty where vLLM does not run on the CPU."""
        return {name: ", ".join(map(str, bound)) for name, bound in self._cores.items()}

    @property
    def needed_bytes(self) -> int:
        """Host memory that all of them are expected to take."""
        return sum(map(self.memory_bytes, self._engines.values()))

    def memory_bytes(self, section: EngineSection) -> int:
        """Host memory that loading this engine is expected to take: a guess where its model is not
        there, which its start will say."""
        total = ENGINE_BASE_BYTES
        if self._is_cpu:
            total += section.kv_cache_memory_bytes or 0
        with suppress(arguments.ArgumentProblem, OSError):
            folder = Path(arguments.model_path(section.model))
            total += sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        return total
