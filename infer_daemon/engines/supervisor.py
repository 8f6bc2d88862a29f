"""One engine's life: started, watched, started again when it dies, until it is given up or stopped.

The supervisor decides when an engine may have work, by opening and closing its place in the pool.
Each start makes a new incarnation with a front end of its own; nothing of the last one is used
again. What it may become is the table in `lifecycle`, when it is started again `restarts`, when an
engine that is alive counts as dead `stalls`.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from infer_daemon.domain.errors import ClientError
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import Engine, EngineFacts, EngineStartError
from infer_daemon.engines.lifecycle import Lifecycle
from infer_daemon.engines.memory import MemoryQueue
from infer_daemon.engines.restarts import GiveUp, Restarts
from infer_daemon.engines.stalls import LOOK_S, StallWatch
from infer_daemon.settings.schema import EngineSection

WAITS = "waiting for memory"


@dataclass(slots=True)
class Status:
    """What is known of an engine from outside."""

    state: EngineState = EngineState.WAITING
    step: str = ""
    """What a starting engine is doing, or what a dead one waits for."""
    reason: str = ""
    """Why it failed, died or is being stopped."""
    since_s: float = 0.0
    """Loop time at which it entered this state."""
    facts: EngineFacts | None = None
    """Of its last incarnation that became ready."""
    restarts: int = 0
    """How often it was started again."""
    last_end: str = ""
    """Why its last incarnation ended."""
    back_s: float | None = None
    """Loop time at which one that was lost is expected to be ready again; None for any other."""


class Places(Protocol):
    """Where a ready engine is offered; see `engines.pool.Pool`."""

    def open(self, engine: Engine, facts: EngineFacts) -> None:
        """The engine can take work."""

    def close(self, name: EngineName) -> None:
        """It no longer can."""


@dataclass(frozen=True, slots=True)
class _End:
    """How an incarnation ended."""

    reason: str
    ready_s: float | None = None
    """For how long it had been ready; None if it never was."""
    is_final: bool = False


class Supervisor:
    """Owns one engine, in one incarnation after the other."""

    def __init__(
        self,
        name: EngineName,
        make: Callable[[], Engine],
        *,
        section: EngineSection,
        status: Status,
        place: Places,
        memory: MemoryQueue,
        memory_bytes: int,
        on_change: Callable[[EngineName, Status], None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        """
        Args:
            make: makes an incarnation; called for each start.
            memory_bytes: host memory that a start is expected to take.
            on_change: told of every state and every step of a start; log and metrics.
            chance: from 0 to 1, at random.
        """
        self.name = name
        self.status = status
        self.engine: Engine | None = None
        """The present incarnation, or the last; None before the first."""
        self._make = make
        self._section = section
        self._place = place
        self._memory = memory
        self._memory_bytes = memory_bytes
        self._on_change = on_change
        self._chance = chance
        self._lifecycle = Lifecycle(asyncio.get_running_loop().time())
        self._restarts = Restarts(section.restart)
        self._is_drained = False
        self._start_s: float | None = None
        """What its last start took, with the wait for memory; None before the first."""

    @property
    def in_flight(self) -> int:
        """Calls that are in the engine."""
        return self.engine.in_flight if self.engine and self.status.state.has_processes else 0

    async def run(self) -> None:
        """Start the engine and watch it, again and again. Returns when it is given up; cancel to
        stop early, and call `stop` in either case."""
        self._on_step(WAITS)
        while True:
            end = await self._live()
            delay_s = await self._bury(end)
            if delay_s is None:
                return
            await asyncio.sleep(delay_s)
            self.status.restarts += 1
            self._enter(EngineState.WAITING, step=WAITS)

    async def _live(self) -> _End:
        """One incarnation."""
        loop = asyncio.get_running_loop()
        begun_at_s = loop.time()
        engine = self.engine = self._make()
        async with self._memory.room(self.name, self._memory_bytes) as free_bytes:
            started = await self._start(engine, free_bytes)
        if isinstance(started, _End):
            return started
        self.status.facts = started
        ready_at_s = loop.time()
        self._start_s = ready_at_s - begun_at_s
        self._enter(EngineState.READY)
        if self._is_drained:
            self._enter(EngineState.DRAINING)
        else:
            self._place.open(engine, started)
        reason = await self._watch(engine)
        return _End(reason, ready_s=loop.time() - ready_at_s)

    async def _start(self, engine: Engine, free_bytes: int) -> EngineFacts | _End:
        self._enter(EngineState.STARTING, step="starting")
        timeout_s = self._section.start_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await engine.start(self._on_step)
        except EngineStartError as error:
            if error.is_final:
                return _End(str(error), is_final=True)
            reason = str(error)
        except TimeoutError:
            reason = (
                f"not ready after {timeout_s:g} s (start_timeout_s); "
                f"its last step was: {self.status.step}"
            )
        return _End(reason + self._memory_story(free_bytes))

    def _memory_story(self, free_bytes: int) -> str:
        """The engine's processes do not always live to say that it was memory that they lacked."""
        if not self._memory_bytes:
            return ""
        needed, free = self._memory_bytes / 1e9, free_bytes / 1e9
        return f" (a start needs about {needed:.1f} GB of memory, {free:.1f} GB were free)"

    async def _watch(self, engine: Engine) -> str:
        """Wait for the end of a ready engine, and say why."""
        loop = asyncio.get_running_loop()
        stall = StallWatch(self._section.stall_timeout_s, loop.time())
        died = asyncio.create_task(engine.died(), name=f"died-{self.name}")
        try:
            while not stall.look(loop.time(), in_flight=engine.in_flight, steps=engine.steps):
                if (await asyncio.wait({died}, timeout=LOOK_S))[0]:
                    return died.result()
            return stall.reason
        finally:
            died.cancel()

    async def _bury(self, end: _End) -> float | None:
        """End what is left of an incarnation (a worker without its core, hung processes). Returns
        after how long to start another; None for never.

        State last: whoever reads DEAD or FAILED may rely on no process being left.
        """
        self._place.close(self.name)
        self.status.last_end = end.reason
        self._enter(EngineState.STOPPING, reason=end.reason)
        await self._end_processes()
        if end.is_final:
            self._enter(EngineState.FAILED, reason=end.reason)
            return None
        now_s = asyncio.get_running_loop().time()
        verdict = self._restarts.died(now_s, ready_s=end.ready_s, chance=self._chance())
        if isinstance(verdict, GiveUp):
            self._enter(EngineState.FAILED, reason=f"{end.reason}; given up: {verdict.reason}")
            return None
        step = f"starts again in {verdict.delay_s:.1f} s"
        self._enter(EngineState.DEAD, reason=end.reason, step=step)
        self.status.back_s = self._back_s(now_s + verdict.delay_s)
        return verdict.delay_s

    def _back_s(self, from_s: float) -> float | None:
        """When it is ready again if it is started then."""
        if self._start_s is None or self._is_drained:
            return None
        return from_s + self._start_s

    async def _end_processes(self) -> None:
        """Of an engine that is dead or hung: it is not asked."""
        if self.engine is not None:
            self.engine.kill()
            await self.engine.stop()

    def drain(self) -> None:
        """Give the engine no more work; what it has goes on. Holds over restarts until `undrain`.
        Idempotent.

        Raises:
            ClientError: it has failed, or is being shut down.
        """
        self._refuse_if_final()
        self._is_drained = True
        self.status.back_s = None
        if self.status.state is EngineState.READY:
            self._place.close(self.name)
            self._enter(EngineState.DRAINING)

    def undrain(self) -> None:
        """Give it work again. Idempotent.

        Raises:
            ClientError: it has failed, or is being shut down.
        """
        self._refuse_if_final()
        self._is_drained = False
        facts = self.status.facts
        if self.status.state is EngineState.DRAINING and self.engine and facts:
            self._enter(EngineState.READY)
            self._place.open(self.engine, facts)

    def _refuse_if_final(self) -> None:
        if self.status.state.is_final:
            raise ClientError(f"engine {self.name} is {self.status.state}: {self.status.reason}")

    async def stop(self) -> None:
        """End the engine's processes. Idempotent."""
        if self.status.state.is_final:
            return
        self._place.close(self.name)
        if self.status.state.has_processes or self.status.state is EngineState.WAITING:
            if self.status.state is not EngineState.STOPPING:
                self._enter(EngineState.STOPPING)
            if self.engine is not None:
                await self.engine.stop()
        if not self.status.state.is_final:  # another `stop` may have waited for the same
            self._enter(EngineState.STOPPED)

    def kill(self) -> None:
        """End the engine's processes without asking, so that `stop` is quick."""
        if self.engine is not None:
            self.engine.kill()

    def _on_step(self, step: str) -> None:
        self.status.step = step
        self._on_change(self.name, self.status)

    def _enter(self, state: EngineState, *, step: str = "", reason: str = "") -> None:
        now_s = asyncio.get_running_loop().time()
        self._lifecycle.enter(state, now_s, reason)
        status = self.status
        status.state, status.step, status.reason, status.since_s = state, step, reason, now_s
        if state.is_final or state.runs_work:
            status.back_s = None
        elif state is EngineState.STOPPING:
            status.back_s = self._back_s(now_s)
        self._on_change(self.name, status)
