"""Why an engine's processes could not start, in their own words.

vLLM's core logs it, and so does its worker; the process that started them is told only to "see root
cause above". So each engine process writes the first error that it logs with an exception to a file
that the daemon has named, and the daemon reads that. What matters most is in there: how much memory
was wanted and how much there was.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path

CAUSE_ENV = "INFER_DAEMON_CAUSE_FILE"
"""Where to write. Set by the daemon in its engines' environment, anew for each start."""
CAUSE_LEN_MAX = 500


class CauseHandler(logging.Handler):
    """Writes the first error down, and no other: the next ones follow from it."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.ERROR)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            with suppress(OSError), self._path.open("x") as file:
                file.write(f"{type(error).__name__}: {last_line(error)}"[:CAUSE_LEN_MAX])


def write_causes() -> None:
    """In an engine's process: from now on."""
    if path := os.environ.get(CAUSE_ENV):
        logging.getLogger("vllm").addHandler(CauseHandler(Path(path)))


def take_cause(path: Path) -> str:
    """In the daemon: what was written, if anything; it is gone then."""
    with suppress(OSError):
        cause = path.read_text(errors="replace")
        path.unlink()
        return cause
    return ""


def last_line(error: BaseException) -> str:
    """The sentence of an error that may quote a whole traceback."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
