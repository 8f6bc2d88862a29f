"""Far more is asked than can be done: what is answered in time, and how soon the rest is told."""

import asyncio
import random
from collections import Counter
from contextlib import aclosing

import pytest

from infer_daemon.domain.errors import DaemonError, WaitedTooLong
from tests.conftest import MakeSettings
from tests.inside import Inside

pytestmark = pytest.mark.looptime(noop_cycles=5)

SEQS, STEP_S, TOKENS_MEAN = 16, 0.05, 20
TTFT_MAX_S = 1.0
SECONDS = 60
LONG = "hello " * 64
ENGINE = f"""
[engines.a]
kind = "sim"
model = "echo"
max_num_seqs = {SEQS}
sim = {{ step_ms = {STEP_S * 1e3} }}
[models.echo]
engines = ["a"]
"""
SMALL_STEPS = ENGINE.replace(
    "[models.echo]",
    """window = { prefill_tokens = 144 }
[scheduling]
kept_for_newcomers = 0.3
[models.echo]""",
)
"""Of a window that keeps much, and takes in few long prompts at a time."""


class Crowd:
    """Clients of one tenant."""

    def __init__(self, inside: Inside, *, prompt: str, spread: int, seed: int) -> None:
        """Args: spread: answers have `TOKENS_MEAN` plus or minus so many tokens."""
        self._inside = inside
        self._prompt = prompt
        self._spread = spread
        self._chance = random.Random(seed)
        self.endings: Counter[str] = Counter()
        self.refused_after_s: list[float] = []

    async def capacity_per_s(self, seconds: float) -> float:
        """Answers a second to as many clients as there are places, each of which waits for its."""

        async def client() -> None:
            while True:
                await self.ask(deadline_s=SECONDS)

        clients = [asyncio.create_task(client(), name="client") for _ in range(SEQS)]
        await asyncio.sleep(seconds)
        for task in clients:
            task.cancel()
        await asyncio.wait(clients)
        answered = self.endings.total()
        self.endings.clear()
        return answered / seconds

    async def come(self, per_s: float, seconds: float) -> None:
        """Poisson arrivals, whatever becomes of them; until all have their answer."""
        until_s = asyncio.get_running_loop().time() + seconds
        async with asyncio.TaskGroup() as group:
            while asyncio.get_running_loop().time() < until_s:
                await asyncio.sleep(self._chance.expovariate(per_s))
                group.create_task(self.ask(), name="request")

    async def ask(self, deadline_s: float = TTFT_MAX_S) -> None:
        """One request."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        tokens = TOKENS_MEAN + self._chance.randint(-self._spread, self._spread)
        try:
            stream = await self._inside.stream(
                prompt=self._prompt,
                max_tokens=tokens,
                ignore_eos=True,
                head={"deadline_ms": f"{deadline_s * 1e3:.0f}"},
            )
            async with aclosing(stream):
                await anext(stream)
                ttft_s = loop.time() - begun_s
                async for _ in stream:
                    pass
            self.endings["good" if ttft_s <= TTFT_MAX_S + STEP_S else "late"] += 1
        except DaemonError as error:
            late_or_early = "evicted" if isinstance(error, WaitedTooLong) else "refused"
            self.endings[late_or_early if error.retry_after_s else "no Retry-After"] += 1
            self.refused_after_s.append(loop.time() - begun_s)


@pytest.mark.parametrize(
    ("engine", "prompt"),
    [
        pytest.param(ENGINE, "hello", id="short prompts"),
        pytest.param(SMALL_STEPS, LONG, id="long prompts"),
    ],
)
@pytest.mark.parametrize("spread", [0, 15], ids=["equal answers", "unequal answers"])
@pytest.mark.parametrize("multiple", [1.5, 3, 10])
async def test_ten_times_the_traffic_costs_nobody_an_answer_that_there_was_time_for(
    settings_of: MakeSettings, multiple: float, spread: int, engine: str, prompt: str
) -> None:
    async with Inside(settings_of(engine)).running() as inside:
        crowd = Crowd(inside, prompt=prompt, spread=spread, seed=int(10 * multiple) + spread)
        capacity_per_s = await crowd.capacity_per_s(SECONDS)
        await crowd.come(multiple * capacity_per_s, SECONDS)

    assert crowd.endings["good"] >= 0.9 * capacity_per_s * SECONDS
    assert crowd.endings["late"] <= 0.03 * crowd.endings["good"]
    assert crowd.endings["no Retry-After"] == 0
    assert crowd.endings["refused"] > 0.8 * (multiple - 1) * capacity_per_s * SECONDS
    refused_after_s = sorted(crowd.refused_after_s)
    assert refused_after_s[int(0.99 * len(refused_after_s))] <= 0.05
