"""Real vLLM engines on the CPU, started once for the whole run.

One daemon in the test's own process, on the demo's configuration plus an adapter that cannot be
loaded. Tests share its event loop, so they can look inside; clients come over real sockets.
"""

import gc
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anthropic
import httpx
import openai
import pytest
import pytest_asyncio
from harness import KEY, ROOT, Running, serve


@pytest.fixture(scope="session")
def broken_adapter() -> Iterator[Path]:
    """An adapter whose configuration is fine and whose weights are not."""
    folder = Path(tempfile.mkdtemp(prefix="broken"))
    good = ROOT / "infer_daemon/demo/models/demo-brief"
    shutil.copy(good / "adapter_config.json", folder)
    (folder / "adapter_model.safetensors").write_bytes(b"not a tensor in sight")
    yield folder
    shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def vllm_daemon(broken_adapter: Path) -> AsyncIterator[Running]:
    text = (ROOT / "config/demo.toml").read_text()
    text += f'\n[models.demo-broken]\nengines = ["demo"]\nlora = "{broken_adapter}"\n'
    async for running in serve(text, engines=3):
        yield running


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sim_daemon() -> AsyncIterator[Running]:
    async for running in serve((ROOT / "config/sim.toml").read_text(), engines=2):
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def client(vllm_daemon: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"{vllm_daemon.url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=KEY, max_retries=0) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def unix_client(vllm_daemon: Running) -> AsyncIterator[openai.AsyncOpenAI]:
    transport = httpx.AsyncHTTPTransport(uds=str(vllm_daemon.socket))
    async with openai.AsyncOpenAI(
        base_url="http://localhost/v1",
        api_key=KEY,
        max_retries=0,
        http_client=httpx.AsyncClient(transport=transport),
    ) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def claude(vllm_daemon: Running) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=vllm_daemon.url, api_key=KEY, max_retries=0
    ) as opened:
        yield opened


@pytest.fixture
def what_is_left_is_collected_here() -> Iterator[None]:
    """And not in a later test, which would be blamed for its warnings."""
    yield
    gc.collect()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no request is open and no job holds a place."""
    yield
    for name in ("vllm_daemon", "sim_daemon"):
        if name in request.fixturenames:
            daemon = request.getfixturevalue(name).daemon
            assert daemon.path.in_flight == 0
            for scheduler in daemon.schedulers.values():
                scheduler.check()
                assert scheduler.running == 0
