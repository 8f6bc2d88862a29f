"""Room on the disk that is held while there is some: for the rows of those who run when it is full.

Without it these rows would be in memory alone until somebody makes room, and lost if the daemon
ended before. What is given away is held again before new requests come in.
"""

import os
from contextlib import suppress
from pathlib import Path

RESERVE_BYTES = 16 * 1024 * 1024
"""For the rows of some 13,000 requests."""


class Reserve:
    """A file of that size with nothing in it. Used by one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_held = False
        self.is_given = False
        """Whether it was held and is not any more."""

    def hold(self) -> bool:
        """Idempotent. Returns whether it is held: not where the disk has no such room."""
        if not self.is_held:
            try:
                file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.posix_fallocate(file, 0, RESERVE_BYTES)
                finally:
                    os.close(file)
            except OSError:
                self._remove()
                return False
            self.is_held, self.is_given = True, False
        return True

    def give(self) -> bool:
        """Free the room. Returns whether there was any."""
        if not self.is_held:
            return False
        self._remove()
        self.is_held, self.is_given = False, True
        return True

    def _remove(self) -> None:
        with suppress(OSError):
            self._path.unlink()
