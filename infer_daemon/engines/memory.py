"""How many engines may load at the same time: as many as fit into free memory together."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

RECHECK_S = 1.0


def available_bytes() -> int:
    """Memory that can be used without swapping, as the kernel estimates it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


class MemoryQueue:
    """Lets starts through while their estimates fit.

    An estimate counts from the moment a start is let through until it is over; by then the engine
    has taken what it needs and the kernel's figure shows it. What is taken meanwhile is counted
    twice, on the safe side. One start always goes through, whatever it needs: waiting would not
    make memory.
    """

    def __init__(self, available: Callable[[], int] = available_bytes) -> None:
        self._available = available
        self._loading: dict[str, int] = {}
        self._change = asyncio.Condition()

    @asynccontextmanager
    async def room(self, name: str, needed_bytes: int) -> AsyncGenerator[int, None]:
        """Hold room for one start; says how much was free when it began. Waits until there is
        enough."""
        async with self._change:
            while not self._fits(needed_bytes):
                # Memory also comes free without a word to us, so look again now and then.
                try:
                    async with asyncio.timeout(RECHECK_S):
                        await self._change.wait()
                except TimeoutError:
                    continue
            self._loading[name] = needed_bytes
        try:
            yield self._available()
        finally:
            async with self._change:
                del self._loading[name]
                self._change.notify_all()

    def _fits(self, needed_bytes: int) -> bool:
        if not self._loading:
            return True
        return sum(self._loading.values()) + needed_bytes <= self._available()
