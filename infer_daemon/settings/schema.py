"""The configuration as types: every key, its default, unit and range. Frozen after load.

`config/production.toml` documents each key for operators; a test holds the two together.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Bytes = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")]
KeyHash = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
FileMode = Annotated[str, Meta(pattern=r"^0?[0-7]{3}$")]
VllmValue = str | int | float | bool | list[Any] | dict[str, Any]


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table in the file: frozen, and an unknown key is an error."""


class DaemonSection(Section, frozen=True):
    """The process itself."""

    state_dir: str = "~/.local/state/infer-daemon"
    drain_timeout_s: Seconds = 30.0
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    engine_log_level: Literal["debug", "info", "warning", "error"] = "warning"


class ListenSection(Section, frozen=True):
    """The door: where the OpenAI-compatible API is offered."""

    host: str = "127.0.0.1"
    port: Port = 8000
    unix_socket: str = "api.sock"
    unix_socket_mode: FileMode = "0660"
    unix_socket_group: str = ""
    tls_certificate: str = ""
    tls_key: str = ""
    operator_paths: bool = True
    connections_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    header_bytes_max: Annotated[int, Meta(ge=1024, le=1_048_576)] = 16_384
    body_bytes_max: Bytes = 8 * 1024 * 1024
    json_depth_max: Annotated[int, Meta(ge=8, le=512)] = 64
    send_timeout_s: Seconds = 30.0
    receive_timeout_s: Seconds = 120.0
    keepalive_timeout_s: Seconds = 75.0
    media_hosts: list[str] = []


class AdminSection(Section, frozen=True):
    """The operators' door beside its Unix socket."""

    host: str = "127.0.0.1"
    port: Port | None = None
    key_hashes: list[KeyHash] = []


class SchedulingSection(Section, frozen=True):
    """How requests wait for an engine."""

    queue_len_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    wait_timeout_s: Seconds = 120.0
    fanout_max: Annotated[int, Meta(ge=1, le=4096)] = 128


class TenantSection(Section, frozen=True):
    """One party that requests are charged to."""

    key_hashes: list[KeyHash] = []
    uids: list[Annotated[int, Meta(ge=0, le=4_294_967_294)]] = []


class SimSection(Section, frozen=True):
    """How the simulated engine behaves."""

    step_ms: Annotated[float, Meta(ge=0, le=60_000)] = 5.0
    prefill_tokens_per_step: Annotated[int, Meta(ge=1)] = 2048
    kv_tokens: Annotated[int, Meta(ge=16)] = 262_144
    max_model_len: Annotated[int, Meta(ge=16)] = 8192
    start_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    embedding_size: Annotated[int, Meta(ge=2, le=8192)] = 8
    fail_start: str = ""
    die_after_tokens: Annotated[int, Meta(ge=0)] = 0
    hang_after_tokens: Annotated[int, Meta(ge=0)] = 0


class EngineSection(Section, frozen=True):
    """One engine: one `AsyncLLM` (or one simulated engine) in this process."""

    model: str
    kind: Literal["vllm", "sim"] = "vllm"
    devices: list[Annotated[int, Meta(ge=0, le=1023)]] = []
    cpu_cores: Literal["auto", "none"] | list[Annotated[int, Meta(ge=0, le=4095)]] = "auto"
    kv_cache_memory_bytes: Bytes | None = None
    max_num_seqs: Annotated[int, Meta(ge=1, le=65_536)] = 128
    start_timeout_s: Seconds = 600.0
    spin: Literal["auto", "nap", "vendor"] = "auto"
    vllm: dict[str, VllmValue] = {}
    env: dict[str, str] = {}
    sim: SimSection = SimSection()

    @property
    def is_local(self) -> bool:
        """Whether the model is on this machine's disk, and not a name to be looked up in a hub."""
        return self.model.startswith(("builtin:", "package:", "/", "~", "."))


class ModelSection(Section, frozen=True):
    """One public model name: which engines can serve it, and with which adapter."""

    engines: Annotated[list[Name], Meta(min_length=1)]
    lora: str = ""


class Settings(Section, frozen=True):
    """The whole file."""

    engines: dict[Name, EngineSection]
    models: dict[Name, ModelSection]
    daemon: DaemonSection = DaemonSection()
    listen: ListenSection = ListenSection()
    admin: AdminSection = AdminSection()
    scheduling: SchedulingSection = SchedulingSection()
    tenants: dict[Name, TenantSection] = {}


def replace_listen(settings: Settings, *, host: str | None, port: int | None) -> Settings:
    """The same settings with the command line's address."""
    listen = settings.listen
    listen = msgspec.structs.replace(
        listen,
        host=listen.host if host is None else host,
        port=listen.port if port is None else port,
    )
    return msgspec.structs.replace(settings, listen=listen)


def replace_state_dir(settings: Settings, state_dir: str) -> Settings:
    """The same settings with the command line's state folder."""
    daemon = msgspec.structs.replace(settings.daemon, state_dir=state_dir)
    return msgspec.structs.replace(settings, daemon=daemon)
