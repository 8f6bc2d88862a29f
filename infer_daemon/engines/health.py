"""Whether engines answer as they should: a breaker for each, and the budget for second tries.

Every call that leaves an engine says how that ended. An engine whose breaker is open has no window,
and one that is to be tried has a window for one call, the probe. The rest of its pool goes on
meanwhile; where it is the only one, calls wait for it.

Each incarnation begins with a fresh breaker: deaths are the supervisor's business, and whoever was
started again is tried as soon as it is ready.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from infer_daemon.domain.errors import (
    EngineDied,
    EngineFault,
    FirstTokenTimeout,
    ModelNotReady,
    TokenTimeout,
)
from infer_daemon.domain.jobs import EngineName, WindowLimits
from infer_daemon.engines.breaker import (
    Breaker,
    BreakerPolicy,
    BreakerState,
    Change,
    Ending,
    Permit,
)
from infer_daemon.engines.retries import RetryBudget, RetryPolicy
from infer_daemon.settings.schema import BreakerSection

log = structlog.get_logger()

LOOK_AGAIN_S = 1.0
"""A place for a probe that nobody has used is offered anew after that."""
EARLY_S = 0.001
"""A timer may come so much too early by its own clock, and would find that it is not time yet."""


class Witness(Protocol):
    """Who counts what happens; see `ledger.metrics.Metrics`."""

    def on_breaker(self, engine: str, to: str, cause: str) -> None:
        """The breaker of an engine has changed its state."""

    def on_retry(self, engine: str, *, granted: bool) -> None:
        """A call that an engine has failed was given to another, or had used up its share."""


class Visit:
    """A call is in an engine. You *must* `end` it; all but the first end is ignored."""

    def __init__(
        self,
        health: "Health",
        engine: EngineName,
        permit: Permit | None,
        tenant: str,
        *,
        is_first_try: bool,
    ) -> None:
        """Args: permit: None for a call whose ending says nothing of its engine."""
        self._health = health
        self._engine = engine
        self._permit = permit
        self._tenant = tenant
        self._is_first_try = is_first_try
        self._began_s = asyncio.get_running_loop().time()
        self._first_s: float | None = None

    def first_output(self) -> None:
        """The engine answers: how long it goes on is for the request to say. Of a probe nothing
        more is asked."""
        if self._first_s is None:
            self._first_s = asyncio.get_running_loop().time()
            if self._permit is not None and self._permit.is_probe:
                self._tell(Ending.OK)

    def end(self, ending: Ending) -> None:
        """The call has left the engine."""
        if ending is Ending.OK and self._is_first_try:
            self._health.succeeded(self._tenant, self._engine)
        self._is_first_try = False
        self._tell(ending)

    def _tell(self, ending: Ending) -> None:
        permit, self._permit = self._permit, None
        if permit is not None:
            now_s = asyncio.get_running_loop().time()
            until_s = now_s if self._first_s is None else self._first_s
            self._health.ended(self._engine, permit, ending, duration_s=until_s - self._began_s)


@dataclass(slots=True)
class _Care:
    """What is known of one incarnation."""

    breaker: Breaker
    changed: Callable[[], None]
    timer: asyncio.TimerHandle | None = None


class Health:
    """Of all engines of the daemon. Belongs to one event loop."""

    def __init__(
        self,
        policy: BreakerPolicy | None = None,
        retries: RetryPolicy | None = None,
        witness: Witness | None = None,
    ) -> None:
        self._policy = policy or BreakerPolicy()
        self._retries = RetryBudget(retries or RetryPolicy())
        self._witness = witness
        #: Of the engines that are ready.
        self._cared: dict[EngineName, _Care] = {}
        #: Calls by how they ended, of each engine in all its incarnations.
        self._endings: dict[EngineName, Counter[str]] = {}

    def begin(self, engine: EngineName, changed: Callable[[], None]) -> None:
        """An incarnation is ready. You *must* `forget` it.

        Args: changed: told when `limits` says something else.
        """
        self.forget(engine)
        self._cared[engine] = _Care(Breaker(self._policy), changed)

    def forget(self, engine: EngineName) -> None:
        """It is not ready any more. Idempotent."""
        care = self._cared.pop(engine, None)
        if care is not None and care.timer is not None:
            care.timer.cancel()

    def limits(self, engine: EngineName, whole: WindowLimits) -> WindowLimits | None:
        """The window that an engine is to have: the whole one, one for a probe, or none."""
        care = self._cared.get(engine)
        if care is None or care.breaker.state is BreakerState.CLOSED:
            return whole
        if care.breaker.wait_s(asyncio.get_running_loop().time()):
            return None
        return replace(whole, entries=1)

    def takes_calls(self, engine: EngineName) -> bool:
        """Whether calls pass: all of them, not a probe alone."""
        care = self._cared.get(engine)
        return care is not None and care.breaker.state is BreakerState.CLOSED

    def enter(
        self, engine: EngineName, tenant: str, *, is_first_try: bool, is_alone: bool = False
    ) -> Visit | None:
        """A call is to be given to an engine; None if its breaker has opened since it was granted.

        Args: is_alone: it has the engine to itself, whatever the breaker says.
        """
        care = self._cared.get(engine)
        if care is None or is_alone:
            return Visit(self, engine, None, tenant, is_first_try=is_first_try)
        permit = care.breaker.allow(asyncio.get_running_loop().time())
        if permit is None:
            return None
        if permit.is_probe:
            self._follow(engine, care, permit.change)
        return Visit(self, engine, permit, tenant, is_first_try=is_first_try)

    def ended(
        self, engine: EngineName, permit: Permit, ending: Ending, *, duration_s: float
    ) -> None:
        """Told by a visit: a call has ended so."""
        self._endings.setdefault(engine, Counter())[str(ending)] += 1
        care = self._cared.get(engine)
        if care is None:
            return
        # The dead are the supervisor's: what comes after them has a breaker of its own. And the
        # adapter that an engine lacks is nothing to those who ask for another.
        if ending in (Ending.DEAD, Ending.LOAD_FAILED):
            ending = Ending.CLIENT
        now_s = asyncio.get_running_loop().time()
        change = care.breaker.record(permit, ending, duration_s=duration_s, now_s=now_s)
        if change is not None or care.breaker.state is not BreakerState.CLOSED:
            self._follow(engine, care, change)

    def trip(self, engine: EngineName, cause: str, reason: str) -> None:
        """Open its breaker for what calls do not show. Nothing, of one that is not ready."""
        care = self._cared.get(engine)
        if care is not None:
            change = care.breaker.trip(cause, reason, asyncio.get_running_loop().time())
            if change is not None:
                self._follow(engine, care, change)

    def succeeded(self, tenant: str, engine: EngineName) -> None:
        """Told by a visit: a call was answered at its first try."""
        self._retries.succeeded(tenant, engine, asyncio.get_running_loop().time())

    def may_retry(self, tenant: str, engine: EngineName) -> bool:
        """Whether what an engine has failed may be given to another; if so, that is counted."""
        now_s = asyncio.get_running_loop().time()
        granted = self._retries.take(tenant, engine, now_s)
        if granted:
            self._retries.tidy(now_s)
        if self._witness is not None:
            self._witness.on_retry(engine, granted=granted)
        return granted

    def state(self, engine: EngineName) -> str:
        """Of its breaker; closed for one that is not ready."""
        care = self._cared.get(engine)
        return str(BreakerState.CLOSED if care is None else care.breaker.state)

    def endings(self, engine: EngineName) -> Mapping[str, int]:
        """Calls that have left the engine, by how."""
        return self._endings.get(engine, {})

    def _follow(self, engine: EngineName, care: _Care, change: Change | None) -> None:
        """Tell what changed, have the window follow, and look again when time alone changes it."""
        if change is not None:
            write = log.info if change.new is BreakerState.CLOSED else log.warning
            write(
                "breaker", engine=engine, state=str(change.new), cause=change.cause,
                reason=change.reason,
            )  # fmt: skip
            if self._witness is not None:
                self._witness.on_breaker(engine, str(change.new), change.cause)
        self._look(care)

    def _look(self, care: _Care) -> None:
        if care.timer is not None:
            care.timer.cancel()
            care.timer = None
        care.changed()
        if care.breaker.state is not BreakerState.CLOSED:
            loop = asyncio.get_running_loop()
            wait_s = care.breaker.wait_s(loop.time()) or LOOK_AGAIN_S
            care.timer = loop.call_later(wait_s + EARLY_S, self._look, care)


def ending_of(error: Exception) -> Ending:
    """How a call ended, by what its engine failed it with."""
    match error:
        case EngineDied():
            return Ending.DEAD
        case EngineFault():
            return Ending.FAULT
        case ModelNotReady():
            return Ending.LOAD_FAILED
        case FirstTokenTimeout() | TokenTimeout():
            return Ending.TIMEOUT
        case _:
            return Ending.CLIENT


def breaker_policy(section: BreakerSection) -> BreakerPolicy:
    """As it is configured."""
    return BreakerPolicy(
        window_s=section.window_s,
        calls_min=section.calls_min,
        failure_share_max=section.failure_share_max,
        slow_s=section.slow_s,
        slow_share_max=section.slow_share_max,
        open_s=section.open_s,
        open_s_max=section.open_s_max,
        # A probe whose first output comes later than that is slow, and opens it again.
        probe_timeout_s=section.slow_s,
    )


def retry_policy(section: BreakerSection) -> RetryPolicy:
    """As it is configured."""
    return RetryPolicy(share_max=section.retry_share_max)
