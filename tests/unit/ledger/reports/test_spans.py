"""Times as people say them."""

import pytest

from infer_daemon.ledger.instants import iso
from infer_daemon.ledger.periods import DAY_US, HOUR_US, SECOND_US
from infer_daemon.ledger.reports.spans import BadQuestion, Span, span

NOW_US = 20_000 * DAY_US + 5 * HOUR_US + 1
DAY = "2024-10-04"


@pytest.mark.parametrize(
    ("text", "since_us"),
    [
        ("30m", NOW_US - 1800 * SECOND_US),
        ("24h", NOW_US - DAY_US),
        ("7d", NOW_US - 7 * DAY_US),
        ("2w", NOW_US - 14 * DAY_US),
        (DAY, NOW_US - 5 * HOUR_US - 1),
        (f"{DAY}T01:30", NOW_US - 3 * HOUR_US - HOUR_US // 2 - 1),
        (f"{DAY}T03:30+02:00", NOW_US - 3 * HOUR_US - HOUR_US // 2 - 1),
        (f"{DAY}T01:30:00Z", NOW_US - 3 * HOUR_US - HOUR_US // 2 - 1),
        ("999999d", 0),
        ("0001-01-01", 0),
    ],
)
def test_a_time_is_an_age_or_a_moment(text: str, since_us: int) -> None:
    assert span(text, None, NOW_US) == Span(since_us, NOW_US)


@pytest.mark.parametrize("until", ["9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59.999999"])
def test_the_last_moments_that_can_be_said_can_be_shown(until: str) -> None:
    assert iso(span("7d", until, NOW_US).until_us).startswith("9999-12-31T23:59:59")


def test_a_time_may_end() -> None:
    assert span("2d", "1d", NOW_US) == Span(NOW_US - 2 * DAY_US, NOW_US - DAY_US)


@pytest.mark.parametrize("text", ["", "7", "d7", "-7d", "7 d", "1.5d", "2024-13-01", "now", "٣d"])
def test_what_is_neither_is_refused(text: str) -> None:
    with pytest.raises(BadQuestion, match=r"since .*: neither an age"):
        span(text, None, NOW_US)
    with pytest.raises(BadQuestion, match=r"until .*: neither an age"):
        span("7d", text, NOW_US)


@pytest.mark.parametrize(("since", "until"), [("1d", "2d"), ("1d", "1d"), ("2999-01-01", None)])
def test_a_time_that_ends_before_it_begins_is_refused(since: str, until: str | None) -> None:
    with pytest.raises(BadQuestion, match="is not before until"):
        span(since, until, NOW_US)


def test_a_moment_is_shown_as_it_is_read() -> None:
    assert iso(NOW_US) == "2024-10-04T05:00:00.000Z"
    assert iso(NOW_US - 1) == "2024-10-04T05:00:00Z"
