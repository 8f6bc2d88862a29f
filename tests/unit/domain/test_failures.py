"""What another model may be asked for."""

import pytest

from infer_daemon.domain.errors import (
    DaemonError,
    EngineDied,
    EngineFault,
    FirstTokenTimeout,
    FrontendError,
    KillsEngines,
    LoadFailed,
    MalformedBody,
    ModelNotReady,
    PoolLost,
    PromptTooLong,
    QueueFull,
    RateLimited,
    ShuttingDown,
    TokenTimeout,
    TotalTimeout,
    WaitedTooLong,
    WouldWaitTooLong,
)
from infer_daemon.domain.failures import FailureClass, failure_class

TOO_LONG = FrontendError("too long", status=400, code="context_length_exceeded")


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ModelNotReady(), FailureClass.DEAD),
        (PoolLost(), FailureClass.DEAD),
        (EngineDied(), FailureClass.DEAD),
        (EngineFault(), FailureClass.DEAD),
        (LoadFailed(), FailureClass.LOAD_FAILED),
        (QueueFull(), FailureClass.OVERLOAD),
        (WouldWaitTooLong(), FailureClass.OVERLOAD),
        (WaitedTooLong(), FailureClass.OVERLOAD),
        (FirstTokenTimeout(), FailureClass.TIMEOUT),
        (TokenTimeout(), FailureClass.TIMEOUT),
        (PromptTooLong(), FailureClass.TOO_LONG),
        (TOO_LONG, FailureClass.TOO_LONG),
    ],
)
def test_a_model_that_cannot_answer_has_a_class_of_failure(
    error: DaemonError, failure: FailureClass
) -> None:
    assert failure_class(error) is failure


@pytest.mark.parametrize(
    "error",
    [
        MalformedBody(),
        RateLimited(),
        KillsEngines(),
        ShuttingDown(),
        TotalTimeout(),
        DaemonError(),
    ],
)
def test_what_any_model_would_refuse_has_none(error: DaemonError) -> None:
    assert failure_class(error) is None
