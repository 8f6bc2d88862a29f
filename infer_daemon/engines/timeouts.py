"""How long each stage of a call may take, and who sees to it.

Waiting for a turn has its own end, with the scheduler. The others are ends of calls, and one timer
of the pool is for all of them: it looks at every call when the first may be due.
"""

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import inf
from typing import Protocol

from infer_daemon.domain.errors import (
    DaemonError,
    FirstTokenTimeout,
    TokenTimeout,
    TotalTimeout,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLimits:
    """Seconds; None for as long as it takes."""

    first_token_s: float | None = None
    """From the moment an engine is given the call to its first output, in each engine anew."""
    token_gap_s: float | None = None
    """From one output to the next of the same engine."""
    total_s: float | None = None
    """From the acceptance of the request until no engine has anything left to do for it."""

    @property
    def shortest_stage_s(self) -> float:
        """No stage of a call that begins now is due before that has passed."""
        return min(inf if s is None else s for s in (self.first_token_s, self.token_gap_s))


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a call is."""

    accepted_s: float
    """When its request came."""
    quiet_since_s: float | None
    """Since when its engine owes it an output; None while it has no engine."""
    has_output: bool
    """Whether that engine has given it any."""


def due(limits: StageLimits, stage: Stage) -> tuple[float, DaemonError]:
    """When a call ends, and with what, if nothing more comes of it."""
    total_s = inf if limits.total_s is None else stage.accepted_s + limits.total_s
    limit_s = limits.token_gap_s if stage.has_output else limits.first_token_s
    if stage.quiet_since_s is None or limit_s is None or stage.quiet_since_s + limit_s > total_s:
        # The same request would take as long again.
        return total_s, TotalTimeout(should_retry=False)
    late = TokenTimeout() if stage.has_output else FirstTokenTimeout()
    return stage.quiet_since_s + limit_s, late


class Timed(Protocol):
    """A call."""

    @property
    def stage(self) -> Stage | None:
        """None once the engine is done with it."""

    def end(self, error: DaemonError) -> None:
        """Fail it."""


class Sweep:
    """Ends the calls of a pool that take too long."""

    def __init__(self, calls: Collection[Timed], *, when_ended: Callable[[], object]) -> None:
        """
        Args:
            calls: those that are open; a live view.
            when_ended: is called when some have been.
        """
        self._calls = calls
        self._when_ended = when_ended
        self._limits = StageLimits()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = inf

    def change(self, limits: StageLimits) -> None:
        """Other limits from now on, also for calls that are under way."""
        self._limits = limits
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._calls:
            self._look(asyncio.get_running_loop().time())

    def watch(self, call: Timed) -> None:
        """A call has begun. Looked at in time, it is seen in each of its stages: none is over
        before it has been as long as the shortest takes."""
        if (stage := call.stage) is not None:
            end_s, _ = due(self._limits, stage)
            now_s = asyncio.get_running_loop().time()
            self._arm(min(end_s, now_s + self._limits.shortest_stage_s))

    def _arm(self, at_s: float) -> None:
        if at_s == inf or (self._timer is not None and self._timer_s <= at_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_s = at_s
        self._timer = asyncio.get_running_loop().call_at(at_s, self._on_timer, at_s)

    def _on_timer(self, at_s: float) -> None:
        # It may run early by its own clock: see `scheduling.scheduler`.
        self._timer = None
        self._look(max(at_s, asyncio.get_running_loop().time()))

    def _look(self, now_s: float) -> None:
        next_s, has_ended = inf, False
        for call in list(self._calls):
            if (stage := call.stage) is None:
                continue
            end_s, error = due(self._limits, stage)
            if end_s <= now_s:
                call.end(error)
                has_ended = True
            else:
                next_s = min(next_s, end_s, now_s + self._limits.shortest_stage_s)
        self._arm(next_s)
        if has_ended:
            self._when_ended()
