"""What is left of a daemon that was killed: nothing, whenever that happens."""

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import family
import httpx
import pytest
from harness import KEY

pytestmark = pytest.mark.vllm

STREAMS, TOKENS = 64, 60
"""Far less than the daemon drains for, also of a slow machine."""
START_S = 180
DRAIN_S = 30

CONFIG = """
[listen]
port = 0
[engines.small]
model = "builtin:demo-small"
kv_cache_memory_bytes = 67_108_864
max_num_seqs = 8
vllm = { max_model_len = 2048, dtype = "float32", enforce_eager = true }
[models.small]
engines = ["small"]
[tenants.acme]
key_hashes = ["sha256:d4ffc8c0325f7e8e971bb4d7bc9f6a78c97920b5ac57b24380e53b6c7a96bc13"]
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short path: sockets live in it."""
    folder = Path(tempfile.mkdtemp(prefix="ido"))
    (folder / "daemon.toml").write_text(CONFIG)
    yield folder
    shutil.rmtree(folder)


async def start(home: Path) -> asyncio.subprocess.Process:
    """The program, as a service manager would start it."""
    with (home / "log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "infer_daemon", "serve",
            "--config", str(home / "daemon.toml"), "--state-dir", str(home / "s"),
            stdout=log, stderr=log,
        )  # fmt: skip


async def ready(home: Path) -> None:
    transport = httpx.AsyncHTTPTransport(uds=str(home / "s" / "api.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://daemon") as http:
        async with asyncio.timeout(START_S):
            while True:
                try:
                    if (await http.get("/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.2)


async def answers(home: Path) -> int:
    transport = httpx.AsyncHTTPTransport(uds=str(home / "s" / "api.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://daemon") as http:
        body = {"model": "small", "prompt": "The", "max_tokens": 2}
        headers = {"Authorization": f"Bearer {KEY}"}
        return (await http.post("/v1/completions", json=body, headers=headers)).status_code


async def stream(home: Path) -> str:
    """The last line of a stream."""
    transport = httpx.AsyncHTTPTransport(uds=str(home / "s" / "api.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://daemon", timeout=60) as http:
        body = {"model": "small", "prompt": "The", "max_tokens": TOKENS, "ignore_eos": True}
        headers = {"Authorization": f"Bearer {KEY}"}
        async with http.stream(
            "POST", "/v1/completions", json={**body, "stream": True}, headers=headers
        ) as answer:
            return [line async for line in answer.aiter_lines() if line][-1]


async def in_flight(home: Path) -> int:
    transport = httpx.AsyncHTTPTransport(uds=str(home / "s" / "admin.sock"))
    async with httpx.AsyncClient(transport=transport, base_url="http://daemon") as http:
        found: int = (await http.get("/state")).json()["requests_in_flight"]
        return found


def shared_memory(pids: Iterable[int]) -> set[str]:
    """Names of what these processes share."""
    found: set[str] = set()
    for pid in pids:
        maps = Path(f"/proc/{pid}/maps").read_text()
        found.update(re.findall(r" /dev/shm/(\S+)$", maps, re.MULTILINE))
    return found


async def test_killed_before_its_engine_has_a_worker_the_daemon_leaves_nothing(home: Path) -> None:
    daemon = await start(home)
    async with asyncio.timeout(START_S):
        while not (pids := family.engines(root=daemon.pid)):
            await asyncio.sleep(0.05)
    # It imports vLLM now, or waits for a daemon to shake hands with: both take seconds.
    daemon.kill()
    await daemon.wait()
    assert await family.all_gone(pids, timeout_s=10)


async def test_killed_while_it_loads_and_while_it_serves_the_daemon_leaves_nothing(
    home: Path,
) -> None:
    daemon = await start(home)
    async with asyncio.timeout(START_S):
        while len(pids := family.engines(root=daemon.pid)) < 2:  # a core and its worker
            await asyncio.sleep(0.05)
    daemon.kill()
    await daemon.wait()
    assert await family.all_gone(pids, timeout_s=10), "orphans of a start"

    daemon = await start(home)
    await ready(home)
    assert await answers(home) == 200
    pids = family.engines(root=daemon.pid)
    shared = shared_memory(pids)
    assert shared
    daemon.kill()
    await daemon.wait()
    assert await family.all_gone(pids, timeout_s=10), "orphans of a running daemon"
    async with asyncio.timeout(10):  # Python's own helper unlinks what the dead have left
        while shared & set(os.listdir("/dev/shm")):
            await asyncio.sleep(0.05)

    daemon = await start(home)
    await ready(home)
    streams = [asyncio.create_task(stream(home)) for _ in range(STREAMS)]
    while await in_flight(home) < STREAMS:
        await asyncio.sleep(0.02)
    pids = family.engines(root=daemon.pid)
    shared = shared_memory(pids)
    daemon.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(daemon.wait(), DRAIN_S + 15) == 0
    assert await family.all_gone(pids, timeout_s=0.1), "left by an orderly end"
    assert [await last for last in streams] == ["data: [DONE]"] * STREAMS
    left = sorted(file.name for file in (home / "s").iterdir())
    assert left == ["daemon.lock", "ledger.sqlite3"]
    assert not shared & set(os.listdir("/dev/shm"))
    assert "leaked" not in (home / "log").read_text()
