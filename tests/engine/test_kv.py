"""A KV cache that is much too small for all who come: they wait in the daemon, and none that is in
the engine is thrown out of it again."""

import asyncio
import random
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from harness import Running, serve

from infer_daemon.domain.jobs import EngineName, WindowLimits

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

CONFIG = """
[daemon]
engine_log_level = "error"
[engines.small]
model = "builtin:demo-small"
kv_cache_memory_bytes = 8_388_608
max_num_seqs = 64
vllm = { max_model_len = 512, dtype = "float32", enforce_eager = true }
[models.small]
engines = ["small"]
[tenants.acme]
key_hashes = ["sha256:d4ffc8c0325f7e8e971bb4d7bc9f6a78c97920b5ac57b24380e53b6c7a96bc13"]
"""
REQUESTS = 80
ENGINE = EngineName("small")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scarce() -> AsyncIterator[Running]:
    async for running in serve(CONFIG, engines=1):
        yield running


def preemptions(running: Running) -> float:
    """As vLLM counts them."""
    page = running.daemon.view.metrics().decode()
    found = re.search(r"^vllm:num_preemptions_total{.*} (\S+)$", page, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def overload(running: Running, seed: int) -> None:
    """Many more at once than fit, of any length; all are answered in full."""
    chance = random.Random(seed)

    async def one(http: httpx.AsyncClient) -> None:
        tokens = chance.randint(20, 300)
        prompt = " ".join(chance.choices(("queue", "engine", "token", "daemon"), k=30))
        body = {"model": "small", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        answer = await http.post("/v1/completions", json=body)
        assert answer.json()["usage"]["completion_tokens"] == tokens

    async with running.http() as http:
        await asyncio.gather(*(one(http) for _ in range(REQUESTS)))


async def test_with_scarce_kv_nothing_is_preempted_that_the_scheduler_let_in(
    scarce: Running,
) -> None:
    pool = scarce.daemon.pools["small"]
    kv_tokens = pool.facts[ENGINE].kv_tokens
    assert kv_tokens is not None
    assert kv_tokens < REQUESTS * 100  # it is scarce

    await overload(scarce, seed=1)  # lengths are not known yet
    await overload(scarce, seed=2)  # and now they are
    assert preemptions(scarce) == 0

    # The same without the scheduler's count: the engine takes what it cannot hold.
    scarce.daemon.schedulers["small"].resize(ENGINE, WindowLimits(seqs=64))
    await overload(scarce, seed=3)
    assert preemptions(scarce) > 0
