"""Budgets under crowds, through everything but the sockets, on virtual time: overshot by one
request at most, and nobody refused for whom there is room."""

import asyncio
import random
from collections import Counter

import pytest

from infer_daemon.domain.errors import DaemonError
from infer_daemon.ledger.budgets import Standing
from infer_daemon.ledger.periods import DAY_US, SECOND_US
from tests.conftest import MakeSettings
from tests.inside import Inside

pytestmark = pytest.mark.looptime(noop_cycles=5)

ENGINE = """
[scheduling]
kept_for_critical = 0
kept_for_newcomers = 0
[engines.a]
kind = "sim"
model = "echo"
max_num_seqs = 8
sim = { step_ms = 10 }
[models.echo]
engines = ["a"]
price = { input_usd = 2, cached_input_usd = 1, output_usd = 10 }
"""
TOKENS = 20
"""Of a prompt, and of its answer: 40 for 240,000 nano-dollars."""
TOGETHER = ["day_tokens = 4000", "month_tokens = 4000", "day_usd = 0.024", "month_usd = '0.024'"]
"""For a hundred."""
OK, REFUSED = "ok", "insufficient_quota"


def with_budget(settings_of: MakeSettings, budget: str) -> Inside:
    """The daemon with a hard budget for acme."""
    return Inside(settings_of(f"[tenants.acme.budget.hard]\n{budget}\n{ENGINE}"))


async def outcome(inside: Inside, **fields: object) -> str:
    """How one request ends: "ok" or the code of its refusal."""
    options = {"prompt": "w " * TOKENS, "max_tokens": TOKENS, "ignore_eos": True, **fields}
    try:
        await inside.whole(**options)
    except DaemonError as error:
        return error.code
    return OK


def standing(inside: Inside) -> Standing:
    """Where acme stands with its one budget."""
    ((_, found),) = inside.allowances.standings()
    return found


@pytest.mark.parametrize("budget", TOGETHER)
async def test_of_200_that_come_at_once_exactly_100_are_let_in(
    settings_of: MakeSettings, budget: str
) -> None:
    async with with_budget(settings_of, budget).running() as inside:
        endings = Counter(await asyncio.gather(*(outcome(inside) for _ in range(200))))

        assert endings == {OK: 100, REFUSED: 100}
        assert standing(inside).used == standing(inside).limit


async def test_all_of_those_are_let_in_who_fit(settings_of: MakeSettings) -> None:
    async with with_budget(settings_of, "day_tokens = 4000").running() as inside:
        assert await asyncio.gather(*(outcome(inside) for _ in range(100))) == [OK] * 100


async def test_the_last_one_may_need_more_than_is_left_and_no_other(
    settings_of: MakeSettings,
) -> None:
    async with with_budget(settings_of, "day_tokens = 3999").running() as inside:
        endings = Counter(await asyncio.gather(*(outcome(inside) for _ in range(200))))

        assert endings == {OK: 100, REFUSED: 100}
        assert standing(inside).used == 4000


async def test_answers_that_end_early_make_room_for_others(settings_of: MakeSettings) -> None:
    async with with_budget(settings_of, "day_tokens = 600").running() as inside:
        # Each may use 503 tokens and ends after 6.
        short = {"prompt": "a b c", "max_tokens": 500, "ignore_eos": False}
        endings = [await outcome(inside, **short) for _ in range(100)]

        assert endings == [OK] * 100
        assert standing(inside).used == 600


