"""The statements of the writer, and how many rows go into one.

Each step of a statement lets go of the interpreter's lock and must get it back, behind an event
loop that may be busy for milliseconds. So a batch is few statements of many rows, of few sizes
(`_SHAPES`), each of which is prepared once.
"""

import sqlite3
from collections.abc import Sequence

from infer_daemon.ledger.periods import HOUR_US
from infer_daemon.ledger.rows import ERRORS, LOST, OPEN, OPENING_COLUMNS, SETTLEMENT_COLUMNS
from infer_daemon.ledger.sql.schema import HOUR_COUNTS

_SHAPES = (64, 16, 4, 1)
_UNCHANGED = {"id", "tenant", "model", "accepted_at_us"}
"""What a settle leaves as the opening had it."""

Values = Sequence[object]


class Insert:
    """An INSERT of any number of rows."""

    def __init__(self, table: str, columns: Sequence[str], constant: str, conflict: str) -> None:
        """Args: constant: SQL that comes after each row's values; conflict: comes at the end."""
        row = f"({', '.join('?' * len(columns))}{constant})"
        names = ", ".join(columns) + (", outcome" if constant else "")
        self._sql = {
            size: f"INSERT INTO {table} ({names}) VALUES {', '.join([row] * size)} {conflict}"
            for size in _SHAPES
        }

    def run(self, connection: sqlite3.Connection, rows: Sequence[Values]) -> None:
        """Insert them in order."""
        at = 0
        for size in _SHAPES:
            while len(rows) - at >= size:
                values = [value for row in rows[at : at + size] for value in row]
                connection.execute(self._sql[size], values)
                at += size


def _added(columns: Sequence[str]) -> str:
    return ", ".join(f"{name} = {name} + excluded.{name}" for name in columns)


OPEN_REQUESTS = Insert("requests", OPENING_COLUMNS, f", '{OPEN}'", "ON CONFLICT (id) DO NOTHING")
_SET = ", ".join(f"{c} = excluded.{c}" for c in SETTLEMENT_COLUMNS if c not in _UNCHANGED)
SETTLE_REQUESTS = Insert(
    "requests",
    SETTLEMENT_COLUMNS,
    "",
    f"ON CONFLICT (id) DO UPDATE SET {_SET} WHERE requests.outcome = '{OPEN}'",
)
ADD_HOURS = Insert(
    "hours",
    ("hour_at_us", "tenant", "model", "tier", *HOUR_COUNTS),
    "",
    f"ON CONFLICT (hour_at_us, tenant, model, tier) DO UPDATE SET {_added(HOUR_COUNTS)}",
)
ADD_SPEND = Insert(
    "spend",
    ("tenant", "period", "start_at_us", "tokens", "nano_usd"),
    "",
    f"ON CONFLICT (tenant, period, start_at_us) DO UPDATE SET {_added(('tokens', 'nano_usd'))}",
)
SETTLED_AMONG = (
    "SELECT json_group_array(id) FROM requests"
    f" WHERE id IN (SELECT value FROM json_each(?)) AND outcome <> '{OPEN}'"
)

HOUR_SUMS = f"""
    count(*), sum(outcome = 'ok'), sum(outcome IN {ERRORS}), sum(prompt_tokens),
    sum(cached_tokens), sum(completion_tokens),
    sum(price_input_nano_usd + price_cached_nano_usd + price_output_nano_usd), sum(compute_ns),
    sum(compute_nano_usd), sum(waste_disconnect_tokens + waste_continuation_tokens
        + waste_preemption_tokens + waste_fallback_tokens)
"""
"""The columns of `HOUR_COUNTS`, as sums over requests."""
LOSE_REQUESTS = (
    f"UPDATE requests SET outcome = '{LOST}', reserved_tokens = 0, reserved_nano_usd = 0"
    f" WHERE outcome = '{OPEN}'"
)
ADD_LOST_HOURS = f"""
    INSERT INTO hours (hour_at_us, tenant, model, tier, {", ".join(HOUR_COUNTS)})
    SELECT accepted_at_us - accepted_at_us % {HOUR_US}, tenant, model, tier, count(*), 0, count(*),
        0, 0, 0, 0, 0, 0, 0
    FROM requests WHERE outcome = '{OPEN}' GROUP BY 1, 2, 3, 4
    ON CONFLICT (hour_at_us, tenant, model, tier) DO UPDATE SET {_added(HOUR_COUNTS)}
"""
SPENT = """
    SELECT tenant, period, start_at_us, tokens, nano_usd FROM spend
    WHERE start_at_us >= CASE period WHEN 'day' THEN ?1 ELSE ?2 END AND start_at_us <= ?3
"""
PRUNE_REQUESTS = f"""
    DELETE FROM requests WHERE rowid IN (
        SELECT rowid FROM requests WHERE accepted_at_us < ? AND outcome <> '{OPEN}'
        ORDER BY accepted_at_us LIMIT ?)
"""
