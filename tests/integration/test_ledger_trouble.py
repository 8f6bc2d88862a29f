"""What clients see, and what is lost (nothing), while the ledger is in trouble: real trouble."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.sql.database import WriterDatabase
from infer_daemon.settings.state_folder import StateFolder
from tests.integration.conftest import Serve
from tests.integration.running import SIM, Running, error_of, until
from tests.unit.ledger.sample import ask

PRICED = SIM + "[models.echo.price]\ninput_usd = 2.0\noutput_usd = 10.0\n"
BODY = {"model": "echo", "prompt": "one two three", "metadata": {"page": "x" * 4000}}
"""Its row needs a page of its own."""
FILES = ("ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm")


class Trouble:
    """Begins, and is over."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.path = running.folder.root / "ledger.sqlite3"
        self.writer = running.daemon.book._writer
        self.writer._retry_s = 1000.0  # not before it is over

    async def ask_for(self, sql: str) -> None:
        def work(database: WriterDatabase) -> None:
            database.connection.execute(sql).fetchall()

        await self.running.daemon.book.run(work)

    async def begin(self) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        """Have the database tried again."""
        self.writer._retry_s, self.writer._retry_at_s = 0.01, 0.0
        with suppress(LedgerProblem):
            await self.ask_for("SELECT 1")  # wakes the writer
        await until(lambda: self.running.daemon.book.health.state == "ok")


class Full(Trouble):
    async def begin(self) -> None:
        await self.ask_for("PRAGMA max_page_count = 1")  # no more than there are


class ReadOnly(Trouble):
    async def begin(self) -> None:
        await self.ask_for("PRAGMA query_only = ON")


class Locked(Trouble):
    async def begin(self) -> None:
        self.other = sqlite3.connect(self.path, isolation_level=None)
        self.other.execute("BEGIN IMMEDIATE")

    async def end(self) -> None:
        self.other.close()
        await super().end()


class Damaged(Trouble):
    async def begin(self) -> None:
        await self.ask_for("PRAGMA wal_checkpoint(TRUNCATE)")
        with self.path.open("r+b") as file:
            file.write(b"garbage" * 20_000)
            file.flush()
            os.fsync(file.fileno())
        await self.ask_for("PRAGMA cache_size = 0")

    async def end(self) -> None:
        for name in FILES:
            self.path.with_name(name).unlink(missing_ok=True)
        await super().end()


class Removed(Trouble):
    async def begin(self) -> None:
        for name in FILES:
            self.path.with_name(name).unlink()


KINDS = [Full, ReadOnly, Locked, Damaged, Removed]


async def usages(running: Running, *statuses: int) -> dict[str, tuple[int, int]]:
    """Ask as often, one after the other, and have these answers: prompt and completion tokens of
    those that were given."""
    found = {}
    for number, status in enumerate(statuses):
        body = {**BODY, "max_tokens": 1 + number % 3}
        answer = await running.post("/v1/completions", body)
        assert answer.status_code == status, answer.text
        if status == 503:
            assert error_of(answer)["code"] == "ledger_unavailable"
            assert "Retry-After" in answer.headers
        else:
            usage = answer.json()["usage"]
            request_id = answer.json()["id"].removeprefix("cmpl-")
            found[request_id] = usage["prompt_tokens"], usage["completion_tokens"]
    return found


def written(running: Running) -> dict[str, tuple[int, int]]:
    """The same of the ledger: each row is settled, and counted once."""
    path = running.folder.root / "ledger.sqlite3"
    rows = ask(path, "SELECT id, prompt_tokens, completion_tokens, outcome FROM requests")
    assert {row[3] for row in rows} <= {"ok"}
    assert ask(path, "SELECT sum(requests) FROM hours") == [(len(rows),)]
    return {row[0]: (row[1], row[2]) for row in rows}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("policy", "then"), [("refuse", 503), ("spill", 200)])
async def test_trouble_is_told_at_once_and_nothing_is_lost(
    serve: Serve, kind: Callable[[Running], Trouble], policy: str, then: int
) -> None:
    running = await serve(f'{PRICED}[ledger]\non_error = "{policy}"\n')
    trouble = kind(running)
    before = await usages(running, 200, 200)
    await trouble.begin()
    # The first finds out, and goes on: it is in the journal before its client has the answer.
    given = await usages(running, 200, then, then)
    health: Any = running.daemon.view.state()["ledger"]
    assert (health["state"], health["waiting"] > 0) == ("spilling", True)
    assert str(trouble.path) in health["why"]
    page = (await running.http.get("/metrics")).text
    assert "infer_ledger_ok 0.0" in page
    assert f"infer_ledger_rows_waiting {health['waiting']:.1f}" in page

    await trouble.end()

    given |= await usages(running, 200)
    if kind not in (Damaged, Removed):  # what was in these is in no ledger any more
        given |= before
    assert written(running) == given
    assert "infer_ledger_ok 1.0" in (await running.http.get("/metrics")).text


@pytest.mark.parametrize("policy", ["refuse", "spill"])
async def test_a_daemon_that_ends_in_trouble_leaves_a_journal_that_the_next_one_takes_in(
    serve: Serve, folder: StateFolder, policy: str
) -> None:
    running = await serve(f'{PRICED}[ledger]\non_error = "{policy}"\n')
    trouble = Locked(running)
    given = await usages(running, 200)
    await trouble.begin()
    given |= await usages(running, 200)
    await running.close()
    trouble.other.close()
    assert (folder.root / "ledger.journal").exists()

    again = Running(running.daemon.live._settings, folder)
    await again.open(ready=True)

    assert written(again) == given
    await again.close()


@pytest.mark.parametrize("policy", ["refuse", "spill"])
@pytest.mark.parametrize("stream", [False, True])
async def test_where_the_journal_fails_too_an_answer_waits_for_its_row_and_new_ones_are_refused(
    serve: Serve, policy: str, stream: bool
) -> None:
    running = await serve(f'{PRICED}[ledger]\non_error = "{policy}"\n')
    (running.folder.root / "ledger.journal").symlink_to("/dev/full")
    trouble = Locked(running)
    await trouble.begin()
    waiting = asyncio.create_task(running.post("/v1/completions", {**BODY, "stream": stream}))
    await until(lambda: running.daemon.book.health.state == "failing")
    await usages(running, 503, 503)
    assert not waiting.done()

    await trouble.end()

    answer = await waiting
    assert answer.status_code == 200
    assert answer.text.endswith("[DONE]\n\n") == stream
    assert list(written(running)) == [answer.headers["x-request-id"]]
