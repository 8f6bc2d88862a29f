"""All engines of the daemon: makes them, runs their supervisors, ends them."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from infer_daemon.domain.errors import EngineNotFound
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import Engine
from infer_daemon.engines.memory import MemoryQueue
from infer_daemon.engines.pool import Pool
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.engines.supervisor import Status, Supervisor
from infer_daemon.settings.schema import EngineSection

if TYPE_CHECKING:
    from infer_daemon.engines.vllm.factory import VllmFactory

log = structlog.get_logger()

PROGRESS_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPlan:
    """What a pool is made of."""

    pool: Pool
    engines: list[EngineName]
    served_names: list[str]
    """Public names of the base model; the first is the pool's own where it has none."""
    loras: Mapping[str, str]
    """Public name -> folder of each adapter."""


class Fleet:
    """Owns every supervisor."""

    def __init__(
        self,
        sections: Mapping[str, EngineSection],
        plans: list[PoolPlan],
        registry_of: Callable[[EngineName], CollectorRegistry],
        on_change: Callable[[EngineName, Status], None],
    ) -> None:
        """
        Args:
            registry_of: makes the registry for an engine's own series.
            on_change: told of every state of every engine.
        """
        self._sections = sections
        self._plans = plans
        self._registry_of = registry_of
        self._tell_change = on_change
        self._memory = MemoryQueue()
        self._settled = asyncio.Event()
        self.supervisors: dict[EngineName, Supervisor] = {}
        """Empty until `run` has made the engines."""
        for plan in plans:
            plan.pool.statuses |= {name: Status() for name in plan.engines}

    @property
    def _statuses(self) -> dict[EngineName, Status]:
        return {name: s for plan in self._plans for name, s in plan.pool.statuses.items()}

    async def run(self, load_vendor: Callable[[], "VllmFactory"]) -> None:
        """Make, start and watch every engine, until cancelled; then call `stop`.

        Args: load_vendor: imports vLLM, if there are engines that need it; runs in a thread.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report_progress(), name="report-progress")
            factory = await self._factory(load_vendor)
            for plan in self._plans:
                for name in plan.engines:
                    self.supervisors[name] = self._supervisor(name, plan, factory)
            for name, supervisor in self.supervisors.items():
                group.create_task(supervisor.run(), name=f"supervise-{name}")

    async def _factory(self, load_vendor: Callable[[], "VllmFactory"]) -> "VllmFactory | None":
        if all(section.kind != "vllm" for section in self._sections.values()):
            return None
        for status in self._statuses.values():
            status.step = "importing vLLM"
            status.since_s = asyncio.get_running_loop().time()
        return await asyncio.to_thread(load_vendor)

    async def stop(self) -> None:
        """End every engine, all at the same time."""
        await asyncio.gather(*(supervisor.stop() for supervisor in self.supervisors.values()))

    def kill(self) -> None:
        """End every engine without asking: a `stop` that waits already is quick, too."""
        for supervisor in self.supervisors.values():
            supervisor.kill()

    def supervisor(self, engine: str) -> Supervisor:
        """Of the engine of that name.

        Raises:
            EngineNotFound: there is none, or not yet.
        """
        found = self.supervisors.get(EngineName(engine))
        if found is None:
            known = ", ".join(self.supervisors) or "none yet"
            raise EngineNotFound(f"There is no engine {engine!r} (there is: {known})")
        return found

    async def settled(self) -> None:
        """Wait until no engine is waiting or starting."""
        await self._settled.wait()

    def _supervisor(
        self, name: EngineName, plan: PoolPlan, factory: "VllmFactory | None"
    ) -> Supervisor:
        section = self._sections[name]
        is_sim = section.kind == "sim"
        assert is_sim or factory is not None, "a vLLM engine needs vLLM"
        return Supervisor(
            name,
            partial(self._make, name, plan, factory),
            section=section,
            status=plan.pool.statuses[name],
            place=plan.pool,
            memory=self._memory,
            memory_bytes=0 if factory is None or is_sim else factory.memory_bytes(section),
            on_change=self._on_change,
        )

    def _make(self, name: EngineName, plan: PoolPlan, factory: "VllmFactory | None") -> Engine:
        """One incarnation, not started."""
        section = self._sections[name]
        if section.kind == "sim" or factory is None:
            return SimEngine(
                name,
                section.sim,
                plan.pool.gate,
                seqs_max=section.max_num_seqs,
                loras=frozenset(plan.loras),
            )
        return factory.build(
            name,
            section,
            served_names=plan.served_names,
            loras=plan.loras,
            gate=plan.pool.gate,
            registry=self._registry_of(name),
        )

    def _on_change(self, name: EngineName, status: Status) -> None:
        self._tell_change(name, status)
        _log_change(name, status)
        for plan in self._plans:
            plan.pool.look_ahead()
        if all(status.state.is_settled for status in self._statuses.values()):
            self._settled.set()

    async def _report_progress(self) -> None:
        """While engines load, say every few seconds what they are at: no silent minutes."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PROGRESS_S)
            for name, status in self._statuses.items():
                if status.state in (EngineState.WAITING, EngineState.STARTING):
                    spent_s = round(loop.time() - status.since_s)
                    log.info("engine_loading", engine=name, step=status.step, spent_s=spent_s)


def _log_change(name: EngineName, status: Status) -> None:
    keys: dict[str, object] = {"engine": name, "state": status.state.value}
    keys |= {"step": status.step} if status.step else {}
    keys |= {"reason": status.reason} if status.reason else {}
    keys |= {"restarts": status.restarts} if status.restarts else {}
    is_bad = status.state in (EngineState.FAILED, EngineState.DEAD)
    (log.error if is_bad else log.info)("engine_state", **keys)
