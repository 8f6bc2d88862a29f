"""Inputs that nobody would write, on real engines: answered, and survived."""

import asyncio
import os

import pytest
import structlog
from harness import KEY, Running

from infer_daemon.bench.wire import Address
from tests.fuzzing.bodies import good_bodies, posts
from tests.fuzzing.driver import Complaints, Victim, fuzz

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]

COUNT = int(os.environ.get("FUZZ_ENGINE_COUNT", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))


async def test_requests_of_all_kinds_are_answered_by_real_engines(vllm_daemon: Running) -> None:
    address = Address("", 0, str(vllm_daemon.socket))
    victim = Victim(vllm_daemon.daemon, address, address)
    good = good_bodies("demo-small", "minilm")

    complaints = Complaints()
    structlog.configure(processors=[complaints])
    try:
        await asyncio.to_thread(fuzz, posts(good, KEY), victim.ask, COUNT, SEED)
    finally:
        structlog.reset_defaults()

    print(f"seed {SEED}: {dict(sorted(victim.seen.items()))}, slowest {victim.slowest_s:.2f} s")
    assert complaints.kept == []
    await victim.check()
    async with vllm_daemon.http() as http:
        for model in ("demo-small", "demo"):
            ask = {"model": model, "prompt": "The", "max_tokens": 1}
            assert (await http.post("/v1/completions", json=ask)).status_code == 200
