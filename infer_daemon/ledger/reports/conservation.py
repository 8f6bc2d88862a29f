"""Whether every second of every device is on one line of `device_hours`."""

from dataclasses import dataclass

from infer_daemon.ledger.devices import DOWN_DAYS_MAX
from infer_daemon.ledger.instants import hour_text
from infer_daemon.ledger.periods import DAY_US, HOUR_US
from infer_daemon.ledger.pricing import HOUR_NS
from infer_daemon.ledger.reports.reader import Reader, Row
from infer_daemon.ledger.sql.device_hours import LINES, TWICE

TOLERANCE = 100
"""A hundredth of an hour may be missing from it."""


@dataclass(frozen=True, slots=True)
class Twice:
    """A clock that was set back between two runs: what a device did in this time by it, it did in
    both."""

    device: str
    from_ns: int
    until_ns: int

    def ns_in(self, row: Row) -> int:
        """How much of an hour that is, of this device or of another."""
        begun_ns = row["hour_at_us"] * 1000
        end_ns = min(self.until_ns, begun_ns + HOUR_NS)
        return max(0, end_ns - max(self.from_ns, begun_ns)) if row["device"] == self.device else 0


def twice(reader: Reader) -> list[Twice]:
    """All that the ledger knows.

    Raises:
        LedgerProblem: it cannot be read.
    """
    found = reader.rows("SELECT key, value FROM meta WHERE key GLOB ?", f"{TWICE}*")
    parts = [(*row["key"].removeprefix(TWICE).split(":", 1), row["value"]) for row in found]
    return [Twice(device, int(from_ns), int(until_ns)) for from_ns, device, until_ns in parts]


def conservation(reader: Reader) -> list[tuple[str, str]]:
    """Hours that have more time than an hour where no clock was set back, or less than nothing;
    and, between the first and the last that is known of a device, hours that are missing or have
    too little. Returns the rows and what is wrong with each. After so long a pause that nobody paid
    for it, a device begins anew.

    Raises:
        LedgerProblem: the ledger cannot be read.
    """
    wrong = [
        (f"{_name(row)} {row['engine']}", "counts less than nothing")
        for row in reader.rows(f"SELECT * FROM device_hours WHERE min({', '.join(LINES)}) < 0")
    ]
    hours = reader.rows(
        f"SELECT device, hour_at_us, sum({' + '.join(LINES)}) AS ns FROM device_hours"
        " GROUP BY device, hour_at_us ORDER BY device, hour_at_us"
    )
    known = twice(reader)
    for index, row in enumerate(hours):
        before = hours[index - 1] if index else None
        after = hours[index + 1] if index + 1 < len(hours) else None
        wrong += _one(row, before, after)
        if row["ns"] > HOUR_NS + sum(one.ns_in(row) for one in known):
            wrong.append((_name(row), f"has {row['ns'] / 1e9:,.3f} s, and an hour 3,600"))
    return wrong


def _one(row: Row, before: Row | None, after: Row | None) -> list[tuple[str, str]]:
    """An hour beside its neighbours, of the same device or of another."""
    wrong: list[tuple[str, str]] = []
    is_first = before is None or _is_other(before, row)
    is_last = after is None or _is_other(row, after)
    if row["hour_at_us"] % HOUR_US:
        wrong.append((_name(row), "is not the beginning of an hour"))
    if not is_first and not is_last and row["ns"] < HOUR_NS - HOUR_NS // TOLERANCE:
        wrong.append((_name(row), f"has {row['ns'] / 1e9:,.3f} s of 3,600"))
    if not is_first and before is not None and row["hour_at_us"] - before["hour_at_us"] > HOUR_US:
        missing = (row["hour_at_us"] - before["hour_at_us"]) // HOUR_US - 1
        wrong.append((_name(row), f"{missing} hours before it are missing"))
    return wrong


def _is_other(row: Row, following: Row) -> bool:
    """Whether a device begins there."""
    pause_us = following["hour_at_us"] - row["hour_at_us"]
    return bool(following["device"] != row["device"] or pause_us >= DOWN_DAYS_MAX * DAY_US)


def _name(row: Row) -> str:
    return f"device_hours {row['device']} {hour_text(row['hour_at_us'])}"
