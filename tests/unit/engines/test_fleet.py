"""All engines together, on virtual time."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest
from prometheus_client import CollectorRegistry
from structlog.types import EventDict

from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.fleet import Fleet, PoolPlan
from infer_daemon.engines.pool import Pool
from infer_daemon.scheduling.policy import Policy
from infer_daemon.scheduling.scheduler import Scheduler
from infer_daemon.settings.schema import EngineSection, RestartSection, SimSection, WindowSection
from tests.unit.engines.conftest import Jury, OpenDoor, Presence, TokenLog

pytestmark = pytest.mark.looptime


def no_vendor() -> NoReturn:
    """Simulated engines need no vLLM."""
    raise AssertionError("vLLM was loaded for simulated engines")


class Harness:
    """A fleet with one pool for each engine."""

    def __init__(self, scripts: dict[str, SimSection]) -> None:
        sections = {
            name: EngineSection(
                model="echo",
                kind="sim",
                start_timeout_s=50,
                sim=script,
                restart=RestartSection(starts_max=1, delay_s=2),
            )
            for name, script in scripts.items()
        }
        self.schedulers = {name: Scheduler(Policy(queue_len_max=9)) for name in scripts}
        self.pools = {
            name: Pool(
                name,
                self.schedulers[name],
                TokenLog(),
                Presence(),
                OpenDoor(),
                judge=Jury(),
                windows={EngineName(name): WindowSection()},
                fanout_max=9,
            )
            for name in scripts
        }
        plans = [
            PoolPlan(pool=pool, engines=[EngineName(name)], served_names=[name], loras={})
            for name, pool in self.pools.items()
        ]
        self.fleet = Fleet(sections, plans, lambda _: CollectorRegistry(), lambda *_: None)

    @property
    def states(self) -> dict[str, EngineState]:
        """Of every engine."""
        return {name: pool.statuses[EngineName(name)].state for name, pool in self.pools.items()}

    @property
    def has_ended(self) -> bool:
        """Whether it runs no more, without having been told to end."""
        return self._task.done()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Fleet, None]:
        """Run it for the length of the block, then end it as the daemon does."""
        task = self._task = asyncio.create_task(self.fleet.run(no_vendor))
        try:
            yield self.fleet
        finally:
            task.cancel()
            await asyncio.wait([task])
            await self.fleet.stop()
            await self.fleet.stop()


async def test_an_engine_that_fails_to_start_does_not_keep_the_others_from_working() -> None:
    harness = Harness(
        {
            "good": SimSection(start_s=2),
            "bad": SimSection(fail_start="no such model"),
            "slow": SimSection(start_s=1000),
        }
    )
    async with harness.running() as fleet:
        await fleet.settled()

        assert asyncio.get_running_loop().time() == pytest.approx(50)
        assert harness.states == {
            "good": EngineState.READY,
            "bad": EngineState.FAILED,
            "slow": EngineState.FAILED,
        }
        assert harness.pools["good"].frontend(None)
        assert "no such model" in harness.pools["bad"].why_not_ready(None)

    assert set(harness.states.values()) == {EngineState.STOPPED, EngineState.FAILED}


async def test_an_engine_that_dies_is_started_again_while_the_others_work() -> None:
    harness = Harness({"a": SimSection(start_s=3), "b": SimSection()})
    async with harness.running() as fleet:
        await fleet.settled()
        first = fleet.supervisors[EngineName("a")].engine
        assert first is not None
        first.kill()
        await asyncio.sleep(0.5)

        assert harness.states == {"a": EngineState.DEAD, "b": EngineState.READY}
        assert harness.schedulers["a"].snapshot()["windows"] == {}
        await asyncio.sleep(6)
        assert harness.states == {"a": EngineState.READY, "b": EngineState.READY}
        assert fleet.supervisors[EngineName("a")].engine is not first


async def test_a_fleet_whose_engines_have_all_failed_still_runs() -> None:
    harness = Harness({"a": SimSection(fail_start="no such model")})
    async with harness.running() as fleet:
        await fleet.settled()
        await asyncio.sleep(1000)

        assert harness.states == {"a": EngineState.FAILED}
        assert not harness.has_ended


async def test_a_fleet_can_be_stopped_before_it_has_settled() -> None:
    harness = Harness({"a": SimSection(start_s=30)})
    async with harness.running():
        await asyncio.sleep(1)
        assert harness.states == {"a": EngineState.STARTING}

    assert harness.states == {"a": EngineState.STOPPED}


@pytest.mark.parametrize("kills", [False, True], ids=["asked", "killed meanwhile"])
async def test_engines_that_shut_down_slowly_are_waited_for_unless_they_are_killed(
    kills: bool,
) -> None:
    loop = asyncio.get_running_loop()
    harness = Harness({"a": SimSection(stop_s=20), "b": SimSection(stop_s=30)})
    async with harness.running() as fleet:
        await fleet.settled()
        before_s = loop.time()
        stopping = asyncio.create_task(fleet.stop())
        await asyncio.sleep(1)
        if kills:
            fleet.kill()
        await stopping

    assert loop.time() - before_s == pytest.approx(1 if kills else 30)
    assert EngineState.STOPPING not in harness.states.values()


async def test_a_long_start_is_never_silent(log_lines: list[EventDict]) -> None:
    harness = Harness({"a": SimSection(start_s=30), "b": SimSection()})
    async with harness.running() as fleet:
        await fleet.settled()

    progress = [line for line in log_lines if line["event"] == "engine_loading"]
    assert [(line["engine"], line["spent_s"]) for line in progress] == [
        ("a", seconds) for seconds in (5, 10, 15, 20, 25)
    ]
    assert {line["step"] for line in progress} == {"pretending to load"}


async def test_every_change_of_state_is_logged_and_a_failure_as_an_error(
    log_lines: list[EventDict],
) -> None:
    harness = Harness({"a": SimSection(fail_start="no such model")})
    async with harness.running() as fleet:
        await fleet.settled()

    failed = log_lines[-1]
    assert (failed["log_level"], failed["state"]) == ("error", "failed")
    assert failed["reason"] == "no such model"
