"""Refusals of which no request's line can tell, since nobody has seen a request yet: at the door.

Anybody can cause them, as many as they like: so they are counted by reasons that are ours, and a
line is written for many of them together.
"""

import asyncio

import structlog

from infer_daemon.domain.errors import DaemonError
from infer_daemon.ledger.metrics import Metrics

log = structlog.get_logger()

LINE_EVERY_S = 1.0


class DoorRefusals:
    """Counts them all, and writes at most one line a second for each reason."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        #: Reason -> how many since its last line, where that is less than a second ago.
        self._untold: dict[str, int] = {}

    def add(self, error: DaemonError) -> None:
        """Somebody was told this."""
        reason = type(error).code  # of the class: an error's own may be what a vendor says
        self._metrics.on_door_refused(reason)
        if reason in self._untold:
            self._untold[reason] += 1
        else:
            self._tell(reason, 1)

    def _tell(self, reason: str, count: int) -> None:
        log.info("door_refused", reason=reason, count=count)
        self._untold[reason] = 0
        asyncio.get_running_loop().call_later(LINE_EVERY_S, self._tell_the_rest, reason)

    def _tell_the_rest(self, reason: str) -> None:
        if count := self._untold.pop(reason):
            self._tell(reason, count)
