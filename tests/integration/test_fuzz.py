"""Whatever comes through the door, the daemon answers and is afterwards what it was before.

A few hundred inputs, the same ones each time; `scripts/fuzz N` tries as many others as it is told.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import structlog

from infer_daemon.bench.wire import Address
from infer_daemon.settings.state_folder import StateFolder
from tests.conftest import KEYS, MakeSettings
from tests.fuzzing.bodies import GETS, OPERATORS, gets, good_bodies, posts
from tests.fuzzing.driver import Complaints, Victim, fuzz
from tests.fuzzing.sockets import raws
from tests.integration.running import Running

COUNT = int(os.environ.get("FUZZ_COUNT", "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
CONFIG = """
[listen]
port = 0
body_bytes_max = 65536
[engines.a]
kind = "sim"
model = "echo"
sim = { step_ms = 0, max_model_len = 128 }
[engines.b]
kind = "sim"
model = "echo"
max_num_seqs = 4
sim = { step_ms = 0, max_model_len = 64 }
[models.echo]
engines = ["a"]
price = { input_usd = 1, output_usd = 2 }
[models.other]
engines = ["b"]
[tenants.globex.limits]
max_output_tokens = 2
over_max_output = "clamp"
max_prompt_tokens = 8
too_long_chat = "drop_oldest_turns"
too_long_text = "keep_tail"
output_tokens_per_minute = 1_000_000
[tenants.globex.budget.hard]
day_usd = 1000
"""
GOOD = good_bodies("echo", "other")


@pytest.fixture
async def victim(settings_of: MakeSettings, folder: StateFolder) -> AsyncGenerator[Victim, None]:
    """A daemon on fast engines; at the end it must be in order and have nothing to complain of."""
    complaints = Complaints()
    structlog.configure(processors=[complaints])
    with folder.locked():
        running = Running(settings_of(CONFIG), folder)
        await running.open(ready=True)
        victim = Victim(
            running.daemon,
            Address("", 0, str(running.socket)),
            Address("", 0, str(folder.admin_socket)),
        )
        try:
            yield victim
            await victim.check()
            answer = await running.post("/v1/completions", {"model": "echo", "prompt": "a b"})
            assert answer.json()["choices"][0]["text"] == "a b"
        finally:
            await running.close()
            structlog.reset_defaults()
    assert complaints.kept == []
    print(f"seed {SEED}: {dict(sorted(victim.seen.items()))}, slowest {victim.slowest_s:.2f} s")


@pytest.mark.parametrize("tenant", KEYS)
async def test_requests_of_all_kinds_are_answered(victim: Victim, tenant: str) -> None:
    await asyncio.to_thread(fuzz, posts(GOOD, KEYS[tenant]), victim.ask, 3 * COUNT // 10, SEED)


async def test_questions_of_all_kinds_are_answered(victim: Victim) -> None:
    key = KEYS["acme"]
    count = COUNT // 20
    await asyncio.to_thread(fuzz, gets(GETS, key), victim.ask, count, SEED)
    await asyncio.to_thread(fuzz, gets(OPERATORS, key), victim.ask_operators, count, SEED)


async def test_what_is_hardly_http_is_survived(victim: Victim) -> None:
    requests: Any = posts(GOOD, KEYS["acme"]) | gets(GETS, KEYS["acme"])
    await asyncio.to_thread(fuzz, raws(requests), victim.send, COUNT // 10, SEED)
