"""Who used what: `report`, `top`, and what a tenant sees of itself.

Raw rows are counted where they exist. Older ones were deleted, and what they added up to by the
hour was kept: there, whole hours are counted, without what only rows know (TTFT, endpoint,
outcome).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from infer_daemon.ledger.instants import day_text, hour_text, iso
from infer_daemon.ledger.periods import DAY_US, HOUR_US
from infer_daemon.ledger.reports.reader import Reader, Row
from infer_daemon.ledger.reports.spans import BadQuestion, Span
from infer_daemon.ledger.reports.sums import COUNTS, Sums, Ttft, figures, total, usd_text
from infer_daemon.ledger.rows import OPEN
from infer_daemon.ledger.sql.statements import HOUR_SUMS

DIMENSIONS = {
    "tenant": ("requests.tenant", "tenant"),
    "model": ("requests.model", "model"),
    "class": ("tier", "tier"),
    "day": (f"accepted_at_us - accepted_at_us % {DAY_US}", f"hour_at_us - hour_at_us % {DAY_US}"),
    "hour": (f"accepted_at_us - accepted_at_us % {HOUR_US}", "hour_at_us"),
    "endpoint": ("endpoint", "NULL"),
    "outcome": ("outcome", "NULL"),
}
"""What a report can be divided by: SQL of it for a request, and for an hour of deleted ones."""
_TEXTS = {"day": day_text, "hour": hour_text}

_SETTLED = f"outcome <> '{OPEN}' AND accepted_at_us >= ? AND accepted_at_us < ?"
_NEVER_US = 1 << 62


@dataclass(frozen=True, slots=True)
class Group:
    """One line of a report."""

    key: tuple[object, ...]
    sums: Sums
    ttft: Ttft


def dimensions(text: str) -> tuple[str, ...]:
    """What a report is to be divided by, from names with commas between.

    Raises:
        BadQuestion: one of them is unknown, or there twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in DIMENSIONS:
            known = ", ".join(DIMENSIONS)
            raise BadQuestion(f"by {name!r}: a report can be by {known}")
    if len(set(names)) < len(names):
        raise BadQuestion(f"by {text!r}: names one of them twice")
    return names


def report(reader: Reader, by: Sequence[str], span: Span) -> dict[str, object]:
    """Settled requests that were accepted in this time, in groups.

    Raises:
        LedgerProblem: the ledger cannot be read.
    """
    with reader.moment():
        whole_from_us = rows_from_us(reader)
        groups = _groups(reader, by, span, whole_from_us)
        (ttft,) = _ttfts(reader, (), _rows_between(span, whole_from_us)).values()
    return {
        "since": iso(span.since_us),
        "until": iso(span.until_us),
        "by": list(by),
        "rows": [{**_named(by, group.key), **figures(group.sums, group.ttft)} for group in groups],
        "total": figures(total(group.sums for group in groups), ttft),
        "notes": _notes(span, whole_from_us, groups),
    }


def top(reader: Reader, span: Span, limit: int) -> dict[str, object]:
    """The tenants that were charged most, and used most if they are charged nothing."""
    found = report(reader, ("tenant",), span)
    rows: list[Row] = found["rows"]  # type: ignore[assignment]
    of = {what: sum(row[what] for row in rows) for what in ("price_nano_usd", "compute_nano_usd")}
    for row in rows:
        for what, whole in of.items():
            share = f"{what.removesuffix('_nano_usd')}_percent"
            row[share] = round(100 * row[what] / whole, 3) if whole else None
    rows.sort(key=_weight, reverse=True)
    return {**found, "rows": rows[:limit]}


def _weight(row: Row) -> tuple[int, int, int]:
    tokens: int = row["prompt_tokens"] + row["completion_tokens"]
    return row["price_nano_usd"], row["compute_nano_usd"], tokens


def own(reader: Reader, tenant: str, span: Span) -> dict[str, object]:
    """What one tenant may know of itself, by day and model: from the beginning of the hour in which
    the time begins. What its requests cost us is not among it."""
    since_us = span.since_us - span.since_us % HOUR_US
    counts = ("requests", "ok", "errors", "prompt_tokens", "cached_tokens", "completion_tokens")
    sums = ", ".join(f"sum({name}) AS {name}" for name in (*counts, "price_nano_usd"))
    found = reader.rows(
        f"SELECT {DIMENSIONS['day'][1]} AS day, model, {sums} FROM hours"
        " WHERE tenant = ? AND hour_at_us >= ? AND hour_at_us < ? GROUP BY 1, 2 ORDER BY 1, 2",
        tenant,
        since_us,
        span.until_us,
    )
    whole = {name: sum(row[name] for row in found) for name in (*counts, "price_nano_usd")}
    return {
        "object": "usage",
        "tenant": tenant,
        "since": iso(since_us),
        "until": iso(span.until_us),
        "total": _priced(whole),
        "data": [_priced({**row, "day": day_text(row["day"])}) for row in found],
    }


def _priced(row: Row) -> Row:
    return {**row, "price_usd": usd_text(row["price_nano_usd"])}


