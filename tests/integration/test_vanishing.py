"""Clients that vanish, and clients that dawdle, at every point of a request, in numbers."""

import asyncio
import os
import random
import statistics
import time

from infer_daemon.chaos.vanishing import request, vanish
from tests.integration.conftest import Serve
from tests.integration.running import KEY, SIM, Running, until

MODEL = "echo"
SEED = 20_261_121
VANISHING = 2000
AT_ONCE = 100
LORISES, GOOD = 100, 50
ROUNDS = 5


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_thousands_of_clients_that_vanish_leave_nothing_within_a_second(
    running: Running,
) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    await vanish(running.daemon.doors.port, random.Random(1), MODEL, KEY)
    await until(lambda: running.daemon.path.in_flight == 0)
    before = descriptors()
    for _ in range(VANISHING // AT_ONCE):
        await asyncio.gather(
            *(vanish(running.daemon.doors.port, rng, MODEL, KEY) for _ in range(AT_ONCE))
        )

    engine = running.engine("a")
    async with asyncio.timeout(10.0):
        while (
            running.daemon.path.in_flight
            or running.queue.running
            or running.queue.waiting
            or engine.stats.running
            or engine.stats.waiting
            or descriptors() > before
        ):
            await asyncio.sleep(0.01)


async def ttfts_s(port: int) -> list[float]:
    """Of good clients, several requests each, all at the same time."""

    async def one() -> list[float]:
        times = []
        for _ in range(4):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            began_s = time.perf_counter()
            writer.write(request(MODEL, KEY, stream=True, max_tokens=5))
            await reader.readuntil(b"data: ")
            times.append(time.perf_counter() - began_s)
            await reader.readuntil(b"[DONE]")
            writer.close()
        return times

    return [t for times in await asyncio.gather(*(one() for _ in range(GOOD))) for t in times]


async def dawdle(port: int) -> None:
    """Send a request a byte at a time, for as long as one is let."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for byte in request(MODEL, KEY):
            writer.write(bytes([byte]))
            await asyncio.sleep(0.1)
        await reader.read()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def test_clients_that_dawdle_cost_the_others_little(serve: Serve) -> None:
    text = SIM.replace("sim.step_ms = 1", "sim.step_ms = 20", 1)
    running = await serve(text.replace("max_num_seqs = 4", "max_num_seqs = 64"))
    port = running.daemon.doors.port
    await ttfts_s(port)

    # What dawdling costs is there in each round; what other programs cost is not.
    rounds: list[tuple[float, float]] = []
    while not any(p50 <= 1.2 and p99 <= 1.5 for p50, p99 in rounds):
        assert len(rounds) < ROUNDS, rounds
        rounds.append(await slowed_down_by_dawdlers(port))


async def slowed_down_by_dawdlers(port: int) -> tuple[float, float]:
    """p50 and p99 of the TTFT beside them, of what they are without them."""
    alone_s = await ttfts_s(port) + await ttfts_s(port)
    slow = [asyncio.create_task(dawdle(port)) for _ in range(LORISES)]
    await asyncio.sleep(0.2)
    beside_s = await ttfts_s(port) + await ttfts_s(port)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    p50 = statistics.median(beside_s) / statistics.median(alone_s)
    return p50, sorted(beside_s)[-4] / sorted(alone_s)[-4]
