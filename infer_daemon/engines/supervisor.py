"""One engine's life: waiting, starting, ready, and whichever way it ends.

The supervisor decides when an engine may have work, by opening and closing its place in the pool.
It does not restart engines.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import Engine, EngineFacts, EngineStartError
from infer_daemon.engines.memory import MemoryQueue


@dataclass(slots=True)
class Status:
    """What is known of an engine from outside."""

    state: EngineState = EngineState.WAITING
    step: str = ""
    """What a starting engine is doing."""
    reason: str = ""
    """Why it failed or died."""
    since_s: float = 0.0
    """Loop time at which it entered this state."""
    facts: EngineFacts | None = None


class Places(Protocol):
    """Where a ready engine is offered; see `engines.pool.Pool`."""

    def open(self, engine: Engine, facts: EngineFacts) -> None:
        """The engine can take work."""

    def close(self, name: EngineName) -> None:
        """It no longer can."""


class Supervisor:
    """Owns one engine."""

    def __init__(
        self,
        engine: Engine,
        *,
        status: Status,
        place: Places,
        memory: MemoryQueue,
        memory_bytes: int,
        start_timeout_s: float,
        on_change: Callable[[EngineName, Status], None],
    ) -> None:
        """Args: on_change: told of every state and every step of a start; log and metrics."""
        self.engine = engine
        self.status = status
        self._place = place
        self._memory = memory
        self._memory_bytes = memory_bytes
        self._start_timeout_s = start_timeout_s
        self._on_change = on_change

    @property
    def name(self) -> EngineName:
        return self.engine.name

    async def run(self) -> None:
        """Start the engine and watch it. Returns when it is failed or dead; cancel to stop early,
        and call `stop` in either case."""
        self._enter(EngineState.WAITING, step="waiting for memory")
        async with self._memory.room(self.name, self._memory_bytes):
            facts = await self._start()
        if facts is None:
            return
        self.status.facts = facts
        self._enter(EngineState.READY)
        self._place.open(self.engine, facts)
        reason = await self.engine.died()
        self._place.close(self.name)
        # What is left of it (a worker without its core) goes too, before anybody reads DEAD.
        self._enter(EngineState.STOPPING, reason=reason)
        await self.engine.stop()
        self._enter(EngineState.DEAD, reason=reason)

    async def _start(self) -> EngineFacts | None:
        self._enter(EngineState.STARTING, step="starting")
        try:
            async with asyncio.timeout(self._start_timeout_s):
                return await self.engine.start(self._on_step)
        except EngineStartError as error:
            reason = str(error)
        except TimeoutError:
            reason = (
                f"not ready after {self._start_timeout_s:g} s (start_timeout_s); "
                f"its last step was: {self.status.step}"
            )
        # State last: whoever reads FAILED may rely on no process being left.
        await self.engine.stop()
        self._enter(EngineState.FAILED, reason=reason)
        return None

    async def stop(self) -> None:
        """End the engine's processes. Idempotent."""
        if self.status.state in (EngineState.STOPPED, EngineState.FAILED, EngineState.DEAD):
            return
        self._place.close(self.name)
        self._enter(EngineState.STOPPING)
        await self.engine.stop()
        self._enter(EngineState.STOPPED)

    def kill(self) -> None:
        """End the engine's processes without asking, so that `stop` is quick."""
        self.engine.kill()

    def _on_step(self, step: str) -> None:
        self.status.step = step
        self._on_change(self.name, self.status)

    def _enter(self, state: EngineState, *, step: str = "", reason: str = "") -> None:
        status = self.status
        status.state, status.step = state, step
        status.reason = reason or status.reason
        status.since_s = asyncio.get_running_loop().time()
        self._on_change(self.name, status)
