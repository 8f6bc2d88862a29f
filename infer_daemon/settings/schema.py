"""The configuration as types: every key, its default, unit and range. Frozen after load.

`config/production.toml` documents each key for operators; a test holds the two together.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from infer_daemon.domain.features import Feature

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Bytes = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65_535)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}$")]
KeyHash = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
FileMode = Annotated[str, Meta(pattern=r"^0?[0-7]{3}$")]
PerMinute = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Count = Annotated[int, Meta(ge=1, le=100_000_000)]
KeptShare = Annotated[float, Meta(ge=0, le=0.3)]
Priority = Literal["critical", "interactive", "batch"]
PreemptAfterMs = Annotated[float, Meta(ge=0, le=86_400_000)] | Literal["never"]
Usd = int | float | str
Tokens = Annotated[int, Meta(ge=1, le=1_000_000_000_000_000)]
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
    """How requests wait for an engine, and who goes next."""

    queue_len_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    wait_timeout_s: Seconds = 120.0
    batch_wait_timeout_s: Seconds = 3600.0
    first_token_timeout_s: Seconds | None = None
    token_gap_timeout_s: Seconds | None = None
    total_timeout_s: Seconds = 7200.0
    fanout_max: Annotated[int, Meta(ge=1, le=4096)] = 128
    input_token_weight: Annotated[float, Meta(ge=0, le=100)] = 1.0
    output_token_weight: Annotated[float, Meta(gt=0, le=100)] = 2.0
    batch_share_min: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    kept_for_critical: KeptShare = 0.05
    kept_for_newcomers: KeptShare = 0.1
    kept_from_batch: KeptShare = 0.15
    critical_preempt_after_ms: PreemptAfterMs = 500.0
    interactive_preempt_after_ms: PreemptAfterMs = 2000.0
    comment_after_s: Seconds = 5.0
    grammar_bytes_max: Annotated[int, Meta(ge=256, le=1_048_576)] = 16_384
    regex_len_max: Annotated[int, Meta(ge=16, le=65_536)] = 1024


class LedgerSection(Section, frozen=True):
    """Where it is written down what every request used and cost."""

    durability: Literal["process", "power"] = "process"
    on_error: Literal["refuse", "spill"] = "refuse"
    keep_days: Annotated[int, Meta(ge=1, le=36_500)] = 90


class DeviceSection(Section, frozen=True):
    """Something that engines run on, and what it costs."""

    usd_per_hour: Usd


class PriceSection(Section, frozen=True):
    """What a model's tokens are sold for, in dollars per million."""

    input_usd: Usd
    output_usd: Usd
    cached_input_usd: Usd | None = None


class LimitsSection(Section, frozen=True):
    """What one party may ask for: a tenant, a model, or everybody together."""

    requests_per_minute: PerMinute | None = None
    input_tokens_per_minute: PerMinute | None = None
    output_tokens_per_minute: PerMinute | None = None
    max_concurrency: Count | None = None
    max_queued: Count | None = None
    max_prompt_tokens: Count | None = None
    max_output_tokens: Count | None = None
    max_context_tokens: Count | None = None
    default_output_tokens: Count | None = None
    over_max_output: Literal["clamp", "refuse"] | None = None
    too_long_chat: Literal["reject", "drop_oldest_turns"] | None = None
    too_long_text: Literal["reject", "keep_tail"] | None = None


class BudgetLimitsSection(Section, frozen=True):
    """How much may be used in a day and in a month of UTC."""

    day_usd: Usd | None = None
    month_usd: Usd | None = None
    day_tokens: Tokens | None = None
    month_tokens: Tokens | None = None


class BudgetSection(Section, frozen=True):
    """What a tenant may use up: hard budgets refuse, soft ones warn."""

    hard: BudgetLimitsSection = BudgetLimitsSection()
    soft: BudgetLimitsSection = BudgetLimitsSection()


class TenantSection(Section, frozen=True):
    """One party that requests are charged to."""

    key_hashes: list[KeyHash] = []
    uids: list[Annotated[int, Meta(ge=0, le=4_294_967_294)]] = []
    weight: Annotated[float, Meta(ge=0.001, le=1000)] = 1.0
    priority: Priority = "interactive"
    priority_max: Priority = "interactive"
    models: list[Name] = []
    ttft_objective_s: Seconds | None = None
    deadline_s: Seconds | None = None
    limits: LimitsSection = LimitsSection()
    budget: BudgetSection = BudgetSection()


