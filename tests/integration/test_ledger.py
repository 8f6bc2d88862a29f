"""What the ledger has of a request when its client has the end of the answer."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.settings.state_folder import StateFolder
from tests.integration.conftest import Serve
from tests.integration.running import SIM, Running, error_of, until

PRICED = SIM + "[models.echo.price]\ninput_usd = 2.0\noutput_usd = 10.0\n"
WORDS = {"model": "echo", "prompt": "one two three"}


def rows(running: Running) -> list[dict[str, Any]]:
    """All requests, in order, as anybody may read them beside the daemon."""
    path = running.folder.root / "ledger.sqlite3"
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        found = connection.execute("select * from requests order by accepted_at_us").fetchall()
        return [dict(row) for row in found]
    finally:
        connection.close()


@contextmanager
def locked(running: Running) -> Iterator[None]:
    """Another program holds the database."""
    connection = sqlite3.connect(running.folder.root / "ledger.sqlite3", isolation_level=None)
    connection.execute("begin immediate")
    try:
        yield
    finally:
        connection.execute("rollback")
        connection.close()


async def test_who_has_the_end_of_an_answer_finds_its_row_settled_with_the_same_numbers(
    serve: Serve,
) -> None:
    running = await serve(PRICED)
    answer = await running.post(
        "/v1/completions", {**WORDS, "metadata": {"job": "nightly"}, "max_tokens": 2}
    )

    (row,) = rows(running)
    body = answer.json()
    assert body["id"] == f"cmpl-{row['id']}"
    assert (row["outcome"], row["tenant"], row["model"]) == ("ok", "acme", "echo")
    assert row["prompt_tokens"] == body["usage"]["prompt_tokens"] == 3
    assert row["completion_tokens"] == body["usage"]["completion_tokens"] == 2
    assert (row["price_input_nano_usd"], row["price_output_nano_usd"]) == (6000, 20_000)
    assert (row["engine"], row["client"]) == ("a", "127.0.0.1")
    assert json.loads(row["metadata"]) == {"job": "nightly"}
    stages = ("authenticated", "routed", "admitted", "rendered", "granted", "first_token")
    times_us = [row[f"{stage}_us"] for stage in (*stages, "last_token", "settled")]
    assert times_us == sorted(times_us)


async def test_a_stream_is_settled_before_its_last_event(serve: Serve) -> None:
    running = await serve(PRICED)
    async with running.streaming(max_tokens=3) as events:
        while await events.next() != "[DONE]":
            pass
        (row,) = rows(running)

    assert (row["outcome"], row["completion_tokens"], row["stream"]) == ("ok", 3, 1)


async def test_a_stream_that_is_left_is_charged_for_what_was_generated(serve: Serve) -> None:
    running = await serve(PRICED)
    async with running.streaming() as events:
        await events.next()
    await until(lambda: running.daemon.path.in_flight == 0)
    await until(lambda: [row["outcome"] for row in rows(running)] == ["cancelled"])

    (row,) = rows(running)
    assert row["completion_tokens"] >= 1
    assert row["waste_disconnect_tokens"] == row["completion_tokens"]
    assert row["price_output_nano_usd"] == 10_000 * row["completion_tokens"]


async def test_what_was_refused_after_it_was_admitted_costs_nothing(serve: Serve) -> None:
    running = await serve(PRICED)
    answer = await running.post("/v1/completions", {**WORDS, "n": 99})

    assert answer.status_code == 400
    (row,) = rows(running)
    assert (row["outcome"], row["prompt_tokens"], row["price_input_nano_usd"]) == (
        "client_error", 0, 0,
    )  # fmt: skip


async def test_many_at_once_are_all_there_once(serve: Serve) -> None:
    running = await serve(PRICED)
    answers = await asyncio.gather(
        *(running.post("/v1/completions", {**WORDS, "max_tokens": 1 + n % 5}) for n in range(100))
    )

    used = {a.json()["id"].removeprefix("cmpl-"): a.json()["usage"] for a in answers}
    assert {row["id"]: row["completion_tokens"] for row in rows(running)} == {
        request_id: usage["completion_tokens"] for request_id, usage in used.items()
    }


async def test_while_nothing_can_be_written_new_requests_are_refused_and_none_is_lost(
    serve: Serve,
) -> None:
    running = await serve(PRICED)
    with locked(running):
        assert (await running.post("/v1/completions", WORDS)).status_code == 200
        refused = await running.post("/v1/completions", WORDS)
        assert (refused.status_code, error_of(refused)["code"]) == (503, "ledger_unavailable")
        assert "Retry-After" in refused.headers
    await until(lambda: running.daemon.book.health.state == "ok")

    assert (await running.post("/v1/completions", WORDS)).status_code == 200
    assert [row["outcome"] for row in rows(running)] == ["ok", "ok"]


async def test_or_they_go_on_and_are_taken_in_when_it_is_back(serve: Serve) -> None:
    running = await serve(PRICED + '[ledger]\non_error = "spill"\n')
    with locked(running):
        for _ in range(3):
            assert (await running.post("/v1/completions", WORDS)).status_code == 200
        assert running.daemon.book.health.state == "spilling"
    await until(lambda: running.daemon.book.health.state == "ok")

    assert [row["outcome"] for row in rows(running)] == ["ok", "ok", "ok"]


async def test_requests_that_were_open_when_the_daemon_died_are_lost_and_free(
    serve: Serve, folder: StateFolder
) -> None:
    folder.root.mkdir(parents=True, exist_ok=True)
    running = await serve(PRICED)
    await running.post("/v1/completions", WORDS)
    connection = sqlite3.connect(folder.root / "ledger.sqlite3")
    with connection:
        connection.execute("update requests set outcome = 'open', settled_us = null")
    connection.close()
    await running.close()
    again = Running(running.daemon.live._settings, folder)
    await again.open(ready=True)

    (row,) = rows(again)
    assert row["outcome"] == "lost"
    await again.close()


async def test_a_ledger_of_a_newer_version_is_not_touched(
    serve: Serve, folder: StateFolder
) -> None:
    folder.root.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(folder.root / "ledger.sqlite3")
    connection.execute("pragma user_version = 99")
    connection.close()

    with pytest.raises(LedgerProblem, match="99"):
        await serve(PRICED)


async def test_the_state_says_whether_rows_can_be_written(serve: Serve) -> None:
    running = await serve()

    assert running.daemon.view.state()["ledger"]["state"] == "ok"  # type: ignore[index]


ON_DEVICES = (
    SIM.replace("max_num_seqs = 4", "max_num_seqs = 4\ndevices = [0]", 1)
    + "[devices.gpu-0]\nusd_per_hour = 3.6\n[devices.cpu]\nusd_per_hour = 0.5\n"
)


async def test_what_rows_have_used_is_what_devices_gave_and_their_hours_are_all_there(
    serve: Serve, folder: StateFolder
) -> None:
    running = await serve(ON_DEVICES)
    asked = [
        running.post("/v1/completions", {"model": model, "prompt": ["a b", "c"], "max_tokens": 20})
        for model in ("echo", "other") * 5
    ]
    await asyncio.gather(*asked)
    async with running.streaming() as events:
        await events.next()
    await running.close()

    found = rows(running)
    assert {row["recipe_hash"] for row in found if row["model"] == "echo"} != {""}
    for engine, device, price in (("a", "gpu-0", 3_600_000_000), ("b", "cpu", 500_000_000)):
        mine = [row for row in found if row["engine"] == engine]
        hours = device_hours(running, device)
        busy_ns = sum(hour["attributed_ns"] + hour["waste_ns"] for hour in hours)
        assert sum(row["compute_ns"] for row in mine) == busy_ns > 0
        assert {hour["price_nano_usd_per_hour"] for hour in hours} == {price}
        for row in mine:
            # Each of its two calls is rounded by itself.
            assert row["compute_nano_usd"] == pytest.approx(
                row["compute_ns"] * price / 3600e9, abs=2
            )
    left = next(row for row in found if row["outcome"] == "cancelled")
    assert left["compute_ns"] == sum(hour["waste_ns"] for hour in device_hours(running, "gpu-0"))
    walls_ns = {d: sum(map(wall_ns, device_hours(running, d))) for d in ("gpu-0", "cpu")}
    assert walls_ns["gpu-0"] == walls_ns["cpu"]


async def test_the_time_between_two_daemons_is_down(serve: Serve, folder: StateFolder) -> None:
    first = await serve(ON_DEVICES)
    await first.close()
    before_ns = sum(map(wall_ns, device_hours(first, "cpu")))
    down_ns = sum(hour["down_ns"] for hour in device_hours(first, "cpu"))
    second = Running(first.daemon.live._settings, folder)
    await second.open(ready=True)
    await second.close()

    hours = device_hours(second, "cpu")
    assert sum(map(wall_ns, hours)) > before_ns
    assert sum(hour["down_ns"] for hour in hours) > down_ns


async def test_operators_see_what_devices_and_requests_cost(serve: Serve) -> None:
    running = await serve(ON_DEVICES)
    await running.post("/v1/completions", {**WORDS, "max_tokens": 20})
    (gpu,) = [one for one in running.daemon.view.state()["devices"] if one["device"] == "gpu-0"]  # type: ignore[attr-defined]
    page = running.daemon.view.metrics().decode()

    assert (gpu["engine"], gpu["usd_per_hour"]) == ("a", 3.6)
    assert gpu["seconds"]["attributed"] > 0
    labels = 'device="gpu-0",engine="a",line="attributed"'
    assert f"infer_device_seconds_total{{{labels}}}" in page
    assert 'infer_compute_cost_dollars_total{model="echo",tenant="acme"}' in page


def device_hours(running: Running, device: str) -> list[dict[str, int]]:
    """All of a device's rows."""
    path = running.folder.root / "ledger.sqlite3"
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    connection.row_factory = sqlite3.Row
    try:
        sql = "select * from device_hours where device = ?"
        return [dict(row) for row in connection.execute(sql, (device,))]
    finally:
        connection.close()


def wall_ns(hour: dict[str, int]) -> int:
    """All lines of a row."""
    lines = ("attributed", "waste", "idle", "loading", "sleeping", "down")
    return sum(hour[f"{line}_ns"] for line in lines)
