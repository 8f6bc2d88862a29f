"""What the schema alone cannot say: how the tables of one file must agree with each other."""

from collections.abc import Iterator
from itertools import combinations

from infer_daemon.settings.schema import Settings

OURS = {
    "model": "$.engines.{name}.model",
    "served_model_name": "the name in [models.NAME]",
    "device_ids": "$.engines.{name}.devices",
    "max_num_seqs": "$.engines.{name}.max_num_seqs",
    "kv_cache_memory_bytes": "$.engines.{name}.kv_cache_memory_bytes",
    "lora_modules": "lora in [models.NAME]",
    "host": "$.listen.host",
    "port": "$.listen.port",
    "uds": "$.listen.unix_socket",
    "api_key": "key_hashes in [tenants.NAME]",
    "ssl_keyfile": "a TLS proxy in front of the daemon",
    "ssl_certfile": "a TLS proxy in front of the daemon",
}
"""Arguments of `vllm serve` that this daemon decides itself, and where they are said instead."""


def problems(settings: Settings) -> list[str]:
    """Every breach as `path: what is wrong`, in the order of the file's sections."""
    return [*_engines(settings), *_models(settings), *_devices(settings), *_tenants(settings)]


def _engines(settings: Settings) -> Iterator[str]:
    if not settings.engines:
        yield "$.engines: at least one engine is needed"
    served = {name for model in settings.models.values() for name in model.engines}
    for name, engine in settings.engines.items():
        if name not in served:
            yield f"$.engines.{name}: no model uses this engine"
        if engine.kind == "sim" and engine.vllm:
            yield f"$.engines.{name}.vllm: a simulated engine takes no vLLM arguments"
        for key in engine.vllm:
            if key.replace("-", "_") in OURS:
                place = OURS[key.replace("-", "_")].format(name=name)
                yield f"$.engines.{name}.vllm.{key}: is set by {place}"


def _models(settings: Settings) -> Iterator[str]:
    if not settings.models:
        yield "$.models: at least one model is needed"
    for name, model in settings.models.items():
        for index, engine in enumerate(model.engines):
            if engine not in settings.engines:
                known = ", ".join(settings.engines)
                yield f"$.models.{name}.engines[{index}]: no engine {engine!r} (there is: {known})"
        if len(set(model.engines)) != len(model.engines):
            yield f"$.models.{name}.engines: names an engine twice"
        bases = {
            (settings.engines[e].kind, settings.engines[e].model)
            for e in model.engines
            if e in settings.engines
        }
        if len(bases) > 1:
            yield f"$.models.{name}.engines: replicas must have the same kind and model"
        if model.lora and not any(
            set(other.engines) == set(model.engines) and not other.lora
            for other in settings.models.values()
        ):
            # The engines would answer with the base model under the adapter's name.
            yield f"$.models.{name}: its engines also need a model without a lora"
    for (a, first), (b, second) in combinations(settings.models.items(), 2):
        shared = set(first.engines) & set(second.engines)
        if shared and set(first.engines) != set(second.engines):
            yield (
                f"$.models.{b}.engines: shares {sorted(shared)} with model {a!r}, "
                "so both must name the same engines (they are one pool)"
            )


def _devices(settings: Settings) -> Iterator[str]:
    used: dict[int, str] = {}
    for name, engine in settings.engines.items():
        for index, device in enumerate(engine.devices):
            if device in used:
                where = "itself" if used[device] == name else f"engine {used[device]!r}"
                yield f"$.engines.{name}.devices[{index}]: device {device} is used by {where}"
            used[device] = name


def _tenants(settings: Settings) -> Iterator[str]:
    owners: dict[str, str] = {}
    for name, tenant in settings.tenants.items():
        for index, key_hash in enumerate(tenant.key_hashes):
            if key_hash in owners:
                yield (
                    f"$.tenants.{name}.key_hashes[{index}]: "
                    f"tenant {owners[key_hash]!r} has the same key"
                )
            owners[key_hash] = name
