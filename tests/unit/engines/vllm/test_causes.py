"""What an engine's processes write of why they could not start."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from infer_daemon.engines.vllm.causes import CAUSE_ENV, CAUSE_LEN_MAX, take_cause, write_causes


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this process writes, as if it were an engine's."""
    logger = logging.getLogger("vllm")
    before = list(logger.handlers)
    monkeypatch.setenv(CAUSE_ENV, str(tmp_path / "cause"))
    write_causes()
    yield tmp_path / "cause"
    logger.handlers[:] = before


def fail(error: Exception) -> None:
    """As vLLM's processes tell it."""
    try:
        raise error
    except Exception:
        logging.getLogger("vllm.v1.engine.core").exception("EngineCore failed to start.")


def test_the_first_error_is_the_cause_and_is_taken_once(file: Path) -> None:
    logging.getLogger("vllm").error("an error without an exception")
    fail(ValueError("Traceback:\n  quoted\nneeded 4 GiB, 1 GiB is free\n"))
    fail(RuntimeError("See root cause above"))

    assert take_cause(file) == "ValueError: needed 4 GiB, 1 GiB is free"
    assert take_cause(file) == ""


def test_a_cause_has_a_length(file: Path) -> None:
    fail(ValueError("x" * 5000))

    assert len(take_cause(file)) == CAUSE_LEN_MAX


def test_a_file_that_cannot_be_written_hides_no_error(file: Path) -> None:
    file.mkdir()
    fail(ValueError("x"))

    assert take_cause(file) == ""
