"""What a batch of rows comes to: each request once, and what its hours and budgets gain. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from infer_daemon.ledger.periods import HOUR_US
from infer_daemon.ledger.rows import ERRORS, Opening, Row, Settlement


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows that go into one transaction."""

    openings: list[Opening]
    """Of requests that do not settle in this batch."""
    settlements: dict[str, Settlement]
    """By id. Of two of the same request, the first."""
    again: list[Settlement]
    """The others."""


def batch_of(rows: Iterable[Row]) -> Batch:
    """Sort rows, which stand in the order in which they were handed over."""
    openings: dict[str, Opening] = {}
    settlements: dict[str, Settlement] = {}
    again: list[Settlement] = []
    for row in rows:
        if isinstance(row, Settlement):
            if settlements.setdefault(row.id, row) is not row:
                again.append(row)
            openings.pop(row.id, None)
        elif row.id not in settlements:
            openings[row.id] = row
    return Batch(list(openings.values()), settlements, again)


def hours(rows: Iterable[Settlement]) -> list[Sequence[object]]:
    """What these add to the table `hours`, one row for each of its keys."""
    sums: dict[tuple[int, str, str, str], list[int]] = {}
    for row in rows:
        key = (row.accepted_at_us - row.accepted_at_us % HOUR_US, row.tenant, row.model, row.tier)
        one = sums.get(key)
        if one is None:
            one = sums[key] = [0] * 10
        one[0] += 1
        one[1] += row.outcome == "ok"
        one[2] += row.outcome in ERRORS
        one[3] += row.prompt_tokens
        one[4] += row.cached_tokens
        one[5] += row.completion_tokens
        one[6] += row.price_nano_usd
        one[7] += row.compute_ns
        one[8] += row.compute_nano_usd
        one[9] += row.waste_tokens
    return [(*key, *counts) for key, counts in sums.items()]


def spend(rows: Iterable[Settlement]) -> list[Sequence[object]]:
    """What these add to the table `spend`, one row for each of its keys."""
    sums: dict[tuple[str, str, int], list[int]] = {}
    for row in rows:
        for period, start_us in (("day", row.day_start_us), ("month", row.month_start_us)):
            if start_us is not None:
                one = sums.setdefault((row.tenant, period, start_us), [0, 0])
                one[0] += row.spent_tokens
                one[1] += row.spent_nano_usd
    return [(*key, *counts) for key, counts in sums.items()]
