"""The daemon's end: what is new is refused, what runs finishes or is told, engines shut down."""

import asyncio
from collections.abc import Iterable

import structlog

from infer_daemon import notify
from infer_daemon.domain.errors import CutShort
from infer_daemon.engines.fleet import Fleet
from infer_daemon.engines.pool import Pool
from infer_daemon.request_path import RequestPath

log = structlog.get_logger()

DRAIN_PROBE_S = 0.05
TELL_S = 1.0
"""For the last words to clients whose requests were cut short."""


class Ending:
    """Of one daemon. Belongs to its event loop."""

    def __init__(
        self, path: RequestPath, pools: Iterable[Pool], fleet: Fleet, drain_timeout_s: float
    ) -> None:
        """Args: drain_timeout_s: how long requests that run may go on."""
        self._path = path
        self._pools = pools
        self._fleet = fleet
        self._timeout_s = drain_timeout_s
        self._loop = asyncio.get_running_loop()
        self._wanted = asyncio.Event()
        self._wanted_now = asyncio.Event()

    def ask(self) -> None:
        """It is time to drain; asked again, to end at once."""
        (self._wanted_now if self._wanted.is_set() else self._wanted).set()

    async def wanted(self) -> None:
        """Wait until somebody asks."""
        await self._wanted.wait()

    async def drain(self) -> None:
        """Refuse what is new and let what runs finish, up to the configured time; tell the rest."""
        self._path.is_draining = True
        notify.tell("STOPPING=1")
        log.info("draining", requests=self._path.in_flight, timeout_s=self._timeout_s)
        if await self._is_idle_within(self._timeout_s, unless=self._wanted_now):
            return
        log.warning("drain_cut_short", requests=self._path.in_flight)
        self._path.is_ending = True
        for pool in self._pools:
            pool.gate.end_all(CutShort(retry_after_s=10))
        await self._is_idle_within(TELL_S)

    async def end_engines(self) -> None:
        """Let engines shut down, which takes seconds; who was told to end at once kills them."""
        stopping = asyncio.create_task(self._fleet.stop(), name="stop-fleet")
        hurry = asyncio.create_task(self._wanted_now.wait(), name="hurry")
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            self._fleet.kill()
        hurry.cancel()
        await stopping

    async def _is_idle_within(self, timeout_s: float, unless: asyncio.Event | None = None) -> bool:
        """Wait until no request is left; not longer than this, nor once `unless` is set."""
        deadline_s = self._loop.time() + timeout_s
        while self._path.in_flight:
            if self._loop.time() >= deadline_s or (unless is not None and unless.is_set()):
                return False
            await asyncio.sleep(DRAIN_PROBE_S)
        return True
