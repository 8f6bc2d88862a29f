"""Engines that die, do not start, or are told to stop while they start: what is left of them."""

import asyncio
import gc
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import family
import httpx
import pytest
from harness import ROOT, Running, serve

from infer_daemon.daemon import Daemon
from infer_daemon.settings import schema
from infer_daemon.settings.load import parse
from infer_daemon.settings.state_folder import StateFolder

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.asyncio(loop_scope="session"),
    # What vLLM leaves open when a start of it is cut short.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SMALL = ROOT / "infer_daemon/demo/models/demo-small"
TENANT = (
    "[tenants.acme]\n"
    'key_hashes = ["sha256:d4ffc8c0325f7e8e971bb4d7bc9f6a78c97920b5ac57b24380e53b6c7a96bc13"]\n'
)
SIM = '[engines.echo]\nkind = "sim"\nmodel = "echo"\n[models.echo]\nengines = ["echo"]\n'


def real(model: str) -> str:
    """A configuration of one small engine."""
    return f"""
[engines.small]
model = "{model}"
kv_cache_memory_bytes = 67_108_864
max_num_seqs = 8
vllm = {{ max_model_len = 2048, dtype = "float32", enforce_eager = true }}
# Started once; others see how they are started again.
restart = {{ deaths_max = 0 }}

[models.small]
engines = ["small"]

{TENANT}"""


@pytest.fixture(autouse=True)
def what_is_left_is_collected_here() -> Iterator[None]:
    """And not in a later test, which would be blamed for its warnings."""
    yield
    gc.collect()


@pytest.fixture
def unreadable_model() -> Iterator[Path]:
    """A model whose configuration is fine and whose weights are not."""
    folder = Path(tempfile.mkdtemp(prefix="unreadable"))
    shutil.copytree(SMALL, folder, dirs_exist_ok=True)
    (folder / "model.safetensors").write_bytes(b"not a tensor in sight")
    yield folder
    shutil.rmtree(folder)


async def ask(running: Running, model: str, **fields: Any) -> httpx.Response:
    async with running.http() as http:
        body = {"model": model, "prompt": "The daemon", "max_tokens": 4, **fields}
        return await http.post("/v1/completions", json=body)


async def test_an_engine_that_is_killed_is_told_to_everybody_and_leaves_no_process() -> None:
    before = set(family.processes())
    async for running in serve(real("builtin:demo-small") + SIM, engines=2):
        pid: Any = running.engine("small")["pid"]
        pids = family.engines(before)
        async with running.http() as http:
            body = {"model": "small", "prompt": "The", "max_tokens": 2000, "ignore_eos": True}
            async with http.stream("POST", "/v1/completions", json={**body, "stream": True}) as one:
                lines = one.aiter_lines()
                await anext(lines)
                os.kill(pid, signal.SIGKILL)
                rest = [line async for line in lines if line]

        assert await family.all_gone(pids)
        (told,) = (line for line in rest if '"error"' in line)
        error = json.loads(told.removeprefix("data: "))["error"]
        assert "The engine died" in error["message"]
        async with asyncio.timeout(30):  # its processes are gone before vLLM has tidied up
            while running.engine("small")["state"] != "failed":
                await asyncio.sleep(0.05)
        engine = running.engine("small")
        # Its worker goes with it, and on a busy machine may be seen to have gone first.
        assert any(f"(pid {one}) exited" in str(engine["reason"]) for one in pids)
        refused = await ask(running, "small")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_not_ready"
        assert (await ask(running, "echo")).status_code == 200
        assert running.daemon.path.in_flight == 0


async def test_an_engine_that_cannot_load_fails_alone_and_says_why(unreadable_model: Path) -> None:
    before = set(family.processes())
    async for running in serve(real(str(unreadable_model)) + SIM, engines=2):
        engine = running.engine("small")
        ready, _ = running.daemon.view.readiness()
        refused = await ask(running, "small")
        other = await ask(running, "echo")

        assert (engine["state"], ready) == ("failed", True)
        assert refused.status_code == 503
        assert "engine small is failed: " in refused.json()["error"]["message"]
        assert other.status_code == 200
        assert family.engines(before) == set()


async def test_an_engine_that_lacks_memory_says_how_much_in_the_words_of_its_processes() -> None:
    text = real("builtin:demo-small").replace("67_108_864", "4_000_000_000_000")
    async for running in serve(text.replace("deaths_max = 0", "starts_max = 1"), engines=1):
        reason = str(running.engine("small")["reason"])

        assert running.engine("small")["state"] == "failed"
        assert "memory" in reason.partition(" (a start needs about 4001")[0]
        assert "GB were free); given up: could not be started once" in reason


async def test_a_model_that_is_not_there_fails_alone(tmp_path: Path) -> None:
    async for running in serve(real("builtin:nobody") + SIM, engines=2):
        assert running.engine("small")["state"] == "failed"
        assert "names no model" in str(running.engine("small")["reason"])
        assert (await ask(running, "echo")).status_code == 200


async def test_stopped_while_an_engine_loads_the_daemon_ends_at_once_and_alone() -> None:
    before = set(family.processes())
    state_dir = Path(tempfile.mkdtemp(prefix="idt"))
    settings = schema.replace_listen(
        parse(real("builtin:demo-small"), source="test"), host=None, port=0
    )
    folder = StateFolder.of(schema.replace_state_dir(settings, str(state_dir)))
    with folder.locked():
        daemon = Daemon(settings, folder)
        task = asyncio.create_task(daemon.run())
        async with asyncio.timeout(60):
            while len(pids := family.engines(before)) < 2:  # a core and its worker
                await asyncio.sleep(0.05)
        daemon.stop()
        async with asyncio.timeout(10):
            await task

    assert await family.all_gone(pids, timeout_s=2)
    shutil.rmtree(state_dir)
