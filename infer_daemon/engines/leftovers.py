"""Processes of an earlier run that outlived it.

The kernel ends an engine's processes with the daemon (`engines.vllm.plugin`); this is for those
that it did not: whatever carries the state folder's name in its environment belongs to the folder,
and whoever holds the folder's lock may end it.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

STATE_DIR_ENV = "INFER_DAEMON_STATE_DIR"
"""Set in the environment of every process that a daemon starts."""


def end(state_dir: Path) -> list[int]:
    """Kill every process of an earlier run. Returns their ids.

    Call with the folder's lock held and before anything is started.
    """
    mark = f"{STATE_DIR_ENV}={state_dir}".encode()
    ended = []
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        with suppress(OSError):  # it has ended meanwhile, or is not ours to look at
            if pid != os.getpid() and mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
                ended.append(pid)
    return ended
