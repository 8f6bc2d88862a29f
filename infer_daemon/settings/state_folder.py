"""The state folder: where the daemon keeps its sockets and what must outlive a run.

One daemon at a time: a lock on the folder is held for as long as the process lives, and whatever
an earlier run left behind is only touched by whoever holds it.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infer_daemon.settings.schema import Settings

SOCKET_PATH_BYTES_MAX = 107
"""The kernel's limit on the path of a Unix socket."""
_VENDOR_SOCKET_NAME = 37
"""vLLM names its sockets by a UUID inside the runtime folder."""


class StateFolderError(Exception):
    """The state folder cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The folder and what is in it."""

    root: Path

    @classmethod
    def of(cls, settings: Settings) -> "StateFolder":
        """The folder that these settings name, `~` expanded and absolute."""
        return cls(Path(settings.daemon.state_dir).expanduser().absolute())

    @property
    def runtime(self) -> Path:
        """Files of one run (the engines' own sockets, logging setup); emptied at start."""
        return self.root / "run"

    @property
    def admin_socket(self) -> Path:
        """Where `infer-daemon state` and its kin ask."""
        return self.root / "admin.sock"

    def api_socket(self, settings: Settings) -> Path | None:
        """The API's Unix socket; a relative name is inside the state folder, "" is none."""
        name = settings.listen.unix_socket
        return self.root / Path(name).expanduser() if name else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder, take its lock, and empty what belongs to a run.

        Raises:
            StateFolderError: another daemon holds the lock, or the folder cannot be used.
        """
        longest = len(os.fsencode(self.runtime)) + _VENDOR_SOCKET_NAME
        if longest > SOCKET_PATH_BYTES_MAX:
            limit = SOCKET_PATH_BYTES_MAX - _VENDOR_SOCKET_NAME - len("/run")
            raise StateFolderError(
                f"{self.root}: too long a path for the sockets in it (at most {limit} bytes)"
            )
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.root / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateFolderError(
                f"{self.root} cannot be the state folder: {error.strerror}"
            ) from error
        try:
            self._take(lock)
            self._empty_runtime()
            yield
            shutil.rmtree(self.runtime, ignore_errors=True)
        finally:
            os.close(lock)

    def _empty_runtime(self) -> None:
        shutil.rmtree(self.runtime, ignore_errors=True)
        try:
            self.runtime.mkdir(mode=0o700)
        except OSError as error:
            raise StateFolderError(f"{self.runtime}: {error.strerror}") from error

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).decode(errors="replace").strip() or "unknown"
            raise StateFolderError(
                f"{self.root}: another daemon (pid {holder}) is using this state folder; "
                "stop it, or choose another with --state-dir"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
