"""A daemon that ends in full load: because it is told to, and because it is killed."""

import asyncio
import os
import signal
import time

from infer_daemon.bench.report import at_least, at_most, target
from infer_daemon.bench.servers import members
from infer_daemon.chaos import remains
from infer_daemon.chaos.crowd import Asked
from infer_daemon.chaos.house import House, learn, open_house, tables_of
from infer_daemon.chaos.run import Findings, Run

DRAIN_S = 30.0
"""`daemon.drain_timeout_s`."""
STOP_S = 15.0
"""For the engines, after the last request."""
ORPHANS_S = 5.0
_SOON_AFTER_S = 0.5


async def drain(run: Run, findings: Findings) -> None:
    """SIGTERM in full load: what runs comes to its end."""
    house = House(run, "drain", tables_of(run), run.folder / "drain")
    async with open_house(house):
        crowd = house.crowd(await learn(house), clients=run.clients, pause_s=0.01)
        crowd.begin()
        await asyncio.sleep(run.seconds)
        told_s = time.time()
        os.kill(house.pid, signal.SIGTERM)
        code = await asyncio.to_thread(house.server.process.wait, DRAIN_S + STOP_S)
        spent_s = time.time() - told_s
        await crowd.end()
        running = [one for one in crowd.asked if one.begun_s < told_s < one.ended_s]
        late = [one for one in crowd.asked if one.begun_s >= told_s]
        cut = [one for one in crowd.asked if one not in late and one.problem]
        cut += [one for one in late if one.problem and not _was_not_taken(one)]
        answered = len(crowd.asked) - len(crowd.failed)
        findings.requests, findings.failed = len(crowd.asked), len(cut)
        findings.problems += map(str, cut[:3])
        findings.notes.append(
            f"{len(running)} ran when it was told to stop; it ended after {spent_s:.1f} s"
        )
        findings.targets += [
            at_least("ran at that moment", len(running), 1),
            at_most("cut short", len(cut), 0),
            target("exit code", code, "0", met=code == 0),
            at_least("answers in the ledger", house.booked("ok"), answered),
        ]
    remains.ended_well(house, findings)


async def kill_daemon(run: Run, findings: Findings) -> None:
    """SIGKILL the daemon in full load, and start it again."""
    house = House(run, "killed", tables_of(run), run.folder / "killed")
    async with open_house(house):
        crowd = house.crowd(await learn(house), clients=run.clients)
        crowd.begin()
        await asyncio.sleep(run.seconds)
        killed_s = time.time()
        os.kill(house.pid, signal.SIGKILL)
        house.server.process.wait()
        orphans_s = await _until_gone(house.pid)
        house.spawn()
        await house.until_settled()
        ready_s = time.time()
        await asyncio.sleep(run.seconds)
        await crowd.end()
        away = [a for a in crowd.failed if a.ended_s >= killed_s and a.begun_s <= ready_s]
        failed = [a for a in crowd.failed if a not in away]
        answered = len(crowd.asked) - len(crowd.failed)
        findings.requests, findings.failed = len(crowd.asked), len(failed)
        findings.problems += map(str, failed[:3])
        findings.notes.append(
            f"{len(away)} not answered while it was away, {ready_s - killed_s:.1f} s; orphans gone "
            f"after {orphans_s:.1f} s; {house.booked('lost')} rows were lost"
        )
        left = await remains.until_quiet(house)
        findings.problems += left
        findings.targets += [
            at_most("failed before and after", len(failed), 0),
            at_most("engines gone after, s", orphans_s, ORPHANS_S),
            at_least("answers in the ledger", house.booked("ok"), answered),
            at_most("work and reservations left", len(left), 0),
        ]
    remains.ended_well(house, findings)


def _was_not_taken(one: Asked) -> bool:
    """Whether it was refused, or found nobody: its client may ask elsewhere, nothing was lost."""
    return one.status == 503 or (one.status == 0 and not one.first_s)


async def _until_gone(session: int) -> float:
    """How long the processes of a daemon that was killed outlive it."""
    begun_s = time.monotonic()
    while members(session) and time.monotonic() < begun_s + 4 * ORPHANS_S:
        await asyncio.sleep(0.05)
    return time.monotonic() - begun_s
