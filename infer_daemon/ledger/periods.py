"""Days and calendar months of UTC, in microseconds since the Unix epoch. Pure."""

from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
SECOND_US = 1_000_000


class Period(StrEnum):
    """After which a budget starts anew."""

    DAY = "day"
    MONTH = "month"

    __hash__ = str.__hash__


def period_starts(now_us: int) -> tuple[int, int]:
    """When the day and the month began that `now_us` is in."""
    day_start_us = now_us - now_us % DAY_US
    return day_start_us, _month(day_start_us)[0]


def period_end(period: Period, now_us: int) -> int:
    """When the period ends that `now_us` is in: the first moment of the next."""
    day_start_us = now_us - now_us % DAY_US
    return day_start_us + DAY_US if period is Period.DAY else _month(day_start_us)[1]


@lru_cache(maxsize=16)
def _month(day_start_us: int) -> tuple[int, int]:
    """Its start and its end."""
    first = datetime.fromtimestamp(day_start_us // SECOND_US, UTC).replace(day=1)
    year, month = divmod(12 * first.year + first.month, 12)
    following = first.replace(year=year, month=month + 1)
    return int(first.timestamp()) * SECOND_US, int(following.timestamp()) * SECOND_US
