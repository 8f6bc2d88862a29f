"""What is slow to check, such as a grammar: before anything is taken for the call, and once."""

import asyncio
from collections.abc import Callable

import pytest

from infer_daemon.domain.errors import NotSupported
from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import Sink, Work
from infer_daemon.engines.sim.engine import SimEngine
from infer_daemon.engines.supervisor import Status
from tests.unit.engines.conftest import Rig

pytestmark = pytest.mark.looptime

Record = Callable[[], RequestRecord]
WORDS = ["w0", "w1", "w2"]


class Checks:
    """Engines that take their time with calls that are slow to check."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.story: list[str] = []
        self.done = asyncio.Event()
        self.error: Exception | None = None
        submit = SimEngine.submit

        async def checked(engine: SimEngine, work: Work) -> None:
            if work.is_slow_to_check:
                self.story.append(f"{engine.name} checks")
                await self.done.wait()
            if self.error is not None:
                raise self.error

        async def submitted(engine: SimEngine, work: Work, sink: Sink) -> None:
            if work.is_slow_to_check:
                self.story.append(f"{engine.name} takes")
            await submit(engine, work, sink)

        patch.setattr(SimEngine, "check", checked)
        patch.setattr(SimEngine, "submit", submitted)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> Checks:
    return Checks(monkeypatch)


def expect(rig: Rig) -> None:
    """No engine is there, and one is to come."""
    rig.pool.statuses[EngineName("a")] = Status(EngineState.STARTING)
    rig.pool.look_ahead()


async def test_a_check_takes_no_place_meanwhile(rig: Rig, record: Record, checks: Checks) -> None:
    await rig.add(seqs_max=1)
    slow = rig.collect(rig.work(is_slow_to_check=True), record())
    await asyncio.sleep(1)

    assert await rig.collect(rig.work(), record()) == WORDS
    checks.done.set()
    assert await slow == WORDS
    assert checks.story == ["a checks", "a takes"]


async def test_what_came_while_no_engine_was_there_is_checked_before_it_takes_a_place(
    rig: Rig, record: Record, checks: Checks
) -> None:
    expect(rig)
    one = record()
    slow = rig.collect(rig.work(is_slow_to_check=True), one)
    await asyncio.sleep(1)
    await rig.add(seqs_max=1)
    await asyncio.sleep(1)

    assert (checks.story, one.granted_s) == (["a checks"], None)
    assert await rig.collect(rig.work(), record()) == WORDS
    checks.done.set()
    assert await slow == WORDS
    assert checks.story == ["a checks", "a takes"]
    assert one.prompt_tokens == 2
    rig.assert_empty()


async def test_what_an_engine_finds_against_a_call_that_waited_for_it_ends_the_call(
    rig: Rig, record: Record, checks: Checks
) -> None:
    expect(rig)
    checks.error = NotSupported("the grammar cannot be used")
    checks.done.set()
    slow = rig.collect(rig.work(is_slow_to_check=True), record())
    await asyncio.sleep(1)
    await rig.add()

    with pytest.raises(NotSupported):
        await slow
    assert checks.story == ["a checks"]
    rig.assert_empty()


async def test_who_leaves_during_a_check_leaves_nothing_behind(
    rig: Rig, record: Record, checks: Checks
) -> None:
    expect(rig)
    slow = rig.collect(rig.work(is_slow_to_check=True), record())
    await asyncio.sleep(1)
    await rig.add()
    await asyncio.sleep(1)
    slow.cancel()
    await asyncio.wait([slow])

    rig.assert_empty()


async def test_an_engine_that_goes_during_a_check_is_waited_for(
    rig: Rig, record: Record, checks: Checks
) -> None:
    expect(rig)
    slow = rig.collect(rig.work(is_slow_to_check=True), record())
    await asyncio.sleep(1)
    engine = await rig.add()
    await asyncio.sleep(1)
    engine.kill()
    rig.pool.close(engine.name)
    checks.done.set()
    await asyncio.sleep(1)
    await rig.add("b")

    assert await slow == WORDS
    rig.assert_empty()


async def test_what_goes_on_in_another_engine_is_not_checked_again(
    rig: Rig, record: Record, checks: Checks
) -> None:
    await rig.add("a")
    await rig.add("b")
    checks.done.set()
    one = record()
    slow = rig.collect(rig.work(100, is_slow_to_check=True), one)
    await asyncio.sleep(0.5)
    lost = next(engine for engine in rig.engines if engine.name == one.engine)
    lost.kill()
    rig.pool.close(lost.name)

    assert len(await slow) == 100
    (other,) = {"a", "b"} - {lost.name}
    assert checks.story == ["a checks", f"{lost.name} takes", f"{other} takes"]
