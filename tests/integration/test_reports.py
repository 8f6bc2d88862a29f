"""What the running daemon tells of its ledger: operators of everybody, tenants of themselves."""

import asyncio
import json
from typing import Any

import pytest

from infer_daemon.api.admin import Refused
from infer_daemon.api.admin import ask as ask_daemon
from infer_daemon.cli import main
from infer_daemon.domain.errors import LedgerUnavailable, TooManyInFlight
from tests.conftest import KEYS
from tests.integration.conftest import Serve
from tests.integration.running import Running, error_of
from tests.integration.test_cli import ask
from tests.integration.test_ledger import PRICED, WORDS

Capture = pytest.CaptureFixture[str]
GLOBEX = {"Authorization": f"Bearer {KEYS['globex']}"}


@pytest.fixture
async def used(serve: Serve) -> Running:
    """acme has asked three times, and globex once."""
    running = await serve(PRICED)
    for headers in ({}, {}, {}, GLOBEX):
        answer = await running.post("/v1/completions", {**WORDS, "max_tokens": 2}, headers=headers)
        assert answer.status_code == 200
    return running


async def told(running: Running, path: str) -> Any:
    """What the operators' socket answers."""
    return await ask_daemon(running.folder.admin_socket, path)


async def test_a_tenant_sees_its_own_use_at_once(used: Running) -> None:
    answer = (await used.http.get("/v1/usage?since=1d")).json()

    assert (answer["object"], answer["tenant"]) == ("usage", "acme")
    assert answer["total"]["requests"] == 3
    assert answer["total"]["price_usd"] == "0.000078000"
    (day,) = answer["data"]
    assert (day["model"], day["prompt_tokens"], day["completion_tokens"]) == ("echo", 9, 6)
    assert "globex" not in str(answer)


async def test_and_nobody_elses(used: Running) -> None:
    answer = (await used.http.get("/v1/usage?tenant=acme", headers=GLOBEX)).json()
    assert "usage has no option 'tenant'" in answer["error"]["message"]

    own = (await used.http.get("/v1/usage", headers=GLOBEX)).json()
    assert (own["tenant"], own["total"]["requests"]) == ("globex", 1)
    nobody = await used.http.get("/v1/usage", headers={"Authorization": "Bearer sk-nobody"})
    assert nobody.status_code == 401


async def test_a_time_that_makes_no_sense_is_refused(used: Running) -> None:
    answer = await used.http.get("/v1/usage?since=yesterday")

    assert answer.status_code == 400
    assert "since 'yesterday': neither an age" in error_of(answer)["message"]


async def test_when_the_ledger_cannot_be_read_its_place_is_not_told(used: Running) -> None:
    path = used.folder.root / "ledger.sqlite3"
    path.rename(path.with_name("gone"))
    answer = await used.http.get("/v1/usage")
    path.with_name("gone").rename(path)

    assert (answer.status_code, error_of(answer)["code"]) == (503, "ledger_unavailable")
    assert "sqlite3" not in answer.text
    assert "Retry-After" in answer.headers


async def test_a_tenant_waits_for_one_answer_at_a_time(used: Running) -> None:
    desk = used.daemon.desk
    found = await asyncio.gather(
        *(desk.own_usage("acme", {}) for _ in range(3)), return_exceptions=True
    )

    assert [type(one) for one in found] == [dict, TooManyInFlight, TooManyInFlight]
    many = await asyncio.gather(
        *(desk.own_usage(f"t{n}", {}) for n in range(40)), return_exceptions=True
    )
    refused = [one for one in many if isinstance(one, LedgerUnavailable)]
    assert len(refused) == 8
    assert (await desk.own_usage("acme", {}))["tenant"] == "acme"


async def test_operators_ask_on_their_socket(used: Running) -> None:
    report = await told(used, "/ledger/report?by=tenant,model&since=1h")
    top = await told(used, "/ledger/top?limit=1")
    verified = await told(used, "/ledger/verify")
    (last, *_) = (await told(used, "/ledger/tail?last=1"))["rows"]
    row = await told(used, f"/ledger/request/cmpl-{last['id']}")
    even = await told(used, "/ledger/breakeven?api_input=1.25&api_output=10&gpu_hour=2")

    assert [(r["tenant"], r["requests"]) for r in report["rows"]] == [("acme", 3), ("globex", 1)]
    assert [row["tenant"] for row in top["rows"]] == ["acme"]
    assert (verified["ok"], verified["requests"]) == (True, 4)
    assert (row["tenant"], row["price_nano_usd"]) == ("globex", 26_000)
    assert even["requests"] == 4


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("report?by=colour", "a report can be by"),
        ("report?sins=1d", "report has no option 'sins'"),
        ("colours", "'colours' is no question"),
        ("request/7", "is no request's id"),
        ("request/" + "f" * 24, "no request of this id"),
    ],
)
async def test_what_makes_no_sense_is_told_to_operators_too(
    running: Running, path: str, why: str
) -> None:
    with pytest.raises(Refused, match=why):
        await told(running, f"/ledger/{path}")


async def test_the_tenants_door_has_no_reports(used: Running) -> None:
    assert (await used.http.get("/ledger/report")).status_code == 404


async def test_the_command_reads_beside_the_daemon(used: Running, capsys: Capture) -> None:
    argv = ["ledger", "report", "--state-dir", str(used.folder.root), "--json"]
    assert await asyncio.to_thread(main, argv) == 0
    answer = json.loads(capsys.readouterr().out)

    assert answer["total"]["requests"] == 4
    assert answer["total"]["price_nano_usd"] == 4 * 26_000


async def test_the_state_says_how_far_the_ledger_is(used: Running, capsys: Capture) -> None:
    async with used.streaming() as events:
        await events.next()
        assert await ask(used, "state", "--json") == 0
        ledger = json.loads(capsys.readouterr().out)["ledger"]
        assert await ask(used, "state") == 0
        shown = " ".join(capsys.readouterr().out.split())

    assert (ledger["state"], ledger["open"], ledger["waiting"]) == ("ok", 1, 0)
    assert ledger["lag_s"] == 0.0
    assert ledger["bytes"] > 0
    assert "ledger size log rows open rows waiting behind note ok" in shown
