"""The processes of one engine, seen from the daemon: its core, and the workers that the core has
started. Watched, and ended for sure."""

import asyncio
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import psutil
from vllm import envs
from vllm.utils.system_utils import kill_process_tree

KILLED_TIMEOUT_S = 5.0
"""Until a process that was killed has given its memory back, and can be reaped."""


class Processes:
    """Of one engine, from its start to its stop."""

    def __init__(self) -> None:
        self._cores: list[Any] = []
        """Of `multiprocessing`, from the moment they are started."""
        self._workers: list[psutil.Process] = []
        """Once the engine is ready; by then only they know that they were its own."""
        self._is_over = False

    @property
    def pid(self) -> int | None:
        """Of the first core."""
        return self._cores[0].pid if self._cores else None

    def began(self, cores: Iterable[Any]) -> None:
        """Told in the engine's thread, the moment they run."""
        self._cores.extend(cores)
        if self._is_over:
            self.kill()

    def find_workers(self) -> None:
        """All of them are there now."""
        self._workers = workers_of(self._cores)

    async def first_exit(self) -> str:
        """Wait until one of them is gone; says which."""
        return await first_exit(self._cores, self._workers)

    def end(self) -> None:
        """Those that are yet to come are to be killed at once."""
        self._is_over = True

    def kill(self) -> None:
        """All of them, and whatever comes. The workers too: while they load, they do not see that
        the process which started them has gone."""
        self._is_over = True
        for core in self._cores:
            if core.is_alive():
                with suppress(psutil.NoSuchProcess):
                    kill_process_tree(core.pid)
        for worker in self._workers:  # of a core that has gone before them
            with suppress(psutil.NoSuchProcess):
                worker.kill()

    def close(self) -> None:
        """Give back their descriptors now, and not when the collector comes. Blocks until they have
        ended, which takes those that were just killed a moment."""
        for core in list(self._cores):
            core.join(KILLED_TIMEOUT_S)
            if core.exitcode is not None:
                # Not `core.close()`: vLLM's own watcher may be about to ask it how it ended.
                core._popen.close()
                self._cores.remove(core)


def workers_of(cores: Iterable[Any]) -> list[psutil.Process]:
    """What these have started, however deep, without the helpers of Python and the compilers, which
    come and go."""
    marks = (f"{envs.VLLM_PROCESS_NAME_PREFIX}::", "--multiprocessing-fork")
    found: list[psutil.Process] = []
    for core in cores:
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(core.pid).children(recursive=True):
                if any(mark in " ".join(child.cmdline()) for mark in marks):
                    found.append(child)
    return found


async def first_exit(cores: Sequence[Any], workers: Iterable[psutil.Process]) -> str:
    """Wait until one of them has exited; says which. Seconds pass before a core ends whose worker
    is gone: so workers are watched themselves. A worker goes with its core: then it is the core
    that is named, whichever is seen first.

    Args: cores: of `multiprocessing`.
    """
    loop = asyncio.get_running_loop()
    gone: asyncio.Future[str] = loop.create_future()

    def on_exit(who: str) -> None:
        if not gone.done():
            gone.set_result(f"{who} exited")

    watched = {core.sentinel: f"{core.name} (pid {core.pid})" for core in cores}
    with ExitStack() as undo:
        for worker in workers:
            who = f"a worker (pid {worker.pid})"
            try:
                file = os.pidfd_open(worker.pid)
            except ProcessLookupError:
                return f"{who} exited"
            undo.callback(os.close, file)
            watched[file] = who
        for file, who in watched.items():
            loop.add_reader(file, on_exit, who)
            undo.callback(loop.remove_reader, file)
        who = await gone
    dead = next((core for core in cores if not core.is_alive()), None)
    return who if dead is None else f"{dead.name} (pid {dead.pid}) exited"
