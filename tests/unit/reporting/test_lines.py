"""Requests as lines, in terminals of any width."""

from typing import Any

import pytest

from infer_daemon.reporting.lines import head, line

ID = "0123456789abcdef01234567"
ROW: dict[str, Any] = {
    "settled_at": "2026-11-21T15:44:39.306Z",
    "id": ID,
    "tenant": "initech",
    "model": "demo",
    "tier": "interactive",
    "outcome": "engine_error",
    "code": "engine_died",
    "prompt_tokens": 10,
    "completion_tokens": 1234,
    "first_token_us": None,
    "settled_us": 61_053_600,
    "price_nano_usd": 40_000,
}


@pytest.mark.parametrize("width", [40, 80, 100, 120, 160, 200])
def test_a_line_fits_its_terminal_and_stands_under_its_head(width: int) -> None:
    assert max(len(head(width)), len(line(ROW, width))) <= width
    assert line(ROW, width).index("engine_error") == head(width).index("outcome")
    assert ID in line(ROW, width)


def test_in_80_columns_it_says_when_who_and_how_it_ended() -> None:
    assert line(ROW, 80).split() == [
        "11-21", "15:44:39", ID, "initech", "engine_error", "61,053.6",
    ]  # fmt: skip


def test_a_wide_one_says_all() -> None:
    assert head(200).split("  ")[0] == "settled (UTC)"
    assert line(ROW, 200).split() == [
        "11-21", "15:44:39", ID, "initech", "demo", "interactive", "engine_error", "engine_died",
        "10", "1234", "-", "61,053.6", "0.0000400",
    ]  # fmt: skip
