"""Engines that die, lose their worker, hang, or die while they start: with a replica beside them,
and without one."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

from infer_daemon.bench.figures import percentile
from infer_daemon.bench.report import Target, at_least, at_most, not_seen
from infer_daemon.chaos import blows, remains
from infer_daemon.chaos.blows import Blow, Strike, blow
from infer_daemon.chaos.crowd import Crowd
from infer_daemon.chaos.house import House, alone, learn, open_house, tables_of
from infer_daemon.chaos.run import Findings, Run

SEEN_S_MAX = 1.0
BESIDE_THE_START_S_MAX = 1.0
TTFT_TIMES_MAX = 3.0
STREAMS_MIN = 50
"""Of fewer a 99th percentile says nothing."""
HEALTHY_S = 12.0
"""After which an engine's next restart is not put off: `restart.healthy_s`, and a little."""
DEADLINE_S = 180.0
"""Of requests that are to outlive the restart of the only engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """What is done again and again, and what that may cost."""

    strike: Strike
    deaths: int = 1
    """Of the engine, for each of them."""
    seen_s_max: float = SEEN_S_MAX
    peace_s: float = 0.0
    """At least so long between two."""


async def kill_core(run: Run, findings: Findings) -> None:
    """Two replicas, of which one is killed each time both are ready."""
    await _replicas(run, findings, "core", Harm(strike=blows.kill_core))


async def kill_worker(run: Run, findings: Findings) -> None:
    """The same, of its worker."""
    await _replicas(run, findings, "worker", Harm(strike=blows.kill_worker))


async def hang(run: Run, findings: Findings) -> None:
    """One of two replicas stands still."""
    engines = tables_of(run)["engines"].values()
    stall_s = max(engine["stall_timeout_s"] for engine in engines)
    harm = Harm(strike=blows.stop_core, seen_s_max=stall_s + 1.0)
    await _replicas(run, findings, "hang", harm)


async def kill_start(run: Run, findings: Findings) -> None:
    """One of two replicas is killed, and once more while it starts."""
    await _replicas(run, findings, "starts", Harm(strike=blows.kill_start, deaths=2))


async def only_engine(run: Run, findings: Findings) -> None:
    """The only engine is killed: what was asked waits for it."""
    house = House(run, "only", alone(tables_of(run)), run.folder / "o")
    async with open_house(house):
        crowd = house.crowd(await learn(house), clients=run.clients, deadline_s=DEADLINE_S)
        harm = Harm(strike=blows.kill_core, peace_s=HEALTHY_S)
        await _torment(run, findings, house, crowd, harm)
    remains.ended_well(house, findings)


async def _replicas(run: Run, findings: Findings, name: str, harm: Harm) -> None:
    house = House(run, name, tables_of(run), run.folder / name)
    async with open_house(house):
        crowd = house.crowd(await learn(house), clients=run.clients)
        begun_s = time.time()
        struck = await _torment(run, findings, house, crowd, harm)
        findings.targets.append(ttft_target(crowd, begun_s, struck, findings))
    remains.ended_well(house, findings)


async def _torment(
    run: Run, findings: Findings, house: House, crowd: Crowd, harm: Harm
) -> list[Blow]:
    """Strike each time all engines are ready again, and until enough was asked."""
    before = await remains.footprint(house)
    struck: list[Blow] = []
    peace_s = max(run.seconds, harm.peace_s)
    crowd.begin()
    try:
        await asyncio.sleep(peace_s)
        for engine in itertools.islice(itertools.cycle(house.engines), run.blows):
            struck.append(await blow(house, engine, harm.strike))
            memory_mb = house.server.memory_bytes / 1e6
            so_far = f"{len(crowd.asked)} requests, {len(crowd.failed)} failed, {memory_mb:.0f} MB"
            run.say(f"  {struck[-1]}; {so_far}")
            await asyncio.sleep(peace_s)
        await crowd.until_asked(run.requests)
    finally:
        await crowd.end()
    findings.count(crowd)
    findings.notes += map(str, struck)
    findings.targets += [
        at_least("requests", len(crowd.asked), run.requests),
        at_least("blows", len(struck), run.blows),
        at_most("failed requests", len(crowd.failed), 0),
        at_most("seen after, s", max(one.seen_after_s for one in struck), harm.seen_s_max),
    ]
    if harm.deaths == 1:
        slowest_s = max(one.back_after_s for one in struck)
        findings.targets.append(
            at_most("recovery beside the start, s", slowest_s, BESIDE_THE_START_S_MAX)
        )
    await remains.compare(house, before, findings, restarts=len(struck) * harm.deaths)
    return struck


def ttft_target(crowd: Crowd, begun_s: float, struck: Sequence[Blow], findings: Findings) -> Target:
    """How long interactive tenants wait for their first text while one engine is started again;
    half of the places are gone, so batch work waits as long as there are others."""
    name = "TTFT p99 while one restarts, times"
    peace, war, batch = [], [], []
    peace_from_s = begun_s
    for one in struck:
        peace += crowd.ttfts_s(peace_from_s, one.at_s - 1.0)  # over before the blow
        war += crowd.ttfts_s(one.seen_s, one.ready_s)
        batch += crowd.ttfts_s(one.seen_s, one.ready_s, of_batch=True)
        peace_from_s = one.ready_s
    peace += crowd.ttfts_s(peace_from_s, time.time())
    if min(len(peace), len(war)) < STREAMS_MIN:
        return not_seen(name, f"<= {TTFT_TIMES_MAX:g}")
    before_s, while_s = percentile(peace, 0.99), percentile(war, 0.99)
    findings.notes.append(
        f"TTFT p50 {percentile(peace, 0.5) * 1e3:.0f} ms, p99 {before_s * 1e3:.0f} ms of "
        f"{len(peace)} streams; while one restarts {percentile(war, 0.5) * 1e3:.0f} ms and "
        f"{while_s * 1e3:.0f} ms of {len(war)}, batch work at most {max(batch, default=0):.1f} s"
    )
    return at_most(name, while_s / before_s, TTFT_TIMES_MAX)
