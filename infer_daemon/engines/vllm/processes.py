"""The processes of one engine, seen from the daemon: its core, and the workers that the core has
started."""

import asyncio
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import psutil
from vllm import envs


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
