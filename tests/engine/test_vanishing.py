"""Clients that vanish, on a real engine."""

import asyncio
import random

import pytest
from harness import KEY, Running

from infer_daemon.chaos.vanishing import vanish

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

SEED = 20_261_121
VANISHING, AT_ONCE = 200, 40


async def test_clients_that_vanish_leave_nothing_in_the_engine_within_a_second(
    vllm_daemon: Running,
) -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    daemon = vllm_daemon.daemon
    for _ in range(VANISHING // AT_ONCE):
        await asyncio.gather(*(vanish(daemon.doors.port, rng, "demo", KEY) for _ in range(AT_ONCE)))

    queue = daemon.schedulers["demo"]
    engine = daemon.fleet.supervisors["demo"].engine  # type: ignore[index]
    llm = engine._llm  # type: ignore[attr-defined]
    async with asyncio.timeout(10.0):
        while (
            daemon.path.in_flight
            or queue.running
            or queue.waiting
            or llm.get_num_unfinished_requests()
        ):
            await asyncio.sleep(0.01)
    async with vllm_daemon.http() as http:
        answer = await http.post(
            "/v1/completions", json={"model": "demo", "prompt": "The", "max_tokens": 1}
        )
    assert answer.status_code == 200
    # The engine says so itself after its next step.
    assert engine.stats.running == 0
