"""A request as a line, for whoever watches them settle.

Lines come one by one, so columns have a width beforehand; a terminal that has no room for all of
them gets those that matter most. `infer-daemon ledger request ID` has the rest.
"""

from collections.abc import Mapping
from typing import Any

from infer_daemon.reporting.amounts import nano

WIDTHS = {
    "settled (UTC)": 14, "id": 24, "tenant": 12, "model": 16, "tier": 11, "outcome": 13, "code": 20,
    "in": 6, "out": 6, "ttft ms": 8, "total ms": 9, "price $": 10,
}  # fmt: skip
_FIRST = (
    "id", "outcome", "settled (UTC)", "tenant", "total ms", "code", "out", "in", "model", "price $",
    "ttft ms", "tier",
)  # fmt: skip
"""What is shown before what else."""
BETWEEN = 2


def head(width: int) -> str:
    """The names of the columns, in so many columns of a terminal."""
    return _padded({name: name for name in WIDTHS}, width)


def line(row: Mapping[str, Any], width: int) -> str:
    """One request."""
    first_us = row["first_token_us"]
    cells = {
        "settled (UTC)": row["settled_at"][5:19].replace("T", " "),
        "id": row["id"],
        "tenant": row["tenant"],
        "model": row["model"],
        "tier": row["tier"],
        "outcome": row["outcome"],
        "code": row["code"],
        "in": str(row["prompt_tokens"]),
        "out": str(row["completion_tokens"]),
        "ttft ms": "-" if first_us is None else f"{first_us / 1000:,.1f}",
        "total ms": f"{row['settled_us'] / 1000:,.1f}",
        "price $": nano(row["price_nano_usd"]),
    }
    return _padded(cells, width)


def _padded(cells: Mapping[str, str], width: int) -> str:
    shown = _shown(width)
    return "  ".join(f"{cells[name]:<{WIDTHS[name]}}" for name in WIDTHS if name in shown).rstrip()


def _shown(width: int) -> set[str]:
    """As many of the first ones as there is room for."""
    shown: set[str] = set()
    left = width + BETWEEN
    for name in _FIRST:
        left -= WIDTHS[name] + BETWEEN
        if left < 0:
            break
        shown.add(name)
    return shown
