"""Engines that cannot be loaded, beside one that works: broken files, and memory that is not
there. Each fails alone and says why."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from infer_daemon.bench import launches
from infer_daemon.bench.report import at_most, target
from infer_daemon.bench.servers import ServerProblem
from infer_daemon.bench.wire import connect
from infer_daemon.chaos import remains
from infer_daemon.chaos.crowd import Asked, ask
from infer_daemon.chaos.house import House, alone, learn, open_house, tables_of
from infer_daemon.chaos.questions import Question
from infer_daemon.chaos.run import Findings, Run

MODELS = launches.HOME / "infer_daemon/demo/models"
BROKEN = "broken"
TOO_MUCH_BYTES = 64 << 40
"""A KV cache that no machine has room for."""


async def bad_lora(run: Run, findings: Findings) -> None:
    """Half of an adapter's weights is missing."""
    tables = alone(tables_of(run))
    adapter = _copy("demo-brief", run.folder / "lora", "adapter_model.safetensors")
    tables["models"][BROKEN] = {"engines": list(tables["engines"]), "lora": str(adapter)}
    await _beside(run, findings, tables, why="adapter")


async def bad_weights(run: Run, findings: Findings) -> None:
    """Half of a model's weights is missing."""
    model = _copy("demo-small", run.folder / "weights", "model.safetensors")
    await _beside(run, findings, _with_engine(run, model=str(model)), why="")


async def no_memory(run: Run, findings: Findings) -> None:
    """An engine is to have more memory than there is."""
    tables = _with_engine(run, kv_cache_memory_bytes=TOO_MUCH_BYTES)
    await _beside(run, findings, tables, why="memory")


def _copy(model: str, folder: Path, broken: str) -> Path:
    """Of a folder in which one file ends in the middle."""
    shutil.copytree(MODELS / model, folder)
    file = folder / broken
    os.truncate(file, file.stat().st_size // 2)
    return folder


def _with_engine(run: Run, **keys: Any) -> dict[str, Any]:
    """One good engine, and one like it but for these keys, with a model of its own."""
    tables = alone(tables_of(run))
    (good,) = tables["engines"].values()
    tables["engines"][BROKEN] = {**good, **keys}
    tables["models"][BROKEN] = {"engines": [BROKEN]}
    return tables


async def _beside(run: Run, findings: Findings, tables: dict[str, Any], why: str) -> None:
    """The rest works as if nothing was wrong, while the broken part is tried, and after."""
    house = House(run, BROKEN, tables, run.folder / BROKEN)
    healthy = [name for name in tables["models"] if name != BROKEN]
    async with open_house(house):
        house.asked_models = healthy
        crowd = house.crowd(await learn(house), clients=run.clients)
        before = await remains.footprint(house)
        crowd.begin()
        await asyncio.sleep(run.seconds)
        refused = await _refusal(house)
        await crowd.end()
        ready = (await house.state())["models"]
        findings.count(crowd)
        findings.notes += [f"clients are told: {refused.problem}", f"operators: {ready[BROKEN]}"]
        findings.targets += [
            at_most("failed requests of others", len(crowd.failed), 0),
            target("its clients get", refused.status, "503", met=refused.status == 503),
            target("and the reason", 0, why or "any", met=why in refused.problem.lower()),
        ]
        await remains.compare(house, before, findings, restarts=0)
    remains.ended_well(house, findings)


async def _refusal(house: House) -> Asked:
    """What a client of the broken model gets."""
    question = Question(model=BROKEN, text="?", is_chat=True, is_stream=False, tokens=1)
    asked = Asked(question=question, tenant="acme", begun_s=0.0)
    connection = await ask(house.address, asked, await connect(house.address), {})
    if connection is None:
        raise ServerProblem(asked.problem)
    connection.close()
    return asked
