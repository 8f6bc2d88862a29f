"""What the daemon shows of itself: to clients (/v1/models, /ready), Prometheus and operators;
and the little that it is told besides requests."""

import asyncio
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Protocol

from infer_daemon import __version__
from infer_daemon.admission.admission import Admission
from infer_daemon.domain.states import EngineState
from infer_daemon.domain.tenant import Tenant
from infer_daemon.engines.fleet import Fleet
from infer_daemon.engines.judging import Judge
from infer_daemon.engines.pool import Pool
from infer_daemon.ledger.allowances import Allowances
from infer_daemon.ledger.book import Book
from infer_daemon.ledger.exposition import (
    BudgetCollector,
    DeviceCollector,
    EngineReport,
    LiveCollector,
    VendorCollector,
    page,
)
from infer_daemon.ledger.feedback import Feedback, FeedbackDesk
from infer_daemon.ledger.metrics import Metrics
from infer_daemon.ledger.recorder import Recorder
from infer_daemon.ledger.reports.desk import Desk
from infer_daemon.ledger.stopwatch import Stopwatch
from infer_daemon.ledger.weights import UNIT
from infer_daemon.live import Live
from infer_daemon.request_path import RequestPath
from infer_daemon.routing.catalog import Catalog, Deployment
from infer_daemon.scheduling.scheduler import Scheduler
from infer_daemon.tenancy.registry import Registry


class Parts(Protocol):
    """What there is to be seen; see `daemon.Daemon`."""

    path: RequestPath
    tenants: Registry
    catalog: Catalog
    admission: Admission
    pools: dict[str, Pool]
    judge: Judge
    schedulers: dict[str, Scheduler]
    fleet: Fleet
    metrics: Metrics
    vendor: VendorCollector
    recorder: Recorder
    allowances: Allowances
    book: Book
    desk: Desk
    feedback: FeedbackDesk
    stopwatch: Stopwatch
    live: Live


