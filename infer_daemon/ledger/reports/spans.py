"""From when until when, as people say it. Pure."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from infer_daemon.ledger.instants import EPOCH, iso
from infer_daemon.ledger.periods import DAY_US, HOUR_US, SECOND_US

_UNITS_US = {"m": 60 * SECOND_US, "h": HOUR_US, "d": DAY_US, "w": 7 * DAY_US}
_AGE = re.compile(r"([0-9]{1,6})([mhdw])")
_LAST_US = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
"""What can be shown ends here; in zones west of here, what can be said does not."""


class BadQuestion(Exception):
    """What was asked has no answer; the message is one line and says why."""


@dataclass(frozen=True, slots=True)
class Span:
    """From the first moment up to, but without, the second."""

    since_us: int
    until_us: int


def span(since: str, until: str | None, now_us: int) -> Span:
    """What these words mean now.

    Raises:
        BadQuestion: they mean nothing.
    """
    since_us = _instant("since", since, now_us)
    until_us = now_us if until is None else _instant("until", until, now_us)
    if since_us >= until_us:
        raise BadQuestion(f"since {iso(since_us)} is not before until {iso(until_us)}")
    return Span(since_us, until_us)


def _instant(what: str, text: str, now_us: int) -> int:
    """An age, a day, or a day and time of UTC unless it says another zone."""
    if (age := _AGE.fullmatch(text)) is not None:
        return max(0, now_us - int(age[1]) * _UNITS_US[age[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadQuestion(
            f"{what} {text!r}: neither an age (30m, 24h, 7d, 4w) nor a day (2026-11-01) or moment"
            " (2026-11-01T12:00) of UTC"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0, (moment - EPOCH) // timedelta(microseconds=1)), _LAST_US)
