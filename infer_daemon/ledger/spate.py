"""A client that is told no and asks again at once: its refusals are counted, and not all told.

It may come thousands of times a second. A line in the log and a story for each would cost more than
the refusals themselves, fill the disk and push out what is worth reading.
"""

import asyncio
from collections.abc import Callable

import structlog

log = structlog.get_logger()

LINES_MAX = 10
SPATE_S = 1.0
"""In so many seconds as many refusals of one tenant for one reason have a line each; one more line
says how many followed."""


class Spate:
    """Who was refused for what, in the last second. Names of tenants and codes of errors are ours:
    nobody can make what is remembered grow."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        #: (tenant, code) -> since when it is counted, and how many.
        self._counts: dict[tuple[str, str], tuple[float, int]] = {}
        self.untold_count = 0
        """Since the start."""

    def is_told(self, tenant: str, code: str) -> bool:
        """Whether this refusal has a line of its own."""
        now_s, key = self._clock(), (tenant, code)
        since_s, count = self._counts.get(key, (now_s, 0))
        if count <= LINES_MAX and now_s >= since_s + SPATE_S:
            since_s, count = now_s, 0
        self._counts[key] = since_s, count + 1
        if count < LINES_MAX:
            return True
        if count == LINES_MAX:
            loop = asyncio.get_running_loop()
            loop.call_later(max(0.0, since_s + SPATE_S - now_s), self._tell_the_rest, key)
        self.untold_count += 1
        return False

    def _tell_the_rest(self, key: tuple[str, str]) -> None:
        """The only end of a count that is above the lines, so that nothing is left out."""
        tenant, code = key
        _, count = self._counts.pop(key)
        log.info("requests_refused", tenant=tenant, code=code, count=count - LINES_MAX)