class View:
    """Reads every part, and passes on what is told. Implements `api.app.View`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._created = int(time.time())
        registry = parts.metrics.registry
        registry.register(parts.vendor)
        registry.register(DeviceCollector(parts.stopwatch.totals))
        registry.register(LiveCollector(lambda: list(self._engine_reports()), self._queues))
        registry.register(BudgetCollector(parts.allowances.standings))

    def authenticate(self, key: str | None, uid: int | None) -> Tenant:
        """Whose the key is, or without one the user; raises InvalidKey if nobody's."""
        return self._parts.tenants.authenticate(key, uid)

    def models(self, tenant: Tenant) -> list[dict[str, object]]:
        """One card per public model that the tenant may use, in OpenAI's shape and with vLLM's
        `max_model_len`."""
        return [self._card(d) for d in self._parts.catalog if tenant.may_use(d.model)]

    def _card(self, deployment: Deployment) -> dict[str, object]:
        pool = self._parts.pools[deployment.pool]
        lengths = [facts.max_model_len for facts in pool.facts.values()]
        return {
            "id": deployment.model,
            "object": "model",
            "created": self._created,
            "owned_by": "infer-daemon",
            "parent": deployment.pool if deployment.lora else None,
            "max_model_len": min(lengths, default=None),
        }

    def readiness(self) -> tuple[bool, dict[str, object]]:
        """Ready when every model is ready or has failed for good and at least one is ready."""
        models = {d.model: self._model_state(d) for d in self._parts.catalog}
        states = [str(model["state"]) for model in models.values()]
        ready = not self._parts.path.is_draining and "starting" not in states and "ready" in states
        status = "draining" if self._parts.path.is_draining else "ready" if ready else "not ready"
        return ready, {"status": status, "models": models}

    def _model_state(self, deployment: Deployment) -> dict[str, object]:
        pool = self._parts.pools[deployment.pool]
        lora = deployment.model if deployment.lora else None
        if any(lora is None or lora in facts.loras for facts in pool.facts.values()):
            return {"state": "ready"}
        return {"state": _why_not(pool), "reason": pool.why_not_ready(lora)}

    def metrics(self) -> bytes:
        """The page for Prometheus."""
        return page(self._parts.metrics.registry)

    def _engine_reports(self) -> Iterator[EngineReport]:
        for pool in self._parts.pools.values():
            for name, status in list(pool.statuses.items()):
                supervisor = self._parts.fleet.supervisors.get(name)
                engine = supervisor.engine if supervisor and status.state.runs_work else None
                yield EngineReport(
                    name=name,
                    model=pool.name,
                    state=status.state,
                    stats=asdict(engine.stats) if engine else {},
                    restarts=status.restarts,
                    breaker=pool.health.state(name),
                )

    def _queues(self) -> list[tuple[str, int, int]]:
        return [(name, s.waiting, s.running) for name, s in self._parts.schedulers.items()]

    def story(self, request_id: str) -> dict[str, object] | None:
        """One request's history; None if it is not known (any more)."""
        return self._parts.recorder.story(request_id)

    async def ledger(self, question: str, words: Mapping[str, str]) -> dict[str, object]:
        """What the ledger tells; see `ledger.reports.desk.Desk`."""
        return await self._parts.desk.answer(question, words)

    async def ledger_request(self, request_id: str) -> dict[str, object] | None:
        """What the ledger has of one request; None if nothing."""
        return await self._parts.desk.request(request_id)

    async def usage(self, tenant: Tenant, words: Mapping[str, str]) -> dict[str, object]:
        """What a tenant has used."""
        return await self._parts.desk.own_usage(tenant.name, words)

    async def feedback(self, tenant: Tenant, feedback: Feedback) -> dict[str, object]:
        """Write down what a tenant says of an answer; see `FeedbackDesk.take`."""
        return await self._parts.feedback.take(tenant.name, feedback)

    async def reload(self) -> dict[str, object]:
        """Read the configuration again; see `live.Live.reload`."""
        return asdict(await self._parts.live.reload())

    def drain(self, engine: str) -> dict[str, object]:
        """Give an engine no more work; see `engines.supervisor.Supervisor.drain`."""
        self._parts.fleet.supervisor(engine).drain()
        return self._work_of(engine)

    def undrain(self, engine: str) -> dict[str, object]:
        """Give it work again; see `engines.supervisor.Supervisor.undrain`."""
        self._parts.fleet.supervisor(engine).undrain()
        return self._work_of(engine)

    def _work_of(self, name: str) -> dict[str, object]:
        """What an engine still works on, and who takes what is new."""
        supervisor = self._parts.fleet.supervisor(name)
        (pool,) = (pool for pool in self._parts.pools.values() if supervisor.name in pool.statuses)
        return {
            "name": name,
            "model": pool.name,
            "state": supervisor.status.state,
            "in_flight": supervisor.in_flight,
            "ready": list(pool.facts),
        }

    def state(self) -> dict[str, object]:
        """Everything, for `infer-daemon state`."""
        now_s = asyncio.get_running_loop().time()
        ready, readiness = self.readiness()
        return {
            "version": __version__,
            "pid": os.getpid(),
            "ready": ready,
            "status": readiness["status"],
            "requests_in_flight": self._parts.path.in_flight,
            "models": readiness["models"],
            "anomalies": self._parts.judge.snapshot(),
            "engines": list(self._engine_states(now_s)),
            "pools": {name: s.snapshot() for name, s in self._parts.schedulers.items()},
            "limits": self._parts.admission.snapshot(now_s),
            "devices": list(self._devices()),
            "budgets": self._parts.allowances.snapshot(),
            "ledger": self._parts.book.snapshot(),
        }

    def _devices(self) -> Iterator[dict[str, object]]:
        """What each device's time went into since the daemon started, by engine."""
        stopwatch = self._parts.stopwatch
        stopwatch.refresh()
        for (device, engine), lines in stopwatch.totals.items():
            weights = stopwatch.weights.get(engine)
            yield {
                "device": device.name,
                "usd_per_hour": device.price_nano_usd_per_hour / 1e9,
                "engine": engine,
                "prompt_token_weight": weights and round(weights.prompt_token / UNIT, 4),
                "seconds": {line.value: round(ns / 1e9, 3) for line, ns in lines.items()},
            }

    def _engine_states(self, now_s: float) -> Iterator[dict[str, object]]:
        for pool in self._parts.pools.values():
            for name, status in pool.statuses.items():
                supervisor = self._parts.fleet.supervisors.get(name)
                engine = supervisor.engine if supervisor and status.state.has_processes else None
                yield {
                    "name": name,
                    "model": pool.name,
                    "state": status.state,
                    "step": status.step,
                    "reason": status.reason,
                    "restarts": status.restarts,
                    "last_end": status.last_end,
                    "breaker": pool.health.state(name),
                    "endings": dict(pool.health.endings(name)),
                    "for_s": round(now_s - status.since_s, 1),
                    "pid": engine.pid if engine else None,
                    "in_flight": supervisor.in_flight if supervisor else 0,
                    "stats": asdict(engine.stats) if engine else None,
                }


def _why_not(pool: Pool) -> str:
    """What becomes of a model that no engine has ready. A model that had been does not make the
    whole daemon unready: the others still answer."""
    if pool.is_lost:
        return "failed"
    statuses = pool.statuses.values()
    if any(status.state is EngineState.DRAINING for status in statuses):
        return "draining"
    return "restarting" if any(status.facts for status in statuses) else "starting"
