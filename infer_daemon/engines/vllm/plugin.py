"""Runs inside vLLM's own processes, through its entry point group `vllm.general_plugins`.

vLLM's EngineCore and Worker wait for each other on shared memory by calling `os.sched_yield()` in
a loop for up to a second before they sleep. A yield hands the core to nobody in particular, so on
a machine with few cores whoever shares a core with them starves: with 64 streams on two cores the
daemon's event loop was seen to stand still for 1 to 15 seconds. A nap of 20 microseconds instead
costs no throughput and frees a core.
"""

import os
import time

NAP_ENV = "INFER_DAEMON_SPIN_NAP_S"
"""Set by the daemon in its engines' environment; without it the plugin changes nothing, so that
other programs in the same Python environment keep vLLM as it is."""


def install() -> None:
    """Entry point. Replaces the spinning yield in this process, if the daemon asked for it."""
    nap_s = os.environ.get(NAP_ENV)
    if nap_s:
        nap_instead_of_yield(float(nap_s))


def nap_instead_of_yield(nap_s: float) -> None:
    """Make vLLM's shared-memory queue sleep `nap_s` seconds where it would yield."""
    from vllm.distributed.device_communicators import shm_broadcast

    def nap() -> None:
        time.sleep(nap_s)

    shm_broadcast.sched_yield = nap
