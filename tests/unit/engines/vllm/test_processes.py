"""An engine's processes: which of them was lost, and that they end for sure."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from infer_daemon.engines.vllm.processes import Processes, first_exit


def until_told() -> None:
    """Ends by itself, as a core does whose worker is gone, when it is told to."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.pause()


def with_a_worker() -> None:
    """A core that has started another process, as vLLM starts its own."""
    code = "import time; time.sleep(60)"
    worker = subprocess.Popen([sys.executable, "-c", code, "--multiprocessing-fork"])
    until_told()
    worker.kill()


def spawned(name: str, what: Callable[[], None] = until_told) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=what, name=name)
    process.start()
    return process


def _catches(process: BaseProcess, what: signal.Signals) -> bool:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) & 1 << (what - 1))


def is_listening(process: BaseProcess) -> None:
    """Wait until it has said what it does when it is told."""
    deadline_s = time.monotonic() + 30
    while not _catches(process, signal.SIGTERM):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ([("worker", signal.SIGKILL)], "a worker"),
        ([("core", signal.SIGKILL)], "core"),
        ([("core", signal.SIGTERM)], "core"),
    ],
)
async def test_the_one_is_named_that_was_lost(
    told: list[tuple[str, signal.Signals]], named: str
) -> None:
    family = {name: spawned(name) for name in ("core", "worker")}
    try:
        for process in family.values():
            is_listening(process)
        worker = psutil.Process(family["worker"].pid)
        watching = asyncio.create_task(first_exit([family["core"]], [worker]), name="watch")
        await asyncio.sleep(0)
        for name, told_signal in told:
            os.kill(family[name].pid or 0, told_signal)

        expected = family[named.removeprefix("a ")]
        async with asyncio.timeout(10):
            assert await watching == f"{named} (pid {expected.pid}) exited"
    finally:
        for process in family.values():
            process.kill()
            process.join()
            process.close()


def test_whatever_begins_after_the_end_is_killed_and_given_back() -> None:
    processes, early, late = Processes(), spawned("early"), spawned("late")
    try:
        processes.began([early])
        processes.end()
        assert early.is_alive()

        processes.began([late])
        processes.close()
    finally:
        for process in (early, late):
            process.kill()

    assert processes.pid is None
    assert (early.exitcode, late.exitcode) == (-signal.SIGKILL, -signal.SIGKILL)
    for process in (early, late):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(process.sentinel)


def test_workers_are_killed_whose_core_has_gone_before_them() -> None:
    processes, core = Processes(), spawned("core", with_a_worker)
    workers: list[psutil.Process] = []
    try:
        is_listening(core)
        workers = psutil.Process(core.pid).children()
        processes.began([core])
        processes.find_workers()
        core.kill()
        core.join()
        assert [worker.is_running() for worker in workers] == [True]

        processes.kill()

        assert psutil.wait_procs(workers, timeout=10)[1] == []
        processes.close()
    finally:
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
