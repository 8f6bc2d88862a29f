"""Harm to what the ledger stands on: its disk is full, its file is locked, its clock is stepped."""

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

from infer_daemon.bench.report import at_least, at_most, not_seen
from infer_daemon.chaos import remains
from infer_daemon.chaos.crowd import Asked, Crowd
from infer_daemon.chaos.house import House, learn, open_house, tables_of
from infer_daemon.chaos.run import Findings, Run
from infer_daemon.chaos.stepped_clock import STEP_FILE_ENV

LOCKED_S = 15.0
FULL_S = 10.0
DISK_MB = 32
HOUR_S = 3600
BACK_S = 5.0
"""In which the ledger is written again once nothing is in its way."""
_REFUSED = "ledger_unavailable"


async def ledger_locked(run: Run, findings: Findings) -> None:
    """Another program holds the ledger's lock for 15 s."""
    house = House(run, "locked", tables_of(run), run.folder / "locked")
    async with open_house(house), _load(house, findings):
        with _lock(house.state_dir / "ledger.sqlite3"):
            await asyncio.sleep(LOCKED_S)
        await _until_written_again(house, findings)
    remains.ended_well(house, findings)


async def disk_full(run: Run, findings: Findings) -> None:
    """The disk of the state folder is full for 10 s."""
    folder = run.folder / "full"
    with _small_disk(folder) as has_one:
        if not has_one:
            findings.targets.append(not_seen("a full disk", "needs leave to mount one"))
            return
        house = House(run, "disk", tables_of(run), folder / "s")
        async with open_house(house), _load(house, findings):
            _fill(folder / "filler")
            await asyncio.sleep(FULL_S)
            (folder / "filler").unlink()
            await _until_written_again(house, findings)
        remains.ended_well(house, findings)


async def clock_stepped(run: Run, findings: Findings) -> None:
    """The clock is stepped an hour ahead, two back, and to where it was."""
    step = run.folder / "step"
    os.environ[STEP_FILE_ENV] = str(step)
    module = "infer_daemon.chaos.stepped_clock"
    house = House(run, "clock", tables_of(run), run.folder / "clock", program=module)
    async with open_house(house), _load(house, findings):
        for step_s in (HOUR_S, -HOUR_S, 0):
            step.write_text(str(step_s))
            os.kill(house.pid, signal.SIGUSR1)
            await asyncio.sleep(run.seconds)
    remains.ended_well(house, findings)


@asynccontextmanager
async def _load(house: House, findings: Findings) -> AsyncGenerator[Crowd]:
    """A crowd that asks before, during and after this block. It may be refused with a reason while
    the ledger cannot be written; nothing else may go wrong."""
    run = house.run
    crowd = house.crowd(await learn(house), clients=run.clients)
    before = await remains.footprint(house)
    crowd.begin()
    try:
        await asyncio.sleep(run.seconds)
        yield crowd
        await asyncio.sleep(run.seconds)
    finally:
        await crowd.end()
    refused = [asked for asked in crowd.failed if _is_refused(asked)]
    failed = [asked for asked in crowd.failed if not _is_refused(asked)]
    findings.requests += len(crowd.asked)
    findings.failed += len(failed)
    findings.problems += map(str, failed[:3])
    answered = len(crowd.asked) - len(crowd.failed)
    slowest_s = max(asked.ended_s - asked.begun_s for asked in crowd.asked)
    findings.notes.append(
        f"{answered} answered, {len(refused)} refused ({_REFUSED}), the slowest after "
        f"{slowest_s:.1f} s"
    )
    findings.targets.append(at_most("failed otherwise than refused", len(failed), 0))
    await remains.compare(house, before, findings, restarts=0)
    booked = await asyncio.to_thread(house.booked, "ok")
    findings.targets.append(at_least("answers in the ledger", booked, answered))


def _is_refused(asked: Asked) -> bool:
    return asked.status == 503 and _REFUSED in asked.problem


async def _until_written_again(house: House, findings: Findings) -> None:
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    while (await house.state())["ledger"]["state"] != "ok" and loop.time() < begun_s + 4 * BACK_S:
        await asyncio.sleep(0.1)
    findings.targets.append(at_most("written again after, s", loop.time() - begun_s, BACK_S))


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Nobody else writes in this block."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=10.0)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    """A disk of its own for a folder; tells whether there is one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=700", "chaos", str(folder)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _fill(path: Path) -> None:
    """Take all the room that is left."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(65536))