class SimSection(Section, frozen=True):
    """How the simulated engine behaves."""

    step_ms: Annotated[float, Meta(ge=0, le=60_000)] = 5.0
    prefill_tokens_per_step: Annotated[int, Meta(ge=1)] = 2048
    kv_tokens: Annotated[int, Meta(ge=16)] = 262_144
    max_model_len: Annotated[int, Meta(ge=16)] = 8192
    start_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    stop_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    embedding_size: Annotated[int, Meta(ge=2, le=8192)] = 8
    fail_start: str = ""
    die_after_tokens: Annotated[int, Meta(ge=0)] = 0
    hang_after_tokens: Annotated[int, Meta(ge=0)] = 0
    fault_share: Annotated[float, Meta(ge=0, le=1)] = 0.0
    features: list[Feature] = []


class WindowSection(Section, frozen=True):
    """How much work an engine is given at once; what is not set follows from the engine."""

    seqs: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    prefill_tokens: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None
    kv_share: Annotated[float, Meta(gt=0, le=1)] = 0.95


class RestartSection(Section, frozen=True):
    """How patient to be with an engine that dies, or cannot be started."""

    delay_s: Annotated[float, Meta(ge=0, le=3600)] = 0.5
    delay_s_max: Annotated[float, Meta(ge=0, le=3600)] = 60.0
    healthy_s: Seconds = 10.0
    deaths_max: Annotated[int, Meta(ge=0, le=1000)] = 10
    window_s: Seconds = 900.0
    starts_max: Annotated[int, Meta(ge=1, le=1000)] = 3


class EngineSection(Section, frozen=True):
    """One engine: one `AsyncLLM` (or one simulated engine) in this process."""

    model: str
    kind: Literal["vllm", "sim"] = "vllm"
    devices: list[Annotated[int, Meta(ge=0, le=1023)]] = []
    cpu_cores: Literal["auto", "none"] | list[Annotated[int, Meta(ge=0, le=4095)]] = "auto"
    kv_cache_memory_bytes: Bytes | None = None
    max_num_seqs: Annotated[int, Meta(ge=1, le=65_536)] = 128
    start_timeout_s: Seconds = 600.0
    stall_timeout_s: Seconds = 30.0
    spin: Literal["auto", "nap", "vendor"] = "auto"
    vllm: dict[str, VllmValue] = {}
    env: dict[str, str] = {}
    sim: SimSection = SimSection()
    window: WindowSection = WindowSection()
    restart: RestartSection = RestartSection()

    @property
    def device_names(self) -> list[str]:
        """What it runs on, as `[devices.NAME]` calls it."""
        return [f"gpu-{number}" for number in self.devices] or ["cpu"]

    @property
    def is_local(self) -> bool:
        """Whether the model is on this machine's disk, and not a name to be looked up in a hub."""
        return self.model.startswith(("builtin:", "package:", "/", "~", "."))


class FallbackSection(Section, frozen=True):
    """Which other models may answer in place of one, by why that does not."""

    dead: list[Name] = []
    timeout: list[Name] = []
    overload: list[Name] = []
    load_failed: list[Name] = []
    too_long: list[Name] = []
    fail_closed: bool = False


class LastResortSection(Section, frozen=True):
    """What is answered when no model can."""

    text: Annotated[str, Meta(max_length=10_000)] = ""


class ModelSection(Section, frozen=True):
    """One public model name: which engines can serve it, and with which adapter."""

    engines: Annotated[list[Name], Meta(min_length=1)]
    lora: str = ""
    anomaly_policy: Literal["flag", "breaker"] = "flag"
    price: PriceSection | None = None
    limits: LimitsSection = LimitsSection()
    fallback: FallbackSection = FallbackSection()
    last_resort: LastResortSection = LastResortSection()


class BreakerSection(Section, frozen=True):
    """When an engine that fails, or is slow, is left alone for a while."""

    window_s: Seconds = 30.0
    calls_min: Annotated[int, Meta(ge=1, le=1_000_000)] = 10
    failure_share_max: Annotated[float, Meta(gt=0, le=1)] = 0.5
    slow_s: Seconds = 60.0
    slow_share_max: Annotated[float, Meta(gt=0, le=1)] = 0.9
    open_s: Seconds = 5.0
    open_s_max: Seconds = 120.0
    retry_share_max: Annotated[float, Meta(ge=0, le=1)] = 0.1


class Settings(Section, frozen=True):
    """The whole file."""

    engines: dict[Name, EngineSection]
    models: dict[Name, ModelSection]
    daemon: DaemonSection = DaemonSection()
    listen: ListenSection = ListenSection()
    admin: AdminSection = AdminSection()
    scheduling: SchedulingSection = SchedulingSection()
    limits: LimitsSection = LimitsSection()
    ledger: LedgerSection = LedgerSection()
    breaker: BreakerSection = BreakerSection()
    devices: dict[Name, DeviceSection] = {}
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
