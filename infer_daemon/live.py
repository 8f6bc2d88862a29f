"""What of the settings may change while the daemon runs, and how it reaches those who need it."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import structlog

from infer_daemon.admission.admission import Admission
from infer_daemon.domain.jobs import EngineName, Tier
from infer_daemon.engines.pool import Pool
from infer_daemon.engines.timeouts import StageLimits
from infer_daemon.ledger.accounts import Budget, Unit
from infer_daemon.ledger.allowances import Allowances
from infer_daemon.ledger.periods import Period
from infer_daemon.ledger.pricing import Price
from infer_daemon.request_path import RequestPath
from infer_daemon.scheduling.policy import Policy
from infer_daemon.scheduling.scheduler import Scheduler
from infer_daemon.settings.budgets import KEYS, limit
from infer_daemon.settings.load import SettingsError
from infer_daemon.settings.schema import (
    LimitsSection,
    SchedulingSection,
    Settings,
    WindowSection,
)
from infer_daemon.tenancy.registry import Registry

log = structlog.get_logger()


class Parts(Protocol):
    """What follows the settings; see `daemon.Daemon`."""

    tenants: Registry
    admission: Admission
    schedulers: dict[str, Scheduler]
    pools: dict[str, Pool]
    path: RequestPath
    allowances: Allowances


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload did, as paths of keys (`$.tenants.acme.weight`)."""

    source: str
    applied: list[str]
    needs_restart: list[str]


@dataclass(frozen=True, slots=True)
class Source:
    """The file that the settings come from. What the command line says instead is not in here: it
    would hide what has changed."""

    name: str
    settings: Settings
    """As they were read at the start."""
    read: Callable[[], Settings]
    """Reads them again; runs in a thread."""


class Live:
    """The settings as they hold now."""

    def __init__(self, settings: Settings, parts: Parts, source: Source | None) -> None:
        """Args: source: None where there is no file to read again."""
        self._settings = settings if source is None else source.settings
        self._parts = parts
        self._source = source
        self._lock = asyncio.Lock()

    async def reload(self) -> Reloaded:
        """Read the file again and apply what may change while requests wait and run. They go on
        as they are. What needs a restart is told and left as it was.

        Raises:
            SettingsError: the file is bad; nothing has changed.
        """
        if self._source is None:
            raise SettingsError("the daemon", ["was started without a file"])
        async with self._lock:
            try:
                read = await asyncio.to_thread(self._source.read)
            except SettingsError as error:
                log.error("reload_refused", source=error.source, problems=error.problems)
                raise
            found = self._apply(read, self._source.name)
        log.info(
            "reloaded",
            source=found.source,
            applied=found.applied,
            needs_restart=found.needs_restart,
        )
        return found

    def _apply(self, read: Settings, source: str) -> Reloaded:
        merged = _with_changes_of(self._settings, read)
        applied = list(_differences(self._settings, merged))
        needs_restart = list(_differences(merged, read))
        parts, self._settings = self._parts, merged
        parts.tenants.change(merged.tenants)
        parts.admission.change(merged)
        parts.allowances.change(budgets(merged), prices(merged))
        parts.path.comment_after_s = merged.scheduling.comment_after_s
        for scheduler in parts.schedulers.values():
            scheduler.change(policy(merged))
        for pool in parts.pools.values():
            pool.change(windows(merged))
            pool.gate.fanout_max = merged.scheduling.fanout_max
            pool.gate.limit_stages(stage_limits(merged))
        return Reloaded(source, applied, needs_restart)


def policy(settings: Settings) -> Policy:
    """How turns are shared out."""
    section = settings.scheduling
    return Policy(
        # Requests are counted at admission; each may be as many jobs.
        queue_len_max=section.queue_len_max * section.fanout_max,
        input_weight=section.input_token_weight,
        output_weight=section.output_token_weight,
        weights={name: tenant.weight for name, tenant in settings.tenants.items()},
        batch_share_min=section.batch_share_min,
        kept_for_critical=section.kept_for_critical,
        kept_for_newcomers=section.kept_for_newcomers,
        kept_from_batch=section.kept_from_batch,
        preempt_after_s={
            tier: after_ms / 1e3
            for tier, after_ms in (
                (Tier.CRITICAL, section.critical_preempt_after_ms),
                (Tier.INTERACTIVE, section.interactive_preempt_after_ms),
            )
            if after_ms != "never"
        },
    )


def stage_limits(settings: Settings) -> StageLimits:
    """How long the stages of a call may take."""
    section = settings.scheduling
    return StageLimits(
        first_token_s=section.first_token_timeout_s,
        token_gap_s=section.token_gap_timeout_s,
        total_s=section.total_timeout_s,
    )


def prices(settings: Settings) -> dict[str, Price]:
    """What the tokens of each model are sold for; who is not in it is free."""
    return {
        name: Price.parse(
            input_usd=model.price.input_usd,
            output_usd=model.price.output_usd,
            cached_usd=model.price.cached_input_usd,
        )
        for name, model in settings.models.items()
        if model.price is not None
    }


def budgets(settings: Settings) -> dict[str, list[Budget]]:
    """What each tenant may use up; who is not in it has no budget."""
    units = {"usd": Unit.NANO_USD, "tokens": Unit.TOKENS}
    found: dict[str, list[Budget]] = {}
    for name, tenant in settings.tenants.items():
        for is_hard, section in ((True, tenant.budget.hard), (False, tenant.budget.soft)):
            for key in KEYS:
                period, unit = key.split("_")
                if (most := limit(section, key)) is not None:
                    budget = Budget(
                        period=Period(period), unit=units[unit], limit=most, is_hard=is_hard
                    )
                    found.setdefault(name, []).append(budget)
    return found


def windows(settings: Settings) -> dict[EngineName, WindowSection]:
    """How much each engine is given at once."""
    return {EngineName(name): engine.window for name, engine in settings.engines.items()}


def _with_changes_of(settings: Settings, read: Settings) -> Settings:
    """The settings with everything from `read` that may change now: tenants, limits, prices,
    scheduling and windows, of the models and engines that there are."""
    replace = msgspec.structs.replace
    scheduling: SchedulingSection = read.scheduling
    limits: LimitsSection = read.limits
    return replace(
        settings,
        tenants=read.tenants,
        limits=limits,
        scheduling=scheduling,
        models={
            name: replace(model, limits=read.models[name].limits, price=read.models[name].price)
            if name in read.models
            else model
            for name, model in settings.models.items()
        },
        engines={
            name: replace(e, window=read.engines[name].window) if name in read.engines else e
            for name, e in settings.engines.items()
        },
    )


def _differences(before: Any, after: Any, path: str = "$") -> Iterator[str]:
    """Paths of what is not the same in both."""
    if isinstance(before, msgspec.Struct) and type(before) is type(after):
        before, after = msgspec.structs.asdict(before), msgspec.structs.asdict(after)
    if not (isinstance(before, dict) and isinstance(after, dict)):
        if before != after:
            yield path
        return
    for key in before.keys() | after.keys():
        if key not in before or key not in after:
            yield f"{path}.{key}"
        else:
            yield from _differences(before[key], after[key], f"{path}.{key}")
