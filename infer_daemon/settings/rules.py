"""What the schema alone cannot say: how the tables of one file must agree with each other."""

import grp
from collections.abc import Iterator
from itertools import combinations

from infer_daemon.domain.money import nano_usd
from infer_daemon.settings import budgets, fallbacks
from infer_daemon.settings.schema import EngineSection, Settings

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
    "ssl_keyfile": "$.listen.tls_key",
    "ssl_certfile": "$.listen.tls_certificate",
    "allowed_media_domains": "$.listen.media_hosts",
}
"""Arguments of `vllm serve` that this daemon decides itself, and where they are said instead."""
REFUSED = {
    "enable_log_requests": "prompts are never logged",
    "enable_log_outputs": "completions are never logged",
    "data_parallel_size": "replicas are engines of their own, named by one model",
    "headless": "the engine belongs to this process",
    "allowed_local_media_path": "clients must not read this machine's files",
    "trust_request_chat_template": "a template is a program",
}
"""Arguments that would break a promise of this daemon, and why."""


def problems(settings: Settings) -> list[str]:
    """Every breach as `path: what is wrong`, in the order of the file's sections."""
    parts = (
        _listen,
        _engines,
        _models,
        fallbacks.breaches,
        _devices,
        _hourly,
        _cores,
        _prices,
        _growing,
        _tenants,
        budgets.problems,
    )
    return [problem for part in parts for problem in part(settings)]


def _listen(settings: Settings) -> Iterator[str]:
    listen, admin = settings.listen, settings.admin
    if bool(listen.tls_certificate) != bool(listen.tls_key):
        yield "$.listen.tls_certificate: a certificate and its key are needed, or neither"
    if listen.unix_socket_group:
        try:
            grp.getgrnam(listen.unix_socket_group)
        except KeyError:
            yield f"$.listen.unix_socket_group: there is no group {listen.unix_socket_group!r}"
    if admin.port is not None and not admin.key_hashes:
        yield "$.admin.key_hashes: a TCP port for operators needs a key"
    theirs = {digest for tenant in settings.tenants.values() for digest in tenant.key_hashes}
    for index, digest in enumerate(admin.key_hashes):
        if digest in theirs:
            yield f"$.admin.key_hashes[{index}]: a tenant has the same key"


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
            if key.replace("-", "_") in REFUSED:
                why = REFUSED[key.replace("-", "_")]
                yield f"$.engines.{name}.vllm.{key}: is not offered: {why}"


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
        replicas = [settings.engines[e] for e in model.engines if e in settings.engines]
        if any(_alike(e) != _alike(replicas[0]) for e in replicas):
            yield f"$.models.{name}.engines: replicas must have the same kind, model and vllm table"
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


def _prices(settings: Settings) -> Iterator[str]:
    for name, model in settings.models.items():
        if model.price is None:
            continue
        for key in ("input_usd", "output_usd", "cached_input_usd"):
            dollars = getattr(model.price, key)
            try:
                if dollars is not None:
                    nano_usd(dollars, "a price of")
            except ValueError as error:
                yield f"$.models.{name}.price.{key}: {error}"


def _growing(settings: Settings) -> Iterator[str]:
    """What grows up to a largest value, or is a part of a whole: were it more than that, one of the
    two would do nothing."""
    breaker = settings.breaker
    if breaker.open_s > breaker.open_s_max:
        yield f"$.breaker.open_s: {breaker.open_s:g} is above open_s_max, {breaker.open_s_max:g}"
    for name, engine in settings.engines.items():
        restart, seqs = engine.restart, engine.window.seqs
        if restart.delay_s > restart.delay_s_max:
            yield (
                f"$.engines.{name}.restart.delay_s: {restart.delay_s:g} is above delay_s_max, "
                f"{restart.delay_s_max:g}"
            )
        if seqs is not None and seqs > engine.max_num_seqs:
            yield (
                f"$.engines.{name}.window.seqs: {seqs} is above max_num_seqs, {engine.max_num_seqs}"
            )


def _alike(engine: EngineSection) -> tuple[object, ...]:
    """What all replicas share: a request is rendered once and may run on any of them."""
    return engine.kind, engine.model, engine.vllm


def _cores(settings: Settings) -> Iterator[str]:
    used: dict[int, str] = {}
    for name, engine in settings.engines.items():
        for index, core in enumerate(
            engine.cpu_cores if isinstance(engine.cpu_cores, list) else []
        ):
            if core in used:
                where = "itself" if used[core] == name else f"engine {used[core]!r}"
                yield f"$.engines.{name}.cpu_cores[{index}]: core {core} is used by {where}"
            used[core] = name


def _devices(settings: Settings) -> Iterator[str]:
    """A device may be shared by engines that say how much of it each takes: vLLM's default is
    nearly all of it."""
    taken: dict[int, float] = {}
    users: dict[int, str] = {}
    for name, engine in settings.engines.items():
        share = engine.vllm.get("gpu_memory_utilization")
        part = float(share) if isinstance(share, int | float) else 1.0
        for index, device in enumerate(engine.devices):
            place = f"$.engines.{name}.devices[{index}]"
            if users.get(device) == name:
                yield f"{place}: device {device} is used by itself"
                continue
            taken[device] = taken.get(device, 0.0) + part
            if device in users and taken[device] > 1.0:
                yield (
                    f"{place}: device {device} is used by engine {users[device]!r} (to share it, "
                    "their vllm.gpu_memory_utilization must add up to at most 1)"
                )
            users[device] = name


def _hourly(settings: Settings) -> Iterator[str]:
    used = {device for engine in settings.engines.values() for device in engine.device_names}
    for name, device in settings.devices.items():
        if name not in used:
            known = ", ".join(sorted(used))
            yield f"$.devices.{name}: no engine is on it (they are on: {known})"
        try:
            nano_usd(device.usd_per_hour, "a price of")
        except ValueError as error:
            yield f"$.devices.{name}.usd_per_hour: {error}"


def _tenants(settings: Settings) -> Iterator[str]:
    owners: dict[str, str] = {}
    users: dict[int, str] = {}
    for name, tenant in settings.tenants.items():
        for index, key_hash in enumerate(tenant.key_hashes):
            if key_hash in owners:
                yield (
                    f"$.tenants.{name}.key_hashes[{index}]: "
                    f"tenant {owners[key_hash]!r} has the same key"
                )
            owners[key_hash] = name
        for index, uid in enumerate(tenant.uids):
            if uid in users:
                yield f"$.tenants.{name}.uids[{index}]: uid {uid} is tenant {users[uid]!r} already"
            users[uid] = name
        for index, model in enumerate(tenant.models):
            if model not in settings.models:
                known = ", ".join(settings.models)
                yield f"$.tenants.{name}.models[{index}]: no model {model!r} (there is: {known})"
        # Only what somebody has written: "interactive" is the default, which a ceiling may lower.
        if tenant.priority == "critical" != tenant.priority_max:
            yield (
                f"$.tenants.{name}.priority: 'critical' is above its priority_max, "
                f'{tenant.priority_max!r} (critical work needs priority_max = "critical")'
            )
