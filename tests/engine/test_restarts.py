"""Real engines that die, lose their worker or hang: they are started again, and answer."""

import asyncio
import gc
import os
import signal
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def what_is_left_is_collected_here() -> Iterator[None]:
    """And not in a later test, which would be blamed for its warnings."""
    yield
    gc.collect()


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
        body = {"model": "small", "prompt": "The", "max_tokens": 2000, "ignore_eos": True}
        return await http.post("/v1/completions", json=body)


async def is_working(running: Running) -> None:
    """Wait until the engine is in the middle of a request."""
    async with asyncio.timeout(10):
        while not running.engine("small")["in_flight"]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("fault", ["core killed", "worker killed", "core hangs"])
async def test_an_engine_that_is_lost_is_started_again_and_answers_as_before(fault: str) -> None:
    before = set(family.processes())
    async for running in serve(CONFIG, engines=1):
        answered = await answer(running)
        pids = family.engines(before)
        core: Any = running.engine("small")["pid"]
        victim = core
        if fault == "worker killed":
            (victim,) = (child.pid for child in psutil.Process(core).children())
        lost = asyncio.create_task(long_request(running))
        await is_working(running)
        os.kill(victim, signal.SIGSTOP if fault == "core hangs" else signal.SIGKILL)
        told_s = STALL_TIMEOUT_S + 1 if fault == "core hangs" else 1
        ending = await until_state(running, "stopping", "dead", timeout_s=told_s)
        again = await until_state(running, "ready", timeout_s=120)
        await lost

        assert ("no step for" if fault == "core hangs" else "exited") in ending["reason"]
        assert await family.all_gone(pids)
        assert again["pid"] not in pids
        assert (again["restarts"], again["last_end"]) == (1, ending["reason"])
        assert await answer(running) == answered
        assert b'infer_engine_restarts_total{engine="small",model="small"} 1.0' in (
            running.daemon.view.metrics()
        )
