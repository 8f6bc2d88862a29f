"""Limits under crowds, through everything but the sockets, on virtual time: never too many, nobody
refused without need, and `Retry-After` can be trusted."""

import asyncio
import itertools
from collections import Counter

import pytest

from infer_daemon.domain.errors import (
    DaemonError,
    LimitReached,
    PromptTooLong,
    QueueFull,
    RateLimited,
    TooManyInFlight,
    TooManyQueued,
    WouldWaitTooLong,
)
from infer_daemon.domain.jobs import Tier
from infer_daemon.engines.contract import Reply
from tests.conftest import MakeSettings
from tests.inside import Inside

pytestmark = pytest.mark.looptime(noop_cycles=5)

ENGINE = """
[engines.a]
kind = "sim"
model = "echo"
max_num_seqs = 8
sim = { step_ms = 10 }
[models.echo]
engines = ["a"]
"""
SMALL = ENGINE.replace("step_ms = 10", "step_ms = 10, max_model_len = 100")
"""For 100 tokens."""
TOKENS = 20
"""An answer takes a little over 0.2 s, so the engine ends 40 a second."""


def limited(
    settings_of: MakeSettings, limits: str, *, of: str = "limits", more: str = ""
) -> Inside:
    """The daemon with these limits; one party's, or everybody's."""
    return Inside(settings_of(f"{more}\n[{of}]\n{limits}\n{ENGINE}"))


async def outcome(inside: Inside, **fields: object) -> str:
    """How one request ends: "ok" or the code of its refusal."""
    options = {"prompt": "w " * TOKENS, "max_tokens": TOKENS, "ignore_eos": True, **fields}
    try:
        await inside.whole(**options)
    except DaemonError as error:
        return error.code
    return "ok"


@pytest.mark.parametrize("of", ["limits", "models.echo.limits", "tenants.acme.limits"])
@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ("requests_per_minute = 100", "rate_limit_exceeded"),
        ("max_concurrency = 100", "concurrency_limit_exceeded"),
        ("max_queued = 100", "queue_limit_exceeded"),
        (f"input_tokens_per_minute = {100 * TOKENS}", "rate_limit_exceeded"),
        (f"output_tokens_per_minute = {100 * TOKENS}", "rate_limit_exceeded"),
    ],
)
async def test_of_200_that_come_at_once_exactly_100_are_let_in(
    settings_of: MakeSettings, limits: str, code: str, of: str
) -> None:
    async with limited(settings_of, limits, of=of).running() as inside:
        endings = Counter(await asyncio.gather(*(outcome(inside) for _ in range(200))))

        assert endings == {"ok": 100, code: 100}


async def test_a_request_that_has_ended_stands_in_nobodys_way(settings_of: MakeSettings) -> None:
    async with limited(settings_of, "max_concurrency = 1\nmax_queued = 1").running() as inside:
        assert [await outcome(inside) for _ in range(20)] == ["ok"] * 20


async def test_output_that_was_reserved_and_not_used_is_put_back(
    settings_of: MakeSettings,
) -> None:
    limits = "output_tokens_per_minute = 1000"
    async with limited(settings_of, limits).running() as inside:
        # Each may generate 500 and ends after 3.
        endings = [await outcome(inside, prompt="a b c", max_tokens=500, ignore_eos=False)] * 30

        assert endings == ["ok"] * 30


async def test_a_request_that_one_limit_refuses_uses_up_nothing_of_another(
    settings_of: MakeSettings,
) -> None:
    limits = "input_tokens_per_minute = 100\noutput_tokens_per_minute = 50"
    async with limited(settings_of, limits).running() as inside:
        assert await outcome(inside, prompt="w " * 10, max_tokens=45) == "ok"
        refused = [await outcome(inside, prompt="w " * 30, max_tokens=45) for _ in range(9)]
        assert refused == ["rate_limit_exceeded"] * 9

        assert await outcome(inside, prompt="w " * 80, max_tokens=2) == "ok"


@pytest.mark.parametrize(
    ("impossible", "code"),
    [
        ({"n": 9}, "fanout_too_large"),
        ({"n": 129}, "fanout_too_large"),
        ({"prompt": "w " * 101}, "context_length_exceeded"),
        ({"n": -1}, "invalid_request"),
    ],
    ids=["window", "fanout", "context", "invalid"],
)
async def test_what_can_never_run_uses_up_none_of_the_minutes_requests(
    settings_of: MakeSettings, impossible: dict[str, object], code: str
) -> None:
    limits = "requests_per_minute = 1"
    async with Inside(settings_of(f"[limits]\n{limits}\n{SMALL}")).running() as inside:
        assert [await outcome(inside, **impossible) for _ in range(5)] == [code] * 5
        assert [await outcome(inside) for _ in range(2)] == ["ok", "rate_limit_exceeded"]


