"""Starts that wait for memory, on virtual time, with a machine whose memory is a variable."""

import asyncio
from pathlib import Path

import pytest

from infer_daemon.engines.memory import RECHECK_S, MemoryQueue, available_bytes

pytestmark = pytest.mark.looptime


class Machine:
    """Free memory, and starts that load until they are told to be done."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.queue = MemoryQueue(lambda: self.free)
        self.loading: list[str] = []

    async def start(self, name: str, needed: int, seconds: float) -> None:
        """One start that takes so long."""
        async with self.queue.room(name, needed):
            self.loading.append(name)
            await asyncio.sleep(seconds)
            self.loading.remove(name)


async def test_starts_that_fit_together_load_side_by_side() -> None:
    machine = Machine(free=10)
    async with asyncio.TaskGroup() as group:
        for name, needed in {"a": 4, "b": 6, "c": 1}.items():
            group.create_task(machine.start(name, needed, 5))
        await asyncio.sleep(4)
        assert machine.loading == ["a", "b"]
        await asyncio.sleep(2)
        assert machine.loading == ["c"]


async def test_a_single_start_goes_through_whatever_it_needs() -> None:
    machine = Machine(free=0)
    async with asyncio.TaskGroup() as group:
        group.create_task(machine.start("large", 100, 5))
        group.create_task(machine.start("larger", 200, 5))
        await asyncio.sleep(1)
        assert machine.loading == ["large"]


async def test_memory_that_comes_free_by_itself_is_noticed() -> None:
    machine = Machine(free=5)
    async with asyncio.TaskGroup() as group:
        group.create_task(machine.start("a", 4, 100))
        group.create_task(machine.start("b", 4, 100))
        await asyncio.sleep(10)
        assert machine.loading == ["a"]
        machine.free = 8
        await asyncio.sleep(2 * RECHECK_S)
        assert machine.loading == ["a", "b"]


@pytest.mark.parametrize("victim", [0, 1])
async def test_a_start_that_is_cancelled_gives_its_room_back(victim: int) -> None:
    machine = Machine(free=5)
    starts = [asyncio.create_task(machine.start(name, 4, 100)) for name in ("a", "b")]
    await asyncio.sleep(1)
    starts[victim].cancel()
    await asyncio.sleep(1)
    starts.append(asyncio.create_task(machine.start("c", 1, 1)))
    await asyncio.sleep(0.5)

    assert "c" in machine.loading
    await asyncio.gather(*starts, return_exceptions=True)
    assert machine.queue._loading == {}


def test_the_kernel_says_how_much_is_available() -> None:
    text = Path("/proc/meminfo").read_text()
    total_kib = int(text.split("MemTotal:")[1].split()[0])

    assert 0 < available_bytes() <= total_kib * 1024
