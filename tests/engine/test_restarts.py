"""Real engines that die, lose their worker or hang: they are started again, and answer."""

import asyncio
import os
import signal
from typing import Any

import family
import httpx
import psutil
import pytest
from harness import Running, serve

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="session"),
    # What vLLM leaves open when an engine of it is killed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("what_is_left_is_collected_here"),
]

STALL_TIMEOUT_S = 4.0
CONFIG = f"""
[engines.small]
model = "builtin:demo-small"
kv_cache_memory_bytes = 67_108_864
max_num_seqs = 8
stall_timeout_s = {STALL_TIMEOUT_S}
vllm = {{ max_model_len = 2048, dtype = "float32", enforce_eager = true }}

[models.small]
engines = ["small"]

[tenants.acme]
key_hashes = ["sha256:d4ffc8c0325f7e8e971bb4d7bc9f6a78c97920b5ac57b24380e53b6c7a96bc13"]
"""


async def answer(running: Running) -> str:
    async with running.http() as http:
        body = {"model": "small", "prompt": "The daemon", "max_tokens": 8, "temperature": 0}
        response = await http.post("/v1/completions", json=body)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


async def until_state(running: Running, *states: str, timeout_s: float) -> dict[str, Any]:
    """The engine, once it is in one of these."""
    async with asyncio.timeout(timeout_s):
        while (engine := running.engine("small"))["state"] not in states:
            await asyncio.sleep(0.01)
    return engine


async def long_request(running: Running) -> httpx.Response:
    async with running.http() as http:
        body = {"model": "small", "prompt": "The", "max_tokens": 600, "ignore_eos": True}
        return await http.post("/v1/completions", json=body)


async def is_working(running: Running) -> None:
    """Wait until the engine is in the middle of a request."""
    async with asyncio.timeout(10):
        while not running.engine("small")["in_flight"]:
            await asyncio.sleep(0.01)


def core_and_worker(running: Running) -> tuple[int, int]:
    """Ids of the engine's processes."""
    core: Any = running.engine("small")["pid"]
    (worker,) = psutil.Process(core).children()
    return core, worker.pid


async def lose(running: Running, victim: int, fault: signal.Signals) -> str:
    """Do this to a process while it works, and see the engine end and come back; says why."""
    before = running.engine("small")
    pids = set(core_and_worker(running))
    lost = asyncio.create_task(long_request(running))
    await is_working(running)
    os.kill(victim, fault)
    ending = await until_state(running, "stopping", "dead", timeout_s=30)
    again = await until_state(running, "ready", timeout_s=300)
    await lost

    assert await family.all_gone(pids)
    assert again["pid"] not in pids
    assert again["last_end"] == ending["reason"]
    assert again["restarts"] == before["restarts"] + 1
    return str(ending["reason"])


async def test_an_engine_that_is_lost_is_started_again_and_answers_as_before() -> None:
    before = set(family.processes())
    async for running in serve(CONFIG, engines=1):
        answered = await answer(running)

        core, worker = core_and_worker(running)
        reason = await lose(running, core, signal.SIGKILL)
        # Its worker goes with it, and on a busy machine may be seen to have gone first.
        assert f"(pid {core}) exited" in reason or f"(pid {worker}) exited" in reason
        assert await answer(running) == answered

        core, worker = core_and_worker(running)
        reason = await lose(running, worker, signal.SIGKILL)
        assert f"(pid {core}) exited" in reason or f"(pid {worker}) exited" in reason
        assert await answer(running) == answered

        core, _ = core_and_worker(running)
        reason = await lose(running, core, signal.SIGSTOP)
        assert reason.startswith("no step for ")
        assert await answer(running) == answered

        assert len(family.engines(before)) == 2
        assert b'infer_engine_restarts_total{engine="small",model="small"} 3.0' in (
            running.daemon.view.metrics()
        )
