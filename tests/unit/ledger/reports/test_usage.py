"""Reports, against plain arithmetic over the same requests."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from infer_daemon.ledger.instants import iso
from infer_daemon.ledger.periods import DAY_US, HOUR_US
from infer_daemon.ledger.reports import usage
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.reports.spans import BadQuestion, Span
from infer_daemon.ledger.rows import Settlement
from infer_daemon.ledger.sql.database import WriterDatabase
from tests.unit.ledger.reports import seeded
from tests.unit.ledger.reports.seeded import FIRST_US, NOW_US

WHOLE = Span(FIRST_US, NOW_US)
ERRORS = ("engine_error", "internal_error", "lost")
KEYS: dict[str, Callable[[Settlement], object]] = {
    "tenant": lambda row: row.tenant,
    "model": lambda row: row.model,
    "class": lambda row: row.tier,
    "day": lambda row: iso(row.accepted_at_us - row.accepted_at_us % DAY_US)[:10],
    "hour": lambda row: iso(row.accepted_at_us - row.accepted_at_us % HOUR_US)[:16] + "Z",
    "endpoint": lambda row: row.endpoint,
    "outcome": lambda row: row.outcome,
}


def all_rows() -> list[Settlement]:
    return [*seeded.requests(), seeded.lost()]


def expected(rows: list[Settlement]) -> dict[str, Any]:
    """What a report must say of these."""
    tokens = sum(row.prompt_tokens + row.completion_tokens for row in rows)
    price = sum(row.price_nano_usd for row in rows)
    compute = sum(row.compute_nano_usd for row in rows)
    errors = sum(row.outcome in ERRORS for row in rows)
    waste = sum(row.waste_tokens for row in rows)
    firsts = [r.first_token_us for r in rows if r.first_token_us is not None]
    ends = [row.accepted_at_us + (row.settled_us or 0) for row in rows]
    lasted_us = max(ends) - min(row.accepted_at_us for row in rows)
    output = sum(row.completion_tokens for row in rows)
    p50, p99 = seeded.percentile(firsts, 50), seeded.percentile(firsts, 99)
    return {
        "requests": len(rows),
        "ok": sum(row.outcome == "ok" for row in rows),
        "errors": errors,
        "prompt_tokens": sum(row.prompt_tokens for row in rows),
        "cached_tokens": sum(row.cached_tokens for row in rows),
        "completion_tokens": output,
        "price_nano_usd": price,
        "compute_nano_usd": compute,
        "compute_s": round(sum(row.compute_ns for row in rows) / 1e9, 3),
        "price_usd_per_million_tokens": round(price / tokens / 1000, 9) if tokens else None,
        "compute_usd_per_million_tokens": round(compute / tokens / 1000, 9) if tokens else None,
        "completion_tokens_per_s": round(output * 1e6 / lasted_us, 3) if lasted_us else None,
        "ttft_p50_ms": None if p50 is None else p50 / 1000,
        "ttft_p99_ms": None if p99 is None else p99 / 1000,
        "errors_percent": round(100 * errors / len(rows), 3),
        "waste_tokens": waste,
        "waste_percent": round(100 * waste / tokens, 3) if tokens else None,
        "accepted": 0,
        "price_usd_per_accepted": None,
        "compute_usd_per_accepted": None,
    }


def told(reader: Reader, by: Sequence[str], span: Span = WHOLE) -> dict[tuple[object, ...], Any]:
    """The rows of a report by their group."""
    rows: Any = usage.report(reader, by, span)["rows"]
    return {tuple(row.pop(name) for name in by): row for row in rows}


@pytest.mark.parametrize(
    "by",
    ["tenant", "model", "class", "day", "hour", "endpoint", "outcome", "tenant,model,class,day"],
)
def test_a_report_is_what_its_requests_come_to(reader: Reader, by: str) -> None:
    names = usage.dimensions(by)
    groups = seeded.grouped(all_rows(), lambda row: tuple(KEYS[name](row) for name in names))

    found = told(reader, names)

    if "endpoint" in names:  # the lost one has none
        groups[("",)] = [seeded.lost()]
        groups[("chat",)] = [r for r in seeded.requests() if r.endpoint == "chat"]
    assert found == {key: expected(rows) for key, rows in groups.items()}


def test_its_total_is_that_of_all(reader: Reader) -> None:
    assert usage.report(reader, ["tenant", "day"], WHOLE)["total"] == expected(all_rows())


def test_only_what_was_accepted_in_its_time_counts(reader: Reader) -> None:
    span = Span(FIRST_US + DAY_US + 12_345, FIRST_US + 3 * DAY_US + 54_321)
    inside = [r for r in all_rows() if span.since_us <= r.accepted_at_us < span.until_us]

    assert usage.report(reader, ["model"], span)["total"] == expected(inside)


def test_nothing_at_all_is_no_rows_and_a_total_of_nothing(reader: Reader) -> None:
    found: Any = usage.report(reader, ["model"], Span(NOW_US, NOW_US + 1))

    assert (found["rows"], found["total"]["requests"], found["notes"]) == ([], 0, [])
    assert found["total"]["ttft_p50_ms"] is None


def prune(database: WriterDatabase, older_than_us: int) -> None:
    while database.prune(older_than_us, 500):
        pass


@pytest.mark.parametrize("cut_us", [FIRST_US + 2 * DAY_US, FIRST_US + 2 * DAY_US + 1_234_567_890])
def test_where_rows_were_deleted_their_hours_are_counted(
    database: WriterDatabase, reader: Reader, cut_us: int
) -> None:
    before: Any = usage.report(reader, ["tenant", "day"], WHOLE)
    prune(database, cut_us)

    after: Any = usage.report(reader, ["tenant", "day"], WHOLE)

    blank = ("ttft_p50_ms", "ttft_p99_ms", "completion_tokens_per_s")
    for was, now in zip(before["rows"], after["rows"], strict=True):
        same = {key: value for key, value in was.items() if key not in blank}
        assert same == {key: value for key, value in now.items() if key not in blank}
        if now["day"] < iso(cut_us)[:10]:
            assert now["ttft_p50_ms"] is None
        elif now["day"] > iso(cut_us)[:10]:
            assert now == was
    assert before["notes"] == []
    whole_from_us = -(-cut_us // HOUR_US) * HOUR_US
    assert f"rows before {iso(whole_from_us)} were deleted" in after["notes"][0]


def test_when_all_rows_were_deleted_everything_is_still_counted(
    database: WriterDatabase, reader: Reader
) -> None:
    prune(database, NOW_US)

    found: Any = usage.report(reader, ["outcome"], WHOLE)

    assert [row["outcome"] for row in found["rows"]] == [None]
    assert found["total"]["requests"] == seeded.REQUESTS + 1
    assert found["total"]["price_nano_usd"] == expected(all_rows())["price_nano_usd"]
    assert "rows of this time were deleted" in found["notes"][0]


def test_cost_per_accepted_outcome_is_all_cost_by_those_of_use(
    database: WriterDatabase, reader: Reader
) -> None:
    rows = [row for row in seeded.requests() if row.tenant == "acme"]
    with database.transaction():
        for number, row in enumerate(rows[:30]):
            values = (row.id, row.tenant, number % 3 == 0, row.accepted_at_us)
            sql = "INSERT INTO feedback (request_id, tenant, accepted, at_us) VALUES (?, ?, ?, ?)"
            database.connection.execute(sql, values)

    found = told(reader, ["tenant"])

    charged = sum(row.price_nano_usd for row in rows)
    assert found[("acme",)]["accepted"] == 10
    assert found[("acme",)]["price_usd_per_accepted"] == round(charged / 10 / 1e9, 9)
    assert found[("globex",)]["price_usd_per_accepted"] is None
    assert found[("acme",)]["requests"] == len(rows) + 1


def test_top_has_who_was_charged_most_first(reader: Reader) -> None:
    charged = {
        name: sum(row.price_nano_usd for row in rows)
        for (name,), rows in seeded.grouped(all_rows(), lambda row: (row.tenant,)).items()
    }
    found: Any = usage.top(reader, WHOLE, 2)

    most = sorted(charged, key=lambda name: charged[name], reverse=True)
    assert [row["tenant"] for row in found["rows"]] == most[:2]
    share = round(100 * charged[most[0]] / sum(charged.values()), 3)
    assert found["rows"][0]["price_percent"] == share


def test_a_tenant_sees_its_own_and_not_what_it_cost(reader: Reader) -> None:
    found: Any = usage.own(reader, "acme", Span(FIRST_US + DAY_US + 1, NOW_US))

    rows = [r for r in all_rows() if r.tenant == "acme" and r.accepted_at_us >= FIRST_US + DAY_US]
    charged = sum(row.price_nano_usd for row in rows)
    assert found["since"] == iso(FIRST_US + DAY_US)
    assert found["total"]["requests"] == len(rows)
    assert found["total"]["price_nano_usd"] == charged
    assert found["total"]["price_usd"] == f"{charged // 10**9}.{charged % 10**9:09d}"
    assert sum(day["completion_tokens"] for day in found["data"]) == sum(
        row.completion_tokens for row in rows
    )
    assert len(found["data"]) == 2 * (seeded.DAYS - 1)
    assert "compute" not in str(found)
    assert usage.own(reader, "nobody", WHOLE)["data"] == []


@pytest.mark.parametrize(
    ("by", "why"),
    [
        ("colour", "by 'colour': a report can be by tenant, model, class, day"),
        ("tenant,", "by ''"),
        ("day,day", "names one of them twice"),
        ("tenant; DROP TABLE requests", "a report can be by"),
    ],
)
def test_a_report_by_something_unknown_is_refused(by: str, why: str) -> None:
    with pytest.raises(BadQuestion, match=why):
        usage.dimensions(by)
