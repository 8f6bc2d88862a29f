"""Two replicas, of which one is killed under its answers: all read what they would have read."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from harness import Running, serve
from test_continuation import ask, read

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="module"),
    # What vLLM leaves open when an engine of it is killed.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.usefixtures("what_is_left_is_collected_here"),
]

ENGINE = """
[engines.{name}]
model = "builtin:demo"
kv_cache_memory_bytes = 67_108_864
max_num_seqs = 32

[engines.{name}.vllm]
max_model_len = 2048
dtype = "float32"
max_num_batched_tokens = 512
enforce_eager = true
"""
CONFIG = (
    '[daemon]\nengine_log_level = "error"\n'
    + ENGINE.format(name="a")
    + ENGINE.format(name="b")
    + """
[models.demo]
engines = ["a", "b"]

[tenants.acme]
key_hashes = ["sha256:d4ffc8c0325f7e8e971bb4d7bc9f6a78c97920b5ac57b24380e53b6c7a96bc13"]
"""
)
QUESTIONS = [f"What does a {status} mean?" for status in (200, 400, 401, 404, 429, 500, 503, 504)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas() -> AsyncIterator[Running]:
    async for running in serve(CONFIG, engines=2):
        yield running


async def test_an_engine_that_is_killed_costs_no_answer(replicas: Running) -> None:
    """Streams and whole answers at once."""

    async def whole(question: str) -> str:
        body = {"model": "demo", "temperature": 0, "max_tokens": 300, "ignore_eos": True}
        async with replicas.http() as http:
            response = await http.post("/v1/chat/completions", json=body | ask(question))
        assert response.status_code == 200, response.text
        text: str = response.json()["choices"][0]["message"]["content"]
        return text

    async def stream(question: str) -> str:
        answer = await read(replicas, **ask(question), max_tokens=300, ignore_eos=True)
        assert answer.error is None
        assert answer.usage["completion_tokens"] == 300
        return answer.texts[0]

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*map(stream, QUESTIONS), *map(whole, QUESTIONS[:4]))

    undisturbed = await all_of_them()
    pid = replicas.engine("a")["pid"]
    assert isinstance(pid, int)
    answering = asyncio.create_task(all_of_them())
    await asyncio.sleep(0.4)
    os.kill(pid, signal.SIGKILL)

    assert await answering == undisturbed
    for scheduler in replicas.daemon.schedulers.values():
        scheduler.check()
        assert scheduler.running == 0
