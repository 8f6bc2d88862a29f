"""The circuit breaker of one target: left alone while it fails, then tried with one call. Pure.

*Closed*, calls pass and their endings are counted. *Open*, none passes for a time, which doubles
with each opening that follows soon. *Half open*, one call passes, the probe: its ending closes the
breaker or opens it again.

What is the client's fault never counts, neither against the target nor for it. A target that is
too slow or that turns calls away is not broken: these have a share of their own, which is larger. A
call that began before the breaker last changed says nothing of the target as it is now.
"""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from infer_daemon.engines.recent import Recent


class Ending(StrEnum):
    """How a call ended, as far as the health of its target goes."""

    OK = "ok"
    FAULT = "fault"
    """Its engine reported an error of its own."""
    DEAD = "dead"
    """Its engine died, or was gone."""
    STALLED = "stalled"
    """Its engine no longer took steps."""
    LOAD_FAILED = "load_failed"
    """The model or the adapter could not be loaded."""
    TIMEOUT = "timeout"
    OVERLOAD = "overload"
    """The target had no room for it."""
    CLIENT = "client"
    """The request was at fault, or its client went away: nothing is known of the target."""


FAILURES = (Ending.FAULT, Ending.DEAD, Ending.STALLED, Ending.LOAD_FAILED, Ending.TIMEOUT)
SLOW = "slow"
"""Counted in place of `Ending.OK` for a call that took longer than `slow_s`."""
UNHURRIED = (Ending.OVERLOAD, SLOW)


class BreakerState(StrEnum):
    """Whether calls pass."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When a breaker opens, and for how long."""

    window_s: float = 30.0
    calls_min: int = 10
    """Fewer calls in the window say nothing."""
    failure_share_max: float = 0.5
    """Opens when that share of the calls in the window has failed."""
    slow_share_max: float = 0.9
    """Opens when that share of them was slow or was turned away."""
    slow_s: float = 60.0
    open_s: float = 5.0
    open_s_max: float = 120.0
    probe_timeout_s: float = 60.0
    """A probe that has not ended by then is given up for another."""


@dataclass(frozen=True, slots=True)
class Change:
    """The breaker has changed its state: a line of the log and a count."""

    old: BreakerState
    new: BreakerState
    cause: str
    """A word for metrics: an ending, `slow`, `due` (time to try again) or whatever it was tripped
    for."""
    reason: str
    """For the log."""


@dataclass(frozen=True, slots=True)
class Permit:
    """A call may be made. Its ending *must* be recorded, else a probe is missed until it times
    out."""

    number: int
    """Of the state that it was given in, or of the probe."""
    is_probe: bool = False
    change: Change | None = None
    """What changed by giving it."""


class Breaker:
    """Of one target. Times are those of one monotonic clock."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._recent = Recent(policy.window_s)
        self.state = BreakerState.CLOSED
        #: Counts states and probes: a permit of an earlier number is of no consequence.
        self._number = 0
        #: Openings in a row, each soon after the breaker had closed.
        self._openings = 0
        #: OPEN: when a probe may be made. HALF_OPEN: when the probe is given up for another; now,
        #: if none is under way.
        self._until_s = 0.0
        self._closed_s = float("-inf")

    def allow(self, now_s: float) -> Permit | None:
        """Whether a call may be made, and what to record its ending with; None if it may not."""
        if self.state == BreakerState.CLOSED:
            return Permit(self._number)
        if now_s < self._until_s:
            return None
        change = None
        if self.state == BreakerState.OPEN:
            change = self._enter(BreakerState.HALF_OPEN, "due", "one call may try")
        self._number += 1
        self._until_s = now_s + self._policy.probe_timeout_s
        return Permit(self._number, is_probe=True, change=change)

    def wait_s(self, now_s: float) -> float:
        """In how many seconds a call may pass, unless a probe ends before; 0 if one may now."""
        if self.state == BreakerState.CLOSED:
            return 0.0
        return max(0.0, self._until_s - now_s)

    def record(
        self, permit: Permit, ending: Ending, *, duration_s: float, now_s: float
    ) -> Change | None:
        """The call of this permit has ended after `duration_s`. To be told once."""
        if permit.number != self._number:
            return None
        word = str(ending)
        if ending == Ending.OK and duration_s > self._policy.slow_s:
            word = SLOW
        if self.state == BreakerState.HALF_OPEN:
            return self._probed(word, now_s)
        if ending == Ending.CLIENT:
            return None
        self._recent.add(word, now_s)
        return self._judge(now_s)

    def trip(self, cause: str, reason: str, now_s: float) -> Change | None:
        """Open it for a reason that calls do not show; None if it is open already."""
        if self.state == BreakerState.OPEN:
            return None
        return self._open(cause, reason, now_s)

    def _probed(self, word: str, now_s: float) -> Change | None:
        if word == Ending.CLIENT:
            self._until_s = now_s  # it has shown nothing, the next call may
            return None
        if word != Ending.OK:
            return self._open(word, f"the probe ended with: {word}", now_s)
        self._closed_s = now_s
        return self._enter(BreakerState.CLOSED, word, "the probe was answered")

    def _judge(self, now_s: float) -> Change | None:
        policy, counts = self._policy, self._recent.counts(now_s)
        calls = counts.total()
        if calls < policy.calls_min:
            return None
        for kinds, share_max in (
            (FAILURES, policy.failure_share_max),
            (UNHURRIED, policy.slow_share_max),
        ):
            bad = Counter({str(kind): counts[kind] for kind in kinds if counts[kind]})
            if bad.total() >= share_max * calls > 0:
                parts = ", ".join(f"{count} {kind}" for kind, count in bad.most_common())
                reason = f"{bad.total()} of {calls} calls: {parts}"
                return self._open(bad.most_common(1)[0][0], reason, now_s)
        return None

    def _open(self, cause: str, reason: str, now_s: float) -> Change:
        policy = self._policy
        if self.state == BreakerState.CLOSED and now_s - self._closed_s > policy.window_s:
            self._openings = 0  # it was well for long enough
        # Not by a power: a breaker may open more often than a float has room for.
        open_s = policy.open_s
        for _ in range(self._openings):
            if (open_s := min(open_s * 2, policy.open_s_max)) == policy.open_s_max:
                break
        self._openings += 1
        self._until_s = now_s + open_s
        return self._enter(BreakerState.OPEN, cause, f"{reason}; open for {open_s:g} s")

    def _enter(self, state: BreakerState, cause: str, reason: str) -> Change:
        change = Change(self.state, state, cause, reason)
        self.state = state
        self._number += 1
        self._recent.clear()
        return change