async def test_lists_of_prompts_above_a_minutes_tokens_are_answered_once_all_is_left(
    settings_of: MakeSettings,
) -> None:
    limits = "input_tokens_per_minute = 100\noutput_tokens_per_minute = 100"
    async with limited(settings_of, limits).running() as inside:
        prompts = ["w " * 30] * 8
        assert await outcome(inside, prompt=prompts, max_tokens=30) == "ok"
        with pytest.raises(RateLimited) as caught:
            await inside.ask(prompt=prompts, max_tokens=30)
        assert (caught.value.retry_after_s or 0) > 60

        await asyncio.sleep(10 * 60)
        assert await outcome(inside, prompt=prompts, max_tokens=30) == "ok"


async def test_embeddings_are_not_held_to_a_limit_on_output(settings_of: MakeSettings) -> None:
    async with limited(settings_of, "output_tokens_per_minute = 1").running() as inside:
        for _ in range(3):
            body = await inside.whole(endpoint="embeddings", input=["a b", "c"])
            assert len(body["data"]) == 2


async def test_what_a_cancelled_request_has_reserved_is_given_back(
    settings_of: MakeSettings,
) -> None:
    limits = "max_concurrency = 10\nmax_queued = 10\noutput_tokens_per_minute = 5000"
    async with limited(settings_of, limits).running() as inside:
        for _ in range(5):
            tasks = [asyncio.create_task(outcome(inside, max_tokens=500)) for _ in range(10)]
            await asyncio.sleep(0.3)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

        assert await outcome(inside, max_tokens=500) == "ok"


async def test_what_is_used_of_every_limit_is_told_and_nothing_else(
    settings_of: MakeSettings,
) -> None:
    limits = "max_concurrency = 10\nmax_queued = 12\nrequests_per_minute = 60"
    more = "[models.echo.limits]\noutput_tokens_per_minute = 6000"
    async with limited(
        settings_of, limits, of="tenants.acme.limits", more=more
    ).running() as inside:
        loop = asyncio.get_running_loop()
        tasks = [asyncio.create_task(outcome(inside, max_tokens=100)) for _ in range(10)]
        await asyncio.sleep(0.5)
        assert inside.admission.snapshot(loop.time()) == {
            "model echo": {"output_tokens": {"left": 5050, "per_minute": 6000}},
            "tenant acme": {
                "in_flight": {"taken": 10, "limit": 10},
                "waiting": {"taken": inside.schedulers["echo"].waiting, "limit": 12},
                "requests": {"left": 50, "per_minute": 60},
            },
        }
        await asyncio.wait(tasks)

        await asyncio.sleep(60)
        later = inside.admission.snapshot(loop.time())["tenant acme"]
        assert [later["in_flight"]["taken"], later["waiting"]["taken"]] == [0, 0]
        assert later["requests"]["left"] == 60


