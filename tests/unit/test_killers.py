"""A request under which engines die and that another model may answer: the rule of the query of
death counts its deaths, and not those in each pool by itself."""

import asyncio
from typing import Any

import pytest

from infer_daemon.domain.errors import KillsEngines
from tests.conftest import MakeSettings
from tests.inside import Inside

pytestmark = pytest.mark.looptime

ENGINE = """
[engines.{name}]
kind = "sim"
model = "echo"
max_num_seqs = 1
sim.step_ms = 10
"""
MODELS = """
[models.echo]
engines = {echo}
fallback.dead = ["other", "third"]
last_resort.text = "come again"
[models.other]
engines = {other}
[models.third]
engines = ["z"]
"""
POISON = {"prompt": "a", "max_tokens": 50, "ignore_eos": True}
GRACE_S = 10
"""Enough for all that can follow a death."""


def daemon(settings_of: MakeSettings, echo: list[str], other: list[str]) -> Inside:
    engines = "".join(ENGINE.format(name=name) for name in [*echo, *other, "z"])
    return Inside(settings_of(engines + MODELS.format(echo=echo, other=other)))


async def poison(inside: Inside, **fields: Any) -> tuple[list[str], BaseException | None]:
    """Every engine that gets the request dies of it, and is back a second later. Returns which did,
    the last of its model marked, and what the client was told."""
    answering = asyncio.create_task(inside.ask(**{**POISON, **fields}))
    killed: list[str] = []
    while not answering.done():
        await asyncio.sleep(0.1)
        for name, engine in list(inside.engines.items()):
            if engine.in_flight:
                inside.kill(name)
                is_last = not inside.pool_of(name).facts
                killed.append(f"{name}, the last" if is_last else name)
                asyncio.get_running_loop().call_later(0.95 + len(killed) / 10, _start, inside, name)
        assert len(killed) < 10, "nobody stops it"
    await asyncio.sleep(GRACE_S)
    return killed, answering.exception()


_starting: set[asyncio.Task[None]] = set()


def _start(inside: Inside, name: str) -> None:
    task = asyncio.create_task(inside.start(name))
    _starting.add(task)
    task.add_done_callback(_starting.discard)


@pytest.mark.parametrize("other", [["b"], ["b", "c"], ["b", "c", "d"]])
async def test_a_killer_that_falls_back_ends_after_as_many_deaths_as_in_one_pool(
    settings_of: MakeSettings, other: list[str]
) -> None:
    async with daemon(settings_of, ["a"], other).running() as inside:
        killed, told = await poison(inside)

    assert killed[0] == "a, the last"
    assert {name[0] for name in killed[1:]} <= set(other)
    assert len(killed) == (2 if other == ["b"] else 3)
    assert isinstance(told, KillsEngines)


async def test_calls_of_a_killer_that_waited_while_it_became_a_suspect_run_alone_too(
    settings_of: MakeSettings,
) -> None:
    async with daemon(settings_of, ["a"], ["b", "c"]).running() as inside:
        killed, told = await poison(inside, model="other", prompt=["one", "two", "three", "four"])

    assert killed[:2] == ["b", "c, the last"]
    assert killed[2:] in (["b"], ["c"])
    assert isinstance(told, KillsEngines)
