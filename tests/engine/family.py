"""The processes that a test has started, directly or not."""

import asyncio
import os
from pathlib import Path


def processes(root: int | None = None) -> dict[int, str]:
    """Descendants of a process (of ours) that are no zombies, with their command lines."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has ended meanwhile
        if state != "Z":
            parents[int(folder.name)] = int(parent)
    family = {root or os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return {pid: _command(pid) for pid in family - {root or os.getpid()}}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def engines(before: set[int] = frozenset(), root: int | None = None) -> set[int]:  # type: ignore[assignment]
    """Those that were started since and are no helper of Python's own."""
    found = processes(root)
    return {pid for pid in found.keys() - before if "resource_tracker" not in found[pid]}


async def all_gone(pids: set[int], timeout_s: float = 15.0) -> bool:
    """Whether all of these end in time."""
    try:
        async with asyncio.timeout(timeout_s):
            while any(_is_alive(pid) for pid in pids):
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