class Polite:
    """Clients that come again when they were told to, one request after the other."""

    def __init__(self, inside: Inside, retries_by_header: bool) -> None:
        self._inside = inside
        self._retries_by_header = retries_by_header
        self._numbers = itertools.count()
        self.let_in = 0
        self.retried = 0
        self.let_in_at_first_retry = 0

    async def client(self, number: int, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        retries = 0
        while loop.time() < until_s:
            head = {"connection": number}
            if self._retries_by_header:
                head |= {"connection": next(self._numbers), "is_retry": retries > 0}
            try:
                options = {"prompt": "w " * TOKENS, "max_tokens": TOKENS, "ignore_eos": True}
                await self._inside.whole(head=head, **options)
            except (LimitReached, QueueFull) as error:
                self.retried += retries == 1
                retries += 1
                await asyncio.sleep(error.retry_after_s or 0)
            else:
                self.let_in += 1
                self.retried += retries == 1
                self.let_in_at_first_retry += retries == 1
                retries = 0


@pytest.mark.parametrize("by_header", [True, False], ids=["pooled", "own-connections"])
@pytest.mark.parametrize(
    ("limits", "more"),
    [
        ("requests_per_minute = 600", ""),
        (f"output_tokens_per_minute = {600 * TOKENS}", ""),
        ("max_concurrency = 12", ""),
        ("max_queued = 10", ""),
        ("", "[scheduling]\nqueue_len_max = 10\n"),
    ],
    ids=["requests", "tokens", "concurrency", "queued", "queue"],
)
async def test_clients_that_obey_retry_after_are_let_in_at_their_first_retry(
    settings_of: MakeSettings, limits: str, more: str, by_header: bool
) -> None:
    """100 of them want four times as much as the limit allows, for two minutes."""
    async with limited(settings_of, limits, more=more).running() as inside:
        clients = Polite(inside, by_header)
        async with asyncio.TaskGroup() as group:
            for number in range(100):
                group.create_task(clients.client(number, until_s=120.0))

        print(clients.let_in, clients.retried, clients.let_in_at_first_retry)
        assert clients.retried > 100
        assert clients.let_in_at_first_retry >= 0.9 * clients.retried


async def test_who_obeys_retry_after_is_let_in_beside_a_tenant_that_does_not(
    settings_of: MakeSettings,
) -> None:
    """40 of each tenant; globex's ask five times a second, each time as if for the first."""
    async with limited(settings_of, "max_concurrency = 12").running() as inside:
        clients = Polite(inside, retries_by_header=True)
        loop = asyncio.get_running_loop()
        connections = itertools.count(1_000_000)

        async def rude() -> None:
            while loop.time() < 120.0:
                head = {"connection": next(connections), "is_retry": False}
                await outcome(inside, key="sk-globex", head=head)
                await asyncio.sleep(0.2)

        async with asyncio.TaskGroup() as group:
            for number in range(40):
                group.create_task(clients.client(number, until_s=120.0))
                group.create_task(rude())

        print(clients.let_in, clients.retried, clients.let_in_at_first_retry)
        assert clients.let_in > 2000
        assert clients.let_in_at_first_retry >= 0.9 * clients.retried


async def test_whoever_fills_the_queue_leaves_a_way_in_for_others(
    settings_of: MakeSettings,
) -> None:
    more = "[scheduling]\nqueue_len_max = 100\n"
    async with Inside(settings_of(more + ENGINE)).running() as inside:
        flood = [asyncio.create_task(outcome(inside)) for _ in range(150)]
        await asyncio.sleep(0.1)

        assert await outcome(inside, key="sk-globex") == "ok"
        assert Counter(await asyncio.gather(*flood)) == {"ok": 90, "queue_full": 60}


async def test_a_class_above_the_tenants_is_lowered_and_told(settings_of: MakeSettings) -> None:
    async with Inside(settings_of(ENGINE)).running() as inside:
        answer = await inside.ask(prompt="a", head={"priority": "critical"})
        assert answer.headers["x-infer-priority"] == "interactive"

        answer = await inside.ask(prompt="a", service_tier="flex")
        assert answer.headers["x-infer-priority"] == "batch"


async def test_a_tenant_may_use_its_models_and_is_told_which(settings_of: MakeSettings) -> None:
    settings = settings_of(ENGINE + '[models.other]\nengines = ["a"]\n[tenants.solo]\n'
                           'key_hashes = []\nuids = [4711]\nmodels = ["other"]')  # fmt: skip
    async with Inside(settings).running() as inside:
        with pytest.raises(DaemonError, match=r"no model 'echo'; there is: other$"):
            await inside.ask(key=None, prompt="a", head={"uid": 4711})
        await inside.ask(key=None, model="other", prompt="a", head={"uid": 4711})


async def test_a_wait_that_would_be_too_long_is_refused_at_once(settings_of: MakeSettings) -> None:
    async with Inside(settings_of(ENGINE)).running() as inside:
        loop = asyncio.get_running_loop()
        crowd = await a_crowd_for_90_s(inside)
        begun_s = loop.time()
        with pytest.raises(WouldWaitTooLong) as caught:
            await inside.ask(prompt="a", head={"deadline_ms": "45000"})
        assert loop.time() == begun_s
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s > 1
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)


async def test_who_would_wait_too_long_is_let_in_when_it_was_told(
    settings_of: MakeSettings,
) -> None:
    """Batch work behind 90 s of interactive work, that may wait for half of it."""
    settings = settings_of("[scheduling]\nbatch_share_min = 0\n" + ENGINE)
    async with Inside(settings).running() as inside:
        crowd = [asyncio.create_task(outcome(inside, max_tokens=200)) for _ in range(400)]
        await asyncio.sleep(20)
        ask = {"prompt": "a", "service_tier": "flex", "head": {"deadline_ms": "45000"}}
        with pytest.raises(WouldWaitTooLong) as caught:
            await inside.ask(**ask)
        retry_after_s = caught.value.retry_after_s or 0
        assert 30 < retry_after_s < 90

        await asyncio.sleep(retry_after_s)
        assert inside.schedulers["echo"].waiting
        await inside.ask(**ask)
        await asyncio.gather(*crowd)


