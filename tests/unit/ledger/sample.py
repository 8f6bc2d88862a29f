"""Rows to write down, and what a ledger has of them."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from infer_daemon.ledger.periods import DAY_US, HOUR_US
from infer_daemon.ledger.rows import Opening, Settlement

NOON_US = 20_000 * DAY_US + 12 * HOUR_US
"""Of some day."""


def opening(id: str, **fields: Any) -> Opening:
    """A request of acme's for the model chat, at noon."""
    defaults = {"tenant": "acme", "model": "chat", "accepted_at_us": NOON_US, "tier": "interactive"}
    reserved = {"reserved_tokens": 100, "reserved_nano_usd": 1000}
    return Opening(id=id, **(defaults | reserved | fields))


def settlement(id: str, **fields: Any) -> Settlement:
    """The same, answered: 7 prompt tokens and 5 of completion, for 12 nano-dollars."""
    asked = {name: getattr(opening(id), name) for name in Opening.__struct_fields__}
    counts = {"prompt_tokens": 7, "completion_tokens": 5}
    price = {"price_input_nano_usd": 4, "price_cached_nano_usd": 3, "price_output_nano_usd": 5}
    periods = {"day_start_us": NOON_US - 12 * HOUR_US, "month_start_us": 0}
    spent = {"spent_tokens": 12, "spent_nano_usd": 12}
    ended = {"outcome": "ok", "engine": "a", "settled_us": 9000}
    return Settlement(**(asked | counts | price | periods | spent | ended | fields))


def ask(path: Path, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """What somebody else who reads the database finds."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(sql, values).fetchall()


def outcomes(path: Path) -> dict[str, str]:
    """Of each request, by id."""
    return dict(ask(path, "SELECT id, outcome FROM requests"))


def assert_sums(path: Path) -> None:
    """Hours and budgets are the sums of the requests, each of which is counted once."""
    hours = "SELECT coalesce(sum(requests), 0), coalesce(sum(prompt_tokens), 0) FROM hours"
    settled = "SELECT count(*), coalesce(sum(prompt_tokens), 0) FROM settled"
    assert ask(path, hours) == ask(path, settled)
    for period in ("day", "month"):
        spent = "SELECT coalesce(sum(tokens), 0), coalesce(sum(nano_usd), 0) FROM spend"
        paid = (
            "SELECT coalesce(sum(prompt_tokens + completion_tokens), 0),"
            " coalesce(sum(price_nano_usd), 0) FROM settled"
        )
        assert ask(path, f"{spent} WHERE period = ?", period) == ask(path, paid)
    assert ask(path, "PRAGMA foreign_key_check") == []
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
