"""Single requests: one with everything that is known of it, and the last ones as they settle."""

from collections.abc import Sequence

import msgspec

from infer_daemon.domain.record import id_in
from infer_daemon.ledger.instants import iso
from infer_daemon.ledger.reports.reader import Reader, Row
from infer_daemon.ledger.reports.spans import BadQuestion
from infer_daemon.ledger.reports.sums import usd_text
from infer_daemon.ledger.rows import OPEN

_PRICES = ("price_input_nano_usd", "price_cached_nano_usd", "price_output_nano_usd")
LAST_MAX = 10_000
"""Requests that may be shown at once."""


def request(reader: Reader, request_id: str) -> dict[str, object] | None:
    """Everything that is known of a request, with what its tenant thought of the answer; None if
    the ledger has no such row (any more).

    Args: request_id: as a response has it, too (`chatcmpl-...`).

    Raises:
        BadQuestion: this is no request's id.
    """
    found = id_in(request_id)
    if found is None:
        raise BadQuestion(f"{request_id!r} is no request's id: 24 hexadecimal digits are")
    with reader.moment():
        rows = reader.rows("SELECT * FROM requests WHERE id = ?", found)
        if not rows:
            return None
        opinions = reader.rows("SELECT * FROM feedback WHERE request_id = ?", found)
    row = rows[0]
    price_nano_usd = sum(row[part] for part in _PRICES)
    return {
        **row,
        "accepted_at": iso(row["accepted_at_us"]),
        "price_nano_usd": price_nano_usd,
        "price_usd": usd_text(price_nano_usd),
        "compute_usd": usd_text(row["compute_nano_usd"]),
        "feedback": _opinion(opinions[0]) if opinions else None,
    }


def _opinion(row: Row) -> Row:
    return {
        "accepted": bool(row["accepted"]),
        "score": row["score"],
        "comment": row["comment"],
        "at": iso(row["at_us"]),
    }


class Tail:
    """The requests that settle, each once, whenever they began."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._seen = 0
        """Every row up to this one has been looked at: rows are numbered as they are inserted."""
        self._open: list[int] = []
        """Of these, the ones that had not settled."""

    def last(self, count: int) -> list[Row]:
        """So many of the newest, as they settled. From now on `more` goes on from here."""
        with self._reader.moment():
            (newest,) = self._reader.rows("SELECT coalesce(max(rowid), 0) AS n FROM requests")
            self._seen = newest["n"]
            self._open = self._still_open()
            found = self._reader.rows(
                f"{_SHORT} WHERE outcome <> '{OPEN}' ORDER BY accepted_at_us DESC LIMIT ?", count
            )
        return _in_order(found)

    def more(self) -> list[Row]:
        """Those that have settled since."""
        with self._reader.moment():
            found = self._reader.rows(
                f"{_SHORT} WHERE outcome <> '{OPEN}' AND (requests.rowid > ?"
                " OR requests.rowid IN (SELECT value FROM json_each(?)))",
                self._seen,
                msgspec.json.encode(self._open).decode(),
            )
            (newest,) = self._reader.rows("SELECT coalesce(max(rowid), 0) AS n FROM requests")
            self._seen = newest["n"]
            self._open = self._still_open()
        return _in_order(found)

    def _still_open(self) -> list[int]:
        found = self._reader.rows(f"SELECT rowid AS n FROM requests WHERE outcome = '{OPEN}'")
        return [row["n"] for row in found]


_SHORT = """
    SELECT id, accepted_at_us, coalesce(settled_us, 0) AS settled_us, tenant, model, tier, endpoint,
        engine, outcome, code, prompt_tokens, cached_tokens, completion_tokens,
        price_input_nano_usd + price_cached_nano_usd + price_output_nano_usd AS price_nano_usd,
        compute_nano_usd, first_token_us
    FROM requests
"""


def _in_order(rows: Sequence[Row]) -> list[Row]:
    ordered = sorted(rows, key=lambda row: row["accepted_at_us"] + row["settled_us"])
    return [
        {"settled_at": iso(row["accepted_at_us"] + row["settled_us"]), **row} for row in ordered
    ]
