"""Runs inside vLLM's own processes, through its entry point group `vllm.general_plugins`.

vLLM's EngineCore and Worker wait for each other on shared memory by calling `os.sched_yield()` in
a loop for up to a second before they sleep. A yield hands the core to nobody in particular, so on
a machine with few cores whoever shares a core with them starves: with 64 streams on two cores the
daemon's event loop was seen to stand still for 1 to 15 seconds. A short nap instead
(`factory.NAP_S`) frees the core for whoever shares it.
"""

import ctypes
import gc
import json
import logging.config
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

from infer_daemon.engines.vllm.causes import write_causes
from infer_daemon.engines.vllm.kept import (
    begin_grammars_behind_what_is_kept,
    count_what_is_kept,
)

PR_SET_PDEATHSIG = 1
NAP_ENV = "INFER_DAEMON_SPIN_NAP_S"
"""Seconds to sleep instead of each yield. Set by the daemon in its engines' environment."""
ENGINE_ENV = "INFER_DAEMON_ENGINE"
"""Name of the engine that a process belongs to. Set by the daemon in its engines' environment."""
PARENT_ENV = "INFER_DAEMON_PARENT"
"""Id of the process that starts this one: the daemon's, then each engine process's own for those
that it starts itself."""

STACK_BYTES = 64 * 1024 * 1024
"""Stack of threads to come, of which some compile grammars: with the usual 8 MiB a schema of 32 KiB
that is one chain of references was seen to end the process. Memory is taken where it is used."""
SWITCH_INTERVAL_S = 0.0005
"""The thread that takes requests in gets the interpreter from the one that makes steps so soon, and
not after Python's 5 ms: a request that comes during a step is in the next."""


def install() -> None:
    """Entry point. Changes only processes that the daemon started for an engine: other programs in
    the same Python environment keep vLLM as it is."""
    if ENGINE_ENV not in os.environ or multiprocessing.parent_process() is None:
        return
    die_with_the_parent()
    write_causes()
    gc.enable()  # `cli` switched it off while this process imported vLLM
    leave_the_terminals_group()
    threading.stack_size(STACK_BYTES)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    count_what_is_kept()
    begin_grammars_behind_what_is_kept()
    nap_s = os.environ.get(NAP_ENV)
    if nap_s:
        nap_instead_of_yield(float(nap_s))


def die_with_the_parent() -> None:
    """Have the kernel end this process when the one that started it is gone, however that went:
    vLLM's engines outlive a daemon that was killed.

    The signal comes when the *thread* ends that started this process (prctl(2)); the daemon starts
    each engine from a thread that lives as long as it.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    known = multiprocessing.parent_process()  # None while a child imports its main module
    parent = known.pid if known is not None else int(os.environ.get(PARENT_ENV, os.getppid()))
    if os.getppid() != parent:
        os._exit(1)  # it went before we asked
    os.environ[PARENT_ENV] = str(os.getpid())


def log_as_the_daemon_does() -> None:
    """From the first line on: vLLM sets up its logging when it is imported already, and what it
    says until then would be bare words."""
    if (path := os.environ.get("VLLM_LOGGING_CONFIG_PATH")) is not None:
        logging.config.dictConfig(json.loads(Path(path).read_text()))


def leave_the_terminals_group() -> None:
    """Put this engine into a process group of its own.

    A Ctrl-C reaches every process of the terminal's foreground group: the engine would end at once,
    while the daemon still drains the requests in it.
    """
    if os.getpgid(os.getppid()) == os.getpgid(0) and not _is_worker():
        os.setpgid(0, 0)


def _is_worker() -> bool:
    """Whether our parent is an engine's process too: a worker stays in its engine's group."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.name.startswith("EngineCore")


def nap_instead_of_yield(nap_s: float) -> None:
    """Make vLLM's shared-memory queue sleep `nap_s` seconds where it would yield."""
    from vllm.distributed.device_communicators import shm_broadcast

    def nap() -> None:
        time.sleep(nap_s)

    shm_broadcast.sched_yield = nap
