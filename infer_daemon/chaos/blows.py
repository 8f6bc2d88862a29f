"""What is done to the processes of an engine, and how long it takes until it is back."""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from infer_daemon.chaos.engine_log import Change
from infer_daemon.chaos.house import House, children

BACK_S = 240.0
START_WAIT_S = 30.0
INTO_THE_START_S = 3.0
"""How far into a start it is killed: its processes load, and cannot answer yet."""

Strike = Callable[[House, str], Awaitable[float]]
"""Does it to an engine that is ready; returns when, by the machine's clock."""


@dataclass(frozen=True, slots=True)
class Blow:
    """One of them. Times are of the machine's clock."""

    engine: str
    at_s: float
    seen_s: float
    """When the daemon knew."""
    starting_s: float
    """When the start began of which it became ready."""
    ready_s: float
    reason: str
    """That the daemon had for it."""

    @property
    def seen_after_s(self) -> float:
        """How long nobody knew."""
        return self.seen_s - self.at_s

    @property
    def start_s(self) -> float:
        """How long the start took."""
        return self.ready_s - self.starting_s

    @property
    def back_after_s(self) -> float:
        """How long the recovery took from then on, beside what every start takes."""
        return self.ready_s - self.seen_s - self.start_s

    def __str__(self) -> str:
        return (
            f"{self.engine}: seen after {self.seen_after_s:.2f} s, back after "
            f"{self.ready_s - self.at_s:.1f} s (start {self.start_s:.1f} s): {self.reason}"
        )


async def blow(house: House, engine: str, strike: Strike) -> Blow:
    """Strike, and wait until the engine is back.

    Raises:
        Overdue: it does not come back.
    """
    house.log.read()
    at_s = await strike(house, engine)
    # The last blow of several is the one that it has to recover from.
    ready = await house.log.until(engine, "ready", after_s=at_s, timeout_s=BACK_S)
    seen = house.log.first(engine, "stopping", at_s)
    assert seen is not None, "an engine was ready again that had not ended"
    own = [c for c in house.log.changes if c.engine == engine and c.at_s <= ready.at_s]
    return Blow(engine, at_s, seen.at_s, starts(own)[-1].at_s, ready.at_s, seen.reason)


def starts(changes: Sequence[Change]) -> list[Change]:
    """Where the starts of an engine begin, each of which is told step by step."""
    return [
        now
        for was, now in itertools.pairwise(changes)
        if now.state == "starting" and was.state != "starting"
    ]


async def kill_core(house: House, engine: str) -> float:
    """SIGKILL its first process."""
    return _send(signal.SIGKILL, await _pid(house, engine))


async def kill_worker(house: House, engine: str) -> float:
    """SIGKILL the process that computes."""
    return _send(signal.SIGKILL, *children(await _pid(house, engine)))


async def stop_core(house: House, engine: str) -> float:
    """SIGSTOP its first process: it is there and does nothing."""
    return _send(signal.SIGSTOP, await _pid(house, engine))


async def kill_start(house: House, engine: str) -> float:
    """SIGKILL it, and its next incarnation while that starts."""
    before = await _pid(house, engine)
    at_s = _send(signal.SIGKILL, before)
    async with asyncio.timeout(START_WAIT_S):
        while (pid := (await house.engine(engine))["pid"]) in (before, None):
            await asyncio.sleep(0.1)
    await asyncio.sleep(INTO_THE_START_S)
    _send(signal.SIGKILL, pid)
    return at_s


def _send(fault: signal.Signals, *pids: int) -> float:
    at_s = time.time()
    for pid in pids:
        os.kill(pid, fault)
    return at_s


async def _pid(house: House, engine: str) -> int:
    pid: int = (await house.engine(engine))["pid"]
    return pid
