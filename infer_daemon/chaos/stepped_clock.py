"""The daemon, with a clock of the day that can be stepped: SIGUSR1 has it read by how much.

A machine's own clock is everybody's; so what this process is told of it is stepped, and no other.
The log goes on with the machine's time.
"""

import os
import signal
import time
from pathlib import Path

from infer_daemon.cli import run

STEP_FILE_ENV = "CHAOS_STEP_FILE"
"""Names the file that holds the step, in seconds."""

_now_ns = time.time_ns
_step_ns = 0


def _read(*_: object) -> None:
    global _step_ns
    _step_ns = round(float(Path(os.environ[STEP_FILE_ENV]).read_text()) * 1e9)


def _stepped_ns() -> int:
    return _now_ns() + _step_ns


def _stepped() -> float:
    return _stepped_ns() / 1e9


if __name__ == "__main__":
    time.time, time.time_ns = _stepped, _stepped_ns
    signal.signal(signal.SIGUSR1, _read)
    run()