def rows_from_us(reader: Reader) -> int:
    """Since which hour all rows are there. They are deleted in the order of their acceptance, so
    one hour at most has lost only some of them."""
    first = reader.rows(
        f"SELECT accepted_at_us AS at_us FROM requests WHERE outcome <> '{OPEN}'"
        " ORDER BY accepted_at_us LIMIT 1"
    )
    if not first:
        return _NEVER_US
    hour_at_us: int = first[0]["at_us"] - first[0]["at_us"] % HOUR_US
    (there,) = reader.rows(
        f"SELECT count(*) AS n FROM requests WHERE {_SETTLED}", hour_at_us, hour_at_us + HOUR_US
    )
    (were,) = reader.rows("SELECT sum(requests) AS n FROM hours WHERE hour_at_us = ?", hour_at_us)
    return hour_at_us if there["n"] >= (were["n"] or 0) else hour_at_us + HOUR_US


def _groups(reader: Reader, by: Sequence[str], span: Span, whole_from_us: int) -> list[Group]:
    keys = ", ".join(_keys(by))
    rolled = ", ".join(f"{DIMENSIONS[name][1]} AS by_{name}" for name in by)
    raw = ", ".join(f"{DIMENSIONS[name][0]} AS by_{name}" for name in by)
    counts = ", ".join(f"sum({name}) AS {name}" for name in COUNTS)
    rows = _rows_between(span, whole_from_us)
    hours = (span.since_us - span.since_us % HOUR_US, min(span.until_us, whole_from_us))
    found = reader.rows(
        f"SELECT {keys}, {counts}, min(from_us) AS from_us, max(to_us) AS to_us FROM ("
        f"SELECT {rolled}, {counts}, min(hour_at_us) AS from_us, max(hour_at_us) + {HOUR_US} AS"
        f" to_us FROM hours WHERE hour_at_us >= ? AND hour_at_us < ? GROUP BY {keys}"
        # In the order of `COUNTS`.
        f" UNION ALL SELECT {raw}, {HOUR_SUMS}, coalesce(sum(accepted), 0), min(accepted_at_us),"
        " max(accepted_at_us + coalesce(settled_us, 0)) FROM requests"
        f" LEFT JOIN feedback ON request_id = id WHERE {_SETTLED} GROUP BY {keys}"
        f") GROUP BY {keys} ORDER BY {keys}",
        *hours,
        *rows,
    )
    ttfts = _ttfts(reader, by, rows)
    return [_group(row, by, ttfts) for row in found]


def _group(row: Row, by: Sequence[str], ttfts: dict[tuple[object, ...], Ttft]) -> Group:
    key = tuple(row[name] for name in _keys(by))
    sums = Sums(**{name: row[name] for name in (*COUNTS, "from_us", "to_us")})
    return Group(key, sums, ttfts.get(key, Ttft()))


def _ttfts(
    reader: Reader, by: Sequence[str], rows: tuple[int, int]
) -> dict[tuple[object, ...], Ttft]:
    """Of each group: the smallest time that so many percent of its requests do not exceed."""
    keys = ", ".join(_keys(by))
    raw = "".join(f"{DIMENSIONS[name][0]} AS by_{name}, " for name in by)
    parts = f"PARTITION BY {keys}" if by else ""
    found = reader.rows(
        f"WITH times AS (SELECT {raw}first_token_us AS us FROM requests WHERE {_SETTLED}"
        " AND first_token_us IS NOT NULL AND completion_tokens > 0), ranked AS (SELECT *,"
        f" row_number() OVER ({parts} ORDER BY us) AS rank,"
        f" count(*) OVER ({parts}) AS ranks FROM times)"
        f" SELECT {keys}{', ' if by else ''}"
        " max(CASE WHEN rank = (ranks * 50 + 99) / 100 THEN us END) AS p50_us,"
        " max(CASE WHEN rank = (ranks * 99 + 99) / 100 THEN us END) AS p99_us"
        f" FROM ranked {f'GROUP BY {keys}' if by else ''}",
        *rows,
    )
    return {
        tuple(row[name] for name in _keys(by)): Ttft(row["p50_us"], row["p99_us"]) for row in found
    }


def _rows_between(span: Span, whole_from_us: int) -> tuple[int, int]:
    return max(span.since_us, whole_from_us), span.until_us


def _keys(by: Sequence[str]) -> list[str]:
    return [f"by_{name}" for name in by]


def _named(by: Sequence[str], key: tuple[object, ...]) -> dict[str, object]:
    """A group as a report names it: days and hours as text."""
    return {
        name: _TEXTS[name](value) if name in _TEXTS and isinstance(value, int) else value
        for name, value in zip(by, key, strict=True)
    }


def _notes(span: Span, whole_from_us: int, groups: Sequence[Group]) -> list[str]:
    """What a reader of the figures should know."""
    if not any(g.sums.from_us is not None and g.sums.from_us < whole_from_us for g in groups):
        return []
    if whole_from_us >= span.until_us:
        return ["rows of this time were deleted: whole hours are counted, without TTFT"]
    return [f"rows before {iso(whole_from_us)} were deleted: whole hours are counted, without TTFT"]
