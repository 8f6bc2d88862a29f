"""Whether the ledger is true to itself: `infer-daemon ledger verify`.

Each check finds what must not be, and tells it by its row. All of them look at the same moment, so
that what a daemon writes meanwhile is no breach.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from infer_daemon.domain.outcomes import Outcome
from infer_daemon.ledger.instants import day_text, hour_text, iso
from infer_daemon.ledger.periods import DAY_US, HOUR_US, Period, period_starts
from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.reports.conservation import conservation, twice
from infer_daemon.ledger.reports.reader import Reader, Row
from infer_daemon.ledger.reports.sums import COUNTS
from infer_daemon.ledger.reports.usage import rows_from_us
from infer_daemon.ledger.rows import ERRORS, LOST, OPEN
from infer_daemon.ledger.sql.statements import HOUR_SUMS
from infer_daemon.ledger.store import DAMAGED, JOURNAL

FOUND_MAX = 20
"""Breaches that one check tells of."""


@dataclass(frozen=True, slots=True)
class Breach:
    """Something that must not be."""

    check: str
    row: str
    what: str


Found = list[tuple[str, str]]
"""Rows, and what is wrong with each."""


def verify(reader: Reader, now_us: int) -> dict[str, object]:
    """Run every check. Requests that are open are told and no breach: a crash leaves them, and the
    next start settles them.

    Raises:
        LedgerProblem: the ledger cannot be read at all.
    """
    with reader.moment():
        damaged = _integrity(reader)
        # In a damaged file the other checks would find anything, or nothing.
        results = {"integrity": damaged} | ({} if damaged else _results(reader, now_us))
        counted = {} if damaged else _counted(reader)
    breaches = [
        Breach(check, row, what)
        for check, found in results.items()
        for row, what in found[:FOUND_MAX]
    ]
    return {
        "ok": not breaches,
        "checks": [{"check": check, "breaches": len(found)} for check, found in results.items()],
        "breaches": [asdict(breach) for breach in breaches],
        **counted,
        "notes": _notes(reader, counted),
    }


def _results(reader: Reader, now_us: int) -> dict[str, Found]:
    # No row is deleted in its first day, whatever is configured. The hour that was a day ago may
    # have lost some.
    whole_from_us = min(rows_from_us(reader), now_us - now_us % HOUR_US - DAY_US + HOUR_US)
    checks: dict[str, Callable[[], Found]] = {
        "foreign keys": lambda: _foreign_keys(reader),
        "requests": lambda: _requests(reader),
        "feedback": lambda: _feedback(reader),
        "hours": lambda: _hours(reader, whole_from_us),
        "spend": lambda: _spend(reader),
        "devices": lambda: conservation(reader),
    }
    return {name: check() for name, check in checks.items()}


def _integrity(reader: Reader) -> Found:
    try:
        found = reader.rows(f"PRAGMA integrity_check({FOUND_MAX})")
    except LedgerProblem as problem:
        return [("the file", str(problem))]
    words = [str(value) for row in found for value in row.values()]
    return [] if words == ["ok"] else [("the file", word) for word in words]


def _foreign_keys(reader: Reader) -> Found:
    return [
        (f"{row['table']} rowid {row['rowid']}", f"refers to no row of {row['parent']}")
        for row in reader.rows("PRAGMA foreign_key_check")
    ]


_COUNTERS = (
    "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "reserved_tokens",
    "reserved_nano_usd", "price_input_nano_usd", "price_cached_nano_usd", "price_output_nano_usd",
    "compute_ns", "compute_nano_usd", "waste_disconnect_tokens", "waste_continuation_tokens",
    "waste_preemption_tokens", "waste_fallback_tokens",
)  # fmt: skip
_PRICED = "price_input_nano_usd + price_cached_nano_usd + price_output_nano_usd <> 0"
_RULES = {
    "has an outcome that is none": "outcome NOT IN ({})".format(
        ", ".join(f"'{name}'" for name in (*Outcome, OPEN, LOST))
    ),
    "counts less than nothing": f"min({', '.join(_COUNTERS)}) < 0",
    "is charged though it never settled": f"outcome IN ('{OPEN}', '{LOST}') AND {_PRICED}",
    "is charged though it failed by our fault": f"outcome IN {ERRORS} AND {_PRICED}",
    "is lost and still holds a reservation": f"outcome = '{LOST}' AND"
    " (reserved_tokens <> 0 OR reserved_nano_usd <> 0)",
    "has settled at no time": f"outcome NOT IN ('{OPEN}', '{LOST}') AND settled_us IS NULL",
}
"""What no request may be, in words and in SQL."""


def _requests(reader: Reader) -> Found:
    cases = " ".join(f"WHEN {sql} THEN '{words}'" for words, sql in _RULES.items())
    return [
        (f"request {row['id']}", row["what"])
        for row in reader.rows(
            f"SELECT id, CASE {cases} END AS what FROM requests WHERE what IS NOT NULL"
        )
    ]


def _feedback(reader: Reader) -> Found:
    found = reader.rows(
        "SELECT id, feedback.tenant AS said, requests.tenant AS asked FROM feedback"
        " JOIN requests ON id = request_id WHERE said <> asked"
    )
    return [
        (f"feedback {row['id']}", f"is {row['said']}'s on a request of {row['asked']}")
        for row in found
    ]


def _hours(reader: Reader, whole_from_us: int) -> Found:
    """Each hour is the sum of its requests; where rows were deleted, at least of what is left. A
    request that was settled twice, or lost, is found here."""
    less = ", ".join(f"-{name} AS {name}" for name in COUNTS)
    sums = ", ".join(f"sum({name}) AS {name}" for name in COUNTS)
    hour = f"accepted_at_us - accepted_at_us % {HOUR_US}"
    found = reader.rows(
        f"SELECT hour_at_us, tenant, model, tier, {sums} FROM ("
        f"SELECT hour_at_us, tenant, model, tier, {less} FROM hours"
        f" UNION ALL SELECT {hour}, requests.tenant, model, tier, {HOUR_SUMS},"
        " coalesce(sum(accepted), 0) FROM requests LEFT JOIN feedback ON request_id = id"
        f" WHERE outcome <> '{OPEN}' GROUP BY 1, 2, 3, 4)"
        " GROUP BY hour_at_us, tenant, model, tier"
    )
    wrong: Found = []
    for row in found:
        is_whole = row["hour_at_us"] >= whole_from_us
        off = [n for n in COUNTS if row[n] > 0 or (is_whole and row[n] < 0)]
        if off:
            key = f"{hour_text(row['hour_at_us'])} {row['tenant']} {row['model']} {row['tier']}"
            what = ", ".join(f"{name} by {-row[name]:+}" for name in off)
            wrong.append((f"hours {key}", f"is not the sum of its requests: off in {what}"))
    return wrong


def _spend(reader: Reader) -> Found:
    """What a tenant has spent in a month is what it has in its days, and in all days what its
    requests come to, deleted ones included."""
    rows = reader.rows("SELECT * FROM spend ORDER BY tenant, period, start_at_us")
    used = reader.rows(
        "SELECT tenant, sum(prompt_tokens + completion_tokens) AS tokens,"
        " sum(price_nano_usd) AS nano_usd FROM hours GROUP BY tenant"
    )
    days = [row for row in rows if row["period"] == Period.DAY]
    months = [row for row in rows if row["period"] == Period.MONTH]
    wrong: Found = []
    # Whoever has used something and has spent nothing is the worst of them.
    for tenant in sorted({row["tenant"] for row in (*rows, *used)}):
        own = [row for row in days if row["tenant"] == tenant]
        of_months = [row for row in months if row["tenant"] == tenant]
        starts_us = {row["start_at_us"] for row in of_months}
        starts_us |= {period_starts(row["start_at_us"])[1] for row in own}
        for start_us in sorted(starts_us):
            month = [row for row in of_months if row["start_at_us"] == start_us]
            inside = [row for row in own if period_starts(row["start_at_us"])[1] == start_us]
            name = f"spend {tenant} month {day_text(start_us)}"
            wrong += _unequal(name, month, inside, "its days")
        asked = [row for row in used if row["tenant"] == tenant]
        wrong += _unequal(f"spend {tenant} day", own, asked, "its requests")
    return wrong


def _unequal(name: str, spent: list[Row], parts: list[Row], whose: str) -> Found:
    found: Found = []
    for what in ("tokens", "nano_usd"):
        one, other = (sum(row[what] for row in rows) for rows in (spent, parts))
        if one != other:
            found.append((name, f"has {one:,} {what}, {whose} come to {other:,}"))
    return found


def _counted(reader: Reader) -> dict[str, object]:
    (row,) = reader.rows(
        f"SELECT count(*) AS requests, coalesce(sum(outcome = '{OPEN}'), 0) AS open,"
        f" coalesce(sum(outcome = '{LOST}'), 0) AS lost,"
        f" min(CASE WHEN outcome = '{OPEN}' THEN accepted_at_us END) AS oldest FROM requests"
    )
    oldest = row.pop("oldest")
    return {**row, "open_since": None if oldest is None else iso(oldest)}


def _notes(reader: Reader, counted: dict[str, object]) -> list[str]:
    """What is no breach, and yet to be known."""
    notes: list[str] = []
    if counted.get("open"):
        notes.append(
            f"{counted['open']} requests are open, the oldest since {counted['open_since']}:"
            " they run, or a crash left them, and the next start settles them as lost"
        )
    notes += [
        f"device {one.device}: the clock was set back from {iso(one.until_ns // 1000)} to"
        f" {iso(one.from_ns // 1000)}; its hours have the time between twice"
        for one in (twice(reader) if counted else [])  # a damaged file may not have it
    ]
    folder = reader.path.parent
    if (folder / JOURNAL).exists() and (folder / JOURNAL).stat().st_size:
        notes.append(f"rows wait in {folder / JOURNAL}; they are not in the database yet")
    if (folder / DAMAGED).exists():
        notes.append(f"{folder / DAMAGED} has lines of a journal that could not be read")
    return notes