@pytest.mark.parametrize("seed", range(5))
async def test_a_crowd_of_all_sizes_overshoots_by_one_request_at_most(
    settings_of: MakeSettings, seed: int
) -> None:
    chance = random.Random(seed)
    largest = 0

    async def come(inside: Inside) -> str:
        nonlocal largest
        await asyncio.sleep(chance.uniform(0, 2))
        prompt, output, n = chance.randint(1, 40), chance.randint(1, 40), chance.choice([1, 1, 3])
        largest = max(largest, prompt + n * output)
        task = asyncio.create_task(
            outcome(
                inside,
                prompt="w " * prompt,
                max_tokens=output,
                n=n,
                ignore_eos=chance.random() < 0.5,
            )
        )
        if chance.random() < 0.1:
            await asyncio.sleep(chance.uniform(0, 0.5))
            task.cancel()
        done, _ = await asyncio.wait([task])
        now = standing(inside)
        assert now.used + now.reserved < 4000 + largest
        return "cancelled" if task.cancelled() else done.pop().result()

    async with with_budget(settings_of, "day_tokens = 4000").running() as inside:
        endings = Counter(await asyncio.gather(*(come(inside) for _ in range(300))))

        assert endings.keys() == {OK, REFUSED, "cancelled"}, f"seed {seed}"
        is_left = standing(inside).used < 4000
        assert await outcome(inside) == (OK if is_left else REFUSED)


async def test_one_tenants_budget_is_no_others(settings_of: MakeSettings) -> None:
    async with with_budget(settings_of, "day_tokens = 1").running() as inside:
        assert [await outcome(inside) for _ in range(2)] == [OK, REFUSED]
        assert await outcome(inside, key="sk-globex") == OK


async def test_embeddings_are_charged_for_their_input(settings_of: MakeSettings) -> None:
    async with with_budget(settings_of, "day_tokens = 10").running() as inside:
        for _ in range(2):
            await inside.whole(endpoint="embeddings", input=["a b", "c d e"])

        assert standing(inside).used == 10
        with pytest.raises(DaemonError, match="used up"):
            await inside.whole(endpoint="embeddings", input="a")


async def test_whoever_is_refused_or_gives_up_before_its_turn_costs_nothing(
    settings_of: MakeSettings,
) -> None:
    async with with_budget(settings_of, "day_tokens = 100_000").running() as inside:
        streams = [
            await inside.stream(prompt="a", max_tokens=100, ignore_eos=True) for _ in range(8)
        ]
        assert await outcome(inside, n=999) == "fanout_too_large"
        assert await outcome(inside, prompt="w " * 9000) == "context_length_exceeded"
        waiting = asyncio.create_task(outcome(inside))
        await asyncio.sleep(0.1)
        assert standing(inside).reserved == 8 * 101 + 40
        waiting.cancel()
        await asyncio.wait([waiting])

        assert (standing(inside).used, standing(inside).reserved) == (0, 8 * 101)
        for stream in streams:
            await stream.aclose()
        assert standing(inside).reserved == 0


async def test_a_stream_that_is_left_is_charged_for_what_was_generated(
    settings_of: MakeSettings,
) -> None:
    async with with_budget(settings_of, "day_tokens = 100_000").running() as inside:
        stream = await inside.stream(prompt="a", max_tokens=1000, ignore_eos=True)
        for _ in range(5):
            await anext(stream)
        await stream.aclose()

        assert 1 + 5 <= standing(inside).used <= 1 + 7


async def test_at_midnight_the_budget_starts_anew_and_who_is_running_counts_for_the_new_day(
    settings_of: MakeSettings,
) -> None:
    loop = asyncio.get_running_loop()
    async with with_budget(settings_of, "day_tokens = 150").running() as inside:
        inside.started_at_us = 20_001 * DAY_US - SECOND_US - round(loop.time() * 1e6)
        assert await outcome(inside, max_tokens=30) == OK
        running = asyncio.create_task(outcome(inside, prompt="a", max_tokens=100))
        await asyncio.sleep(0.1)
        assert await outcome(inside) == REFUSED
        await asyncio.sleep(0.7)  # it is midnight
        assert standing(inside).used == 0
        assert standing(inside).reserved == 101

        assert await running == OK
        assert standing(inside).used == 101
        assert standing(inside).start_at_us == 20_001 * DAY_US
