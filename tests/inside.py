"""The daemon without its doors: every part from the request path to simulated engines, on the
loop's own clock, so that it also runs on virtual time."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from infer_daemon.admission.admission import Admission
from infer_daemon.asking import Ask, Body
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import Reply
from infer_daemon.engines.judging import Judge
from infer_daemon.engines.pool import Pool
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.engines.supervisor import Status
from infer_daemon.falling_back import StandIns
from infer_daemon.ledger.allowances import Allowances
from infer_daemon.ledger.metrics import Metrics
from infer_daemon.ledger.recorder import Recorder
from infer_daemon.ledger.stopwatch import Stopwatch, placement
from infer_daemon.live import budgets, policy, prices, windows
from infer_daemon.request_path import Answer, RequestPath
from infer_daemon.routing.catalog import Catalog
from infer_daemon.scheduling.scheduler import Scheduler
from infer_daemon.settings.schema import Settings
from infer_daemon.streams import SettledStream
from infer_daemon.tenancy.registry import Registry


class Inside:
    """Built from settings like `daemon.Daemon`, with every engine ready from the start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        clock = asyncio.get_running_loop().time
        self.stopwatch = Stopwatch(
            placement(settings), clock_ns=lambda: round(clock() * 1e9), epoch_ns=0
        )
        self.recorder = Recorder(Metrics(), clock, self.stopwatch)
        self.pools: dict[str, Pool] = {}
        self.engines: dict[str, SimEngine] = {}
        catalog = Catalog.from_settings(settings)
        self.schedulers = {name: Scheduler(policy(settings)) for name in catalog.pools}
        self.started_at_us = 0
        self.allowances = Allowances(
            budgets(settings),
            prices(settings),
            lambda: self.started_at_us + round(clock() * 1e6),
        )
        self.admission = Admission(settings, self.schedulers, self.allowances, clock)
        judge = Judge(Metrics(), lambda *_: None)
        for name in catalog.pools:
            self.pools[name] = Pool(
                name,
                self.schedulers[name],
                Metrics(),
                self.stopwatch,
                self.admission,
                judge=judge,
                windows=windows(settings),
                fanout_max=settings.scheduling.fanout_max,
            )
        self._pool_of = {
            engine: deployments[0].pool
            for deployments in catalog.pools.values()
            for engine in settings.models[deployments[0].model].engines
        }
        for engine, pool in self._pool_of.items():
            self.pools[pool].statuses[EngineName(engine)] = Status()
        self.path = RequestPath(
            tenants=Registry(settings.tenants),
            catalog=catalog,
            admission=self.admission,
            pools=self.pools,
            schedulers=self.schedulers,
            recorder=self.recorder,
            comment_after_s=settings.scheduling.comment_after_s,
            allowances=self.allowances,
            stand_ins=StandIns(settings, catalog, self.pools),
        )

    @asynccontextmanager
    async def running(self) -> "AsyncIterator[Inside]":
        """With engines; at the end nothing may be left in them."""
        for name in self._pool_of:
            await self.start(name)
        try:
            yield self
            self.assert_empty()
        finally:
            for engine in self.engines.values():
                await engine.stop()

    async def start(self, name: str) -> None:
        """Open a new incarnation of an engine."""
        section = self._settings.engines[name]
        pool = self.pools[self._pool_of[name]]
        if name in self.engines:
            await self.engines[name].stop()
        engine = SimEngine(EngineName(name), section.sim, pool.gate, seqs_max=section.max_num_seqs)
        self.engines[name] = engine
        facts = await engine.start(lambda _: None)
        self._change(engine.name, EngineState.READY)
        pool.open(engine, facts)

    def kill(self, name: str, state: EngineState = EngineState.DEAD) -> None:
        """As the supervisor does it when an engine dies. `state`: what it is then; only a dead one
        is expected back."""
        self.engines[name].kill()
        self.pools[self._pool_of[name]].close(EngineName(name))
        self._change(EngineName(name), state)

    def pool_of(self, engine: str) -> Pool:
        """The pool that an engine belongs to."""
        return self.pools[self._pool_of[engine]]

    def _change(self, engine: EngineName, state: EngineState) -> None:
        """As the daemon is told it."""
        pool = self.pools[self._pool_of[engine]]
        pool.statuses[engine].state = state
        pool.look_ahead()
        self.stopwatch.change(engine, state)

    async def ask(
        self,
        endpoint: str = "completions",
        key: str | None = "sk-acme",
        head: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Answer:
        """A request as it comes through the door. `head`: what its headers say."""

        async def read() -> Body:
            return Body({"model": "echo", **fields})

        return await self.path.run(
            Ask(endpoint=Endpoint(endpoint), key=key, read=read, **(head or {}))
        )

    async def whole(self, **fields: Any) -> Mapping[str, Any]:
        """The decoded answer to a request that does not stream."""
        answer = await self.ask(**fields)
        assert isinstance(answer.content, Reply)
        body: Mapping[str, Any] = json.loads(answer.content.body)
        return body

    async def stream(self, **fields: Any) -> SettledStream:
        """The stream of a request that does."""
        answer = await self.ask(stream=True, **fields)
        assert isinstance(answer.content, SettledStream)
        return answer.content

    def assert_empty(self) -> None:
        """Every request has settled and nothing of one is anywhere."""
        assert self.path.in_flight == 0
        self.admission.check()
        self.allowances.check()
        assert self.allowances.open_count == 0
        self.stopwatch.check()
        for scheduler in self.schedulers.values():
            scheduler.check()
            assert (scheduler.waiting, scheduler.running) == (0, 0)
        for engine in self.engines.values():
            assert (engine.stats.running, engine.stats.waiting) == (0, 0)