async def test_who_is_due_before_its_tenants_other_work_waits_for_none_of_it(
    settings_of: MakeSettings,
) -> None:
    async with Inside(settings_of(ENGINE)).running() as inside:
        loop = asyncio.get_running_loop()
        crowd = await a_crowd_for_90_s(inside)
        begun_s = loop.time()
        await inside.ask(prompt="a", head={"deadline_ms": "4000"})
        assert loop.time() < begun_s + 4
        for task in crowd:
            task.cancel()
        await asyncio.wait(crowd)


async def a_crowd_for_90_s(inside: Inside) -> list[asyncio.Task[str]]:
    """Of one tenant, due in 40 s: in the first second, when nothing is known of the pace, all are
    let in."""
    head = {"deadline_ms": "60000"}
    crowd = [asyncio.create_task(outcome(inside, max_tokens=200, head=head)) for _ in range(400)]
    await asyncio.sleep(20)
    return crowd


async def test_a_prompt_that_is_too_long_is_refused_with_both_numbers(
    settings_of: MakeSettings,
) -> None:
    async with limited(settings_of, "max_prompt_tokens = 5").running() as inside:
        with pytest.raises(PromptTooLong, match="has 6 tokens, it may have 5"):
            await inside.ask(prompt="a b c d e f", max_tokens=1)


async def test_output_is_clamped_and_told(settings_of: MakeSettings) -> None:
    async with limited(settings_of, "max_output_tokens = 3").running() as inside:
        answer = await inside.ask(prompt="a b c d e f", max_tokens=6)

        assert answer.headers["x-infer-clamped"] == "max_tokens=3"
        body = await inside.whole(prompt="a b c d e f", max_tokens=6)
        assert body["usage"]["completion_tokens"] == 3
        assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("asked", [95, 100, 101, 10**9])
async def test_output_that_the_context_has_no_room_for_is_clamped_and_told(
    settings_of: MakeSettings, asked: int
) -> None:
    async with Inside(settings_of(SMALL)).running() as inside:
        answer = await inside.ask(prompt="w " * 10, max_tokens=asked, ignore_eos=True)

        assert answer.headers["x-infer-clamped"] == "max_tokens=90"
        assert isinstance(answer.content, Reply)
        assert b'"completion_tokens":90' in answer.content.body


async def test_an_answer_that_ends_by_itself_is_not_called_clamped(
    settings_of: MakeSettings,
) -> None:
    async with Inside(settings_of(ENGINE)).running() as inside:
        answer = await inside.ask(prompt="a b c", max_tokens=500)

        assert "x-infer-clamped" not in answer.headers


@pytest.mark.parametrize("asked", [65, 9000])
async def test_too_much_output_is_refused_where_that_is_wanted(
    settings_of: MakeSettings, asked: int
) -> None:
    limits = 'max_output_tokens = 64\nover_max_output = "refuse"'
    async with limited(settings_of, limits).running() as inside:
        assert await outcome(inside, max_tokens=64) == "ok"
        assert await outcome(inside, max_tokens=asked) == "max_tokens_exceeded"


async def test_a_chat_loses_its_oldest_turns_where_that_is_wanted(
    settings_of: MakeSettings,
) -> None:
    limits = 'max_prompt_tokens = 6\ntoo_long_chat = "drop_oldest_turns"'
    turns = [
        {"role": "system", "content": "be brief"},
        *({"role": "user", "content": f"question {n}"} for n in range(9)),
    ]
    async with limited(settings_of, limits).running() as inside:
        answer = await inside.ask("chat", messages=turns, max_tokens=3)
        assert answer.headers["x-infer-truncated"] == "turns=7 tokens=14"

        with pytest.raises(PromptTooLong, match="last turn alone has"):
            await inside.ask("chat", messages=[{"role": "user", "content": "w " * 7}])


async def test_a_completions_prompt_keeps_its_tail_where_that_is_wanted(
    settings_of: MakeSettings,
) -> None:
    limits = 'max_prompt_tokens = 3\ntoo_long_text = "keep_tail"'
    async with limited(settings_of, limits).running() as inside:
        answer = await inside.ask(prompt="a b c d e f", max_tokens=3)
        body = await inside.whole(prompt="a b c d e f", max_tokens=3)

        assert answer.headers["x-infer-truncated"] == "tokens=3"
        assert body["usage"]["prompt_tokens"] == 3


CUTTING = '[limits]\ntoo_long_chat = "drop_oldest_turns"\ntoo_long_text = "keep_tail"'
TALK = [{"role": "user", "content": f"question {n}"} for n in range(30)]


