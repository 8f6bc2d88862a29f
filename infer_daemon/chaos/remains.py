"""What may not be left of a fault: work, reservations, processes, descriptors, memory."""

import asyncio
import os
from collections import Counter
from dataclasses import dataclass
from typing import Any

from infer_daemon.bench.report import at_most
from infer_daemon.bench.servers import members
from infer_daemon.chaos.house import House, descriptors
from infer_daemon.chaos.run import Findings

QUIET_S = 20.0
"""In which all must have settled that has ended."""
CLOSED_S = 5.0
LOOK_S = 0.2
RESTART_MB_MAX = 6.0
GROWTH_MB_MAX = 16.0
"""Without a restart: what an allocator keeps of a load that it had not seen before."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a daemon has when nobody asks it."""

    descriptors: dict[int, str]
    processes: int
    threads: int
    memory_bytes: int


async def footprint(house: House) -> Footprint:
    """As soon as all is quiet."""
    await until_quiet(house)
    await asyncio.sleep(LOOK_S)  # our own question has a connection, too
    return Footprint(
        descriptors(house.pid),
        len(members(house.pid)),
        len(os.listdir(f"/proc/{house.pid}/task")),
        house.server.memory_bytes,
    )


async def until_quiet(house: House) -> list[str]:
    """Wait until nothing is going on. Returns what still is when that took too long."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + QUIET_S
    while (left := _left(await house.state())) and loop.time() < deadline_s:
        await asyncio.sleep(LOOK_S)
    return left


async def compare(house: House, before: Footprint, findings: Findings, *, restarts: int) -> None:
    """What there is now beside what there was, as targets."""
    left = await until_quiet(house)
    now = await _settled_footprint(house, before)
    more = _kinds(now) - _kinds(before)
    findings.problems += [*left, *(f"open: {kind} ({n} more)" for kind, n in more.items())]
    breaches = await asyncio.to_thread(house.verify)
    findings.problems += [f"ledger: {breaches}"] if breaches else []
    grown_mb = (now.memory_bytes - before.memory_bytes) / 1e6
    findings.notes.append(
        f"memory {before.memory_bytes / 1e6:.0f} MB -> {now.memory_bytes / 1e6:.0f} MB, threads "
        f"{before.threads} -> {now.threads}, descriptors {len(before.descriptors)} -> "
        f"{len(now.descriptors)}"
    )
    findings.targets += [
        at_most("work and reservations left", len(left), 0),
        at_most("processes more than before", now.processes - before.processes, 0),
        at_most("descriptors more than before", len(now.descriptors) - len(before.descriptors), 0),
        at_most("breaches in the ledger", int(bool(breaches)), 0),
        at_most("memory for each restart, MB", grown_mb / restarts, RESTART_MB_MAX)
        if restarts
        else at_most("memory, MB", grown_mb, GROWTH_MB_MAX),
    ]


async def _settled_footprint(house: House, before: Footprint) -> Footprint:
    """What there is once connections have been closed on both sides, which takes a moment."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + CLOSED_S
    while True:
        await asyncio.sleep(LOOK_S)
        now = await footprint(house)
        if len(now.descriptors) <= len(before.descriptors) or loop.time() >= deadline_s:
            return now


def _kinds(one: Footprint) -> Counter[str]:
    """Sockets and pipes are numbered, files have names."""
    return Counter(name.partition(":[")[0] for name in one.descriptors.values())


def _left(state: Any) -> list[str]:
    """What is not at rest."""
    counts = {
        "requests in flight": state["requests_in_flight"],
        "open rows": state["ledger"]["open"],
    }
    for engine in state["engines"]:
        counts[f"calls in {engine['name']}"] = engine["in_flight"]
    for name, pool in state["pools"].items():
        counts[f"waiting for {name}"] = pool["waiting"]
        counts[f"running in {name}"] = pool["running"]
    for budget in state["budgets"]:
        counts[f"reserved of {budget['tenant']}"] = budget["reserved"]
    return [f"{what}: {count}" for what, count in counts.items() if count]


def ended_well(house: House, findings: Findings) -> None:
    """Of a daemon that has ended: what is left of it, and its ledger."""
    left = house.server.left_behind
    findings.problems += left
    if breaches := house.verify():
        findings.problems.append(f"ledger: {breaches}")
    findings.targets += [
        at_most("processes left", len(left), 0),
        at_most("breaches in the ledger", int(bool(breaches)), 0),
    ]
