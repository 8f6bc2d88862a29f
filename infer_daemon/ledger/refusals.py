"""Refusals of which no request's line can tell, since nobody has seen a request yet: at the door.

Anybody can cause them, as many as they like: so they are counted by reasons that are ours, and a
line is written for many of them together.
"""

import asyncio

import structlog

from infer_daemon.domain.errors import DaemonError
from infer_daemon.domain.record import new_id
from infer_daemon.ledger.metrics import Metrics

log = structlog.get_logger()

LINE_EVERY_S = 1.0


class DoorRefusals:
    """Counts them all, and writes at most one line a second for each reason."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        #: Reason -> how many since its last line, where that is less than a second ago, and the
        #: id of the last of them.
        self._untold: dict[str, tuple[int, str]] = {}

    def add(self, error: DaemonError) -> None:
        """Somebody is told this, with the id that the error has from now on. Lines name one of
        those that they tell of, the last."""
        error.request_id = new_id()
        reason = type(error).code  # of the class: an error's own may be what a vendor says
        self._metrics.on_door_refused(reason)
        if (untold := self._untold.get(reason)) is not None:
            self._untold[reason] = untold[0] + 1, error.request_id
        else:
            self._tell(reason, 1, error.request_id)

    def _tell(self, reason: str, count: int, last_id: str) -> None:
        log.info("door_refused", reason=reason, count=count, id=last_id)
        self._untold[reason] = 0, ""
        asyncio.get_running_loop().call_later(LINE_EVERY_S, self._tell_the_rest, reason)

    def _tell_the_rest(self, reason: str) -> None:
        count, last_id = self._untold.pop(reason)
        if count:
            self._tell(reason, count, last_id)
