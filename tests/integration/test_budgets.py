"""Budgets as clients and operators see them, on simulated engines. Months, since a day may end
while a test runs."""

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import openai
import pytest
from structlog.types import EventDict

from infer_daemon import tables
from infer_daemon.live import Source
from infer_daemon.settings.load import load
from infer_daemon.settings.state_folder import StateFolder
from infer_daemon.tenancy.registry import key_hash
from tests.conftest import MakeSettings
from tests.integration.conftest import Serve
from tests.integration.running import KEY, SIM, Running, error_of

PRICED = SIM + "[models.echo.price]\ninput_usd = 2.0\noutput_usd = 10.0\n"
WORDS = {"model": "echo", "prompt": "one two three", "max_tokens": 2, "ignore_eos": True}
"""5 tokens, 26,000 nano-dollars."""


def budget(limits: str, kind: str = "hard") -> str:
    return f"{PRICED}[tenants.acme.budget.{kind}]\n{limits}\n"


def spent(folder: StateFolder) -> dict[str, tuple[int, int]]:
    """What the database says that acme has used: tokens and nano-dollars of each period."""
    path = folder.root / "ledger.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute(
            "SELECT period, sum(tokens), sum(nano_usd) FROM spend WHERE tenant = 'acme' GROUP BY 1"
        )
        return {period: (tokens, nano_usd) for period, tokens, nano_usd in rows}


def requests(folder: StateFolder) -> tuple[Any, ...]:
    """Of settled requests: how many were answered, their tokens, their price."""
    path = folder.root / "ledger.sqlite3"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        row: tuple[Any, ...] = connection.execute(
            "SELECT sum(outcome = 'ok'), sum(prompt_tokens + completion_tokens),"
            " sum(price_input_nano_usd + price_cached_nano_usd + price_output_nano_usd)"
            " FROM requests WHERE outcome <> 'open'"
        ).fetchone()
        return row


@pytest.mark.parametrize("limits", ["month_tokens = 500", "month_usd = '0.0026'"])
async def test_of_200_at_once_a_budget_for_100_lets_in_100_and_the_ledger_says_the_same(
    serve: Serve, folder: StateFolder, limits: str
) -> None:
    running = await serve(budget(limits))
    answers = await asyncio.gather(*(running.post("/v1/completions", WORDS) for _ in range(200)))

    assert Counter(answer.status_code for answer in answers) == {200: 100, 429: 100}
    assert requests(folder) == (100, 500, 2_600_000)
    assert spent(folder) == dict.fromkeys(("day", "month"), (500, 2_600_000))


async def test_a_budget_that_is_used_up_is_refused_as_openai_does(serve: Serve) -> None:
    running = await serve(budget("month_tokens = 5"))
    assert (await running.post("/v1/completions", WORDS)).status_code == 200
    refused = await running.post("/v1/completions", WORDS)

    error = error_of(refused)
    assert refused.status_code == 429
    assert (error["code"], error["type"]) == ("insufficient_quota", "insufficient_quota")
    assert error["message"].startswith("You exceeded your current quota, please check your budget")
    assert refused.headers["x-should-retry"] == "false"
    assert 0 < int(refused.headers["Retry-After"]) <= 31 * 86_400
    assert refused.headers["x-request-id"]


async def test_openais_client_does_not_hammer_when_the_budget_is_used_up(
    serve: Serve, log_lines: list[EventDict]
) -> None:
    running = await serve(budget("month_tokens = 5"))
    client = running.openai.with_options(max_retries=5)
    await client.completions.create(model="echo", prompt="a b c", max_tokens=2)
    with pytest.raises(openai.RateLimitError, match="exceeded your current quota"):
        await client.completions.create(model="echo", prompt="a b c", max_tokens=2)

    codes = [line.get("code") for line in log_lines if line["event"] == "request"]
    assert codes == [None, "insufficient_quota"]


async def test_a_stream_is_refused_before_it_begins(serve: Serve) -> None:
    running = await serve(budget("month_tokens = 5"))
    await running.post("/v1/completions", WORDS)

    refused = await running.post("/v1/completions", {**WORDS, "stream": True})
    assert error_of(refused)["code"] == "insufficient_quota"


async def test_a_soft_budget_is_told_in_a_header_and_once_in_the_log(
    serve: Serve, log_lines: list[EventDict]
) -> None:
    running = await serve(budget("month_tokens = 5", "soft"))
    answers = [await running.post("/v1/completions", WORDS) for _ in range(4)]

    told = [answer.headers.get("x-infer-budget-warning", "")[:22] for answer in answers]
    assert told == ["", "", "10 tokens of 5 tokens ", "15 tokens of 5 tokens "]
    assert [line["kind"] for line in log_lines if line["event"] == "budget_passed"] == ["soft"]
    async with running.streaming(max_tokens=1) as events:
        assert events.headers["x-infer-budget-warning"].startswith("20 tokens of 5")


async def test_a_restart_forgets_nothing_and_releases_what_was_open(
    settings_of: MakeSettings, folder: StateFolder
) -> None:
    settings = settings_of(budget("month_tokens = 10"))
    with folder.locked():
        running = Running(settings, folder)
        await running.open(ready=True)
        await running.post("/v1/completions", WORDS)
        await running.close()
        with closing(sqlite3.connect(folder.root / "ledger.sqlite3")) as connection, connection:
            connection.execute(
                "INSERT INTO requests (id, tenant, model, accepted_at_us, outcome, reserved_tokens)"
                " VALUES ('f00', 'acme', 'echo', 1, 'open', 1000000)"
            )
        again = Running(settings, folder)
        await again.open(ready=True)
        (found,) = again.daemon.allowances.snapshot()
        codes = [(await again.post("/v1/completions", WORDS)).status_code for _ in range(2)]
        await again.close()

    assert (found["used"], found["reserved"]) == (5, 0)
    assert codes == [200, 429]


async def test_operators_see_where_budgets_stand(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    running = await serve(budget("month_usd = 0.052"))
    await running.post("/v1/completions", WORDS)
    async with running.streaming(prompt="a b c", max_tokens=100) as events:
        await events.next()
        state = running.daemon.view.state()
        page = running.daemon.view.metrics().decode()

    tables.show_state(state)
    shown = " ".join(capsys.readouterr().out.split())
    assert "acme month hard $0.000026 $0.001006 $0.052" in shown
    where = '{kind="hard",period="month",tenant="acme",unit="usd"}'
    assert f"infer_budget_used_ratio{where} 0.0005" in page
    assert f"infer_budget_reserved_ratio{where} 0.01934" in page


async def test_budgets_change_at_a_reload_and_count_what_was_used_before(
    folder: StateFolder, short_dir: Path
) -> None:
    file = short_dir / "daemon.toml"
    tenant = f'{PRICED}[tenants.acme]\nkey_hashes = ["{key_hash(KEY)}"]\n'
    file.write_text(tenant)
    with folder.locked():
        running = Running(load(file), folder, Source(str(file), load(file), lambda: load(file)))
        await running.open(ready=True)
        codes = [(await running.post("/v1/completions", WORDS)).status_code]
        for tokens in (5, 10):
            file.write_text(f"{tenant}budget.hard.month_tokens = {tokens}\n")
            reloaded = await running.daemon.live.reload()
            assert reloaded.applied == ["$.tenants.acme.budget.hard.month_tokens"]
            codes.append((await running.post("/v1/completions", WORDS)).status_code)
        await running.close()

    assert codes == [200, 429, 200]
