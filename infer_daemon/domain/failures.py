"""Why a model does not answer, and who may answer in its place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from infer_daemon.domain.errors import (
    DaemonError,
    EngineDied,
    EngineFault,
    FirstTokenTimeout,
    LoadFailed,
    ModelNotReady,
    PoolLost,
    PromptTooLong,
    QueueFull,
    TokenTimeout,
    WaitedTooLong,
    WouldWaitTooLong,
)


class FailureClass(StrEnum):
    """Why the model that was asked for does not answer."""

    DEAD = "dead"
    """None of its engines is alive, or the last one died or stalled."""
    TIMEOUT = "timeout"
    """An engine took too long to begin its answer, or to go on with it."""
    OVERLOAD = "overload"
    """No room, or no turn in time."""
    LOAD_FAILED = "load_failed"
    TOO_LONG = "too_long"
    """The prompt, with the answer that is asked for, is longer than its context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """Of one model."""

    by_class: Mapping[FailureClass, tuple[str, ...]] = field(default_factory=dict)
    fail_closed: bool = False


_CLASSES: tuple[tuple[type[DaemonError], FailureClass], ...] = (
    (LoadFailed, FailureClass.LOAD_FAILED),
    (ModelNotReady, FailureClass.DEAD),
    (PoolLost, FailureClass.DEAD),
    (EngineDied, FailureClass.DEAD),
    (EngineFault, FailureClass.DEAD),
    (FirstTokenTimeout, FailureClass.TIMEOUT),
    (TokenTimeout, FailureClass.TIMEOUT),
    (WouldWaitTooLong, FailureClass.OVERLOAD),
    (QueueFull, FailureClass.OVERLOAD),
    (WaitedTooLong, FailureClass.OVERLOAD),
    (PromptTooLong, FailureClass.TOO_LONG),
)


def failure_class(error: DaemonError) -> FailureClass | None:
    """What another model might be able to do better; None for what is the client's fault, its own
    limit, or would be refused by any model. A request that kills engines is kept from the rest."""
    for kind, failure in _CLASSES:
        if isinstance(error, kind):
            return failure
    # What a front end finds itself has no type of its own.
    return FailureClass.TOO_LONG if error.code == PromptTooLong.code else None
