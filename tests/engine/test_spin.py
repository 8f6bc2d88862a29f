"""Under load, what an engine's processes do while they wait for each other.

vLLM's yields keep the core (`engines/vllm/plugin.py`); how long that starves a neighbour depends on
the kernel's scheduler. What never does is whether a process that waits goes to sleep: the kernel
counts each time that one leaves its core of its own will.
"""

import asyncio
from pathlib import Path

import pytest
from harness import Running, serve

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

STREAMS, TOKENS = 32, 64


def engine(name: str, spin: str) -> str:
    return f"""
[engines.{name}]
model = "builtin:demo-small"
kv_cache_memory_bytes = 67_108_864
max_num_seqs = 64
spin = "{spin}"
vllm = {{ max_model_len = 2048, dtype = "float32", enforce_eager = true }}
[models.{name}]
engines = ["{name}"]
"""


CONFIG = f"""
{engine("napping", "auto")}
{engine("spinning", "vendor")}
[tenants.acme]
key_hashes = ["sha256:d4ffc8c0325f7e8e971bb4d7bc9f6a78c97920b5ac57b24380e53b6c7a96bc13"]
"""


def sleeps(pid: int) -> int:
    """How often the process's main thread has left its core of its own will."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("voluntary_ctxt_switches"))
    return int(line.split()[1])


async def load(running: Running, model: str) -> None:
    """Many streams at the same time, to their ends."""
    body = {"model": model, "prompt": "The", "max_tokens": TOKENS, "ignore_eos": True}

    async def one() -> None:
        async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
            lines = [line async for line in answer.aiter_lines() if line]
        assert lines[-1] == "data: [DONE]"

    async with running.http() as http:
        await asyncio.gather(*(one() for _ in range(STREAMS)))


async def test_an_engine_that_waits_under_load_sleeps_instead_of_spinning() -> None:
    async for running in serve(CONFIG, engines=2):
        count = {}
        for name in ("napping", "spinning"):
            await load(running, name)
            pid = running.engine(name)["pid"]
            assert isinstance(pid, int)
            before = sleeps(pid)
            await load(running, name)
            count[name] = sleeps(pid) - before

        assert count["napping"] > 3 * count["spinning"], count