@pytest.mark.parametrize("asked", [60, 99, 100, 5000])
async def test_what_fits_is_not_cut_however_much_output_is_asked_for(
    settings_of: MakeSettings, asked: int
) -> None:
    async with Inside(settings_of(CUTTING + SMALL)).running() as inside:
        text = await inside.ask(prompt="w " * 60, max_tokens=asked)
        chat = await inside.ask("chat", messages=TALK, max_tokens=asked)

        assert "x-infer-truncated" not in text.headers.keys() | chat.headers.keys()
        for answer in (text, chat):
            assert answer.headers.get("x-infer-clamped", "max_tokens=40") == "max_tokens=40"


@pytest.mark.parametrize(("asked", "left"), [(10, 90), (60, 50), (5000, 50)])
async def test_what_is_cut_leaves_its_answer_at_most_half_of_the_context(
    settings_of: MakeSettings, asked: int, left: int
) -> None:
    async with Inside(settings_of(CUTTING + SMALL)).running() as inside:
        text = await inside.whole(prompt="w " * 120, max_tokens=asked)
        chat = await inside.whole(endpoint="chat", messages=TALK * 2, max_tokens=asked)

        assert text["usage"]["prompt_tokens"] == chat["usage"]["prompt_tokens"] == left


async def test_a_batch_of_prompts_may_be_as_long_as_all_of_them(settings_of: MakeSettings) -> None:
    text = "w " * 50
    async with Inside(settings_of(SMALL)).running() as inside:
        found = await inside.whole(endpoint="embeddings", input=[text] * 100)
        assert len(found["data"]) == 100
        found = await inside.whole(prompt=[text] * 100, max_tokens=1)
        assert len(found["choices"]) == 100

        with pytest.raises(PromptTooLong, match="6401 characters"):
            await inside.ask("embeddings", input=[text, "w" * 6401])


async def test_what_may_be_cut_is_never_too_long_to_be_looked_at(
    settings_of: MakeSettings,
) -> None:
    async with Inside(settings_of(CUTTING + SMALL)).running() as inside:
        text = await inside.ask(prompt="w " * 10_000, max_tokens=10)
        chat = await inside.ask("chat", messages=TALK * 100, max_tokens=10)

        assert text.headers["x-infer-truncated"] == "tokens=9910"
        assert chat.headers["x-infer-truncated"] == "turns=2955 tokens=5910"


async def test_limits_are_told_as_openais_clients_know_them(settings_of: MakeSettings) -> None:
    limits = "requests_per_minute = 60\noutput_tokens_per_minute = 6000"
    async with limited(settings_of, limits, of="tenants.acme.limits").running() as inside:
        answer = await inside.ask(prompt="a", max_tokens=1)
        assert answer.headers["x-ratelimit-limit-requests"] == "60"
        assert answer.headers["x-ratelimit-remaining-requests"] == "59"
        assert answer.headers["x-ratelimit-reset-requests"].endswith("s")
        assert answer.headers["x-ratelimit-limit-tokens"] == "6000"

        asked = (inside.ask(prompt="a") for _ in range(60))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        [refusal] = [answer for answer in answers if isinstance(answer, RateLimited)]
        assert refusal.message.startswith("tenant acme may use 60 requests per minute")
        assert refusal.headers["x-ratelimit-remaining-requests"] == "0"


async def test_tenants_do_not_use_up_each_others_limits(settings_of: MakeSettings) -> None:
    limits = "requests_per_minute = 1"
    async with limited(settings_of, limits, of="tenants.acme.limits").running() as inside:
        assert await outcome(inside) == "ok"
        assert await outcome(inside) == "rate_limit_exceeded"
        assert await outcome(inside, key="sk-globex") == "ok"


async def test_classes_are_kept_apart_while_the_engine_is_full(settings_of: MakeSettings) -> None:
    """Batch work that came first waits for interactive work that came later."""
    async with Inside(settings_of(ENGINE)).running() as inside:
        ended: list[str] = []

        async def client(tier: Tier) -> None:
            await outcome(inside, service_tier={"batch": "flex"}.get(tier, "default"))
            ended.append(tier)

        tasks = [asyncio.create_task(client(Tier.BATCH)) for _ in range(40)]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(client(Tier.INTERACTIVE)) for _ in range(40)]
        await asyncio.wait(tasks)

        assert ended[:48].count("interactive") >= 36


@pytest.mark.parametrize("refusal", [TooManyInFlight, TooManyQueued])
def test_a_tenants_own_limit_is_told_from_the_daemons(refusal: type[DaemonError]) -> None:
    assert (refusal.status, QueueFull.status) == (429, 503)
