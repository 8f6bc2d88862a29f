"""What one tenant has used and reserved, and what that leaves of its budgets. Pure."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from infer_daemon.ledger.periods import Period

PERIODS_MAX = 4
"""Of which the use is kept, per kind: the newest, and what a wrong clock may have touched."""
NEVER = -1, -1
"""Starts of no day and no month."""
_DAY, _MONTH = Period.DAY, Period.MONTH  # members are slow to come by


class Unit(StrEnum):
    """What is counted."""

    TOKENS = "tokens"
    NANO_USD = "nano_usd"

    __hash__ = str.__hash__


_TOKENS = Unit.TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much may be used in a period."""

    period: Period
    unit: Unit
    limit: int
    is_hard: bool = True
    """Whether requests are refused when it is used up; else the tenant is told, no more."""

    @property
    def passed_at(self) -> int:
        """There is something to tell of it when so much is used: of a hard one that it is used up,
        of a soft one that it is overspent."""
        return self.limit if self.is_hard else self.limit + 1


@dataclass(slots=True, eq=False)
class Amount:
    """Of both units."""

    tokens: int
    nano_usd: int

    def of(self, unit: Unit) -> int:
        return self.tokens if unit is _TOKENS else self.nano_usd

    def add(self, tokens: int, nano_usd: int) -> None:
        self.tokens += tokens
        self.nano_usd += nano_usd


class Account:
    """One tenant's use, and what that leaves of its budgets in the periods that are now. What is
    left is kept, and not worked out anew for each request: as the use of the day at which it is
    nothing, for that of the month grows by the same."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.reserved_tokens = self.reserved_nano_usd = 0
        #: Per period, by its start; those that were charged last are at the end.
        self.used: dict[Period, dict[int, Amount]] = {period: {} for period in Period}
        #: The starts of the day and the month that all from here on is about.
        self.starts_us = NEVER
        #: What was used of them, and whether that is in `used` yet.
        self.day, self.month, self.is_kept = Amount(0, 0), Amount(0, 0), False
        #: At what use of the day a hard budget is used up, that of the month among them.
        self.full_tokens: float = math.inf
        self.full_nano_usd: float = math.inf
        #: At what use of the day there is a budget that is passed.
        self.passed_tokens: float = math.inf
        self.passed_nano_usd: float = math.inf

    def turn_to(self, starts_us: tuple[int, int], budgets: Iterable[Budget]) -> None:
        """Other periods are now, or there are other budgets."""
        day_us, month_us = self.starts_us = starts_us
        self.is_kept = False
        self.day = day = self.used[_DAY].get(day_us) or Amount(0, 0)
        self.month = self.used[_MONTH].get(month_us) or Amount(0, 0)
        full, passed = dict.fromkeys(Unit, math.inf), dict.fromkeys(Unit, math.inf)
        for budget in budgets:
            unit = budget.unit
            used = self.month if budget.period is _MONTH else day
            rest = day.of(unit) - used.of(unit)
            if budget.is_hard:
                full[unit] = min(full[unit], budget.limit + rest)
            passed[unit] = min(passed[unit], budget.passed_at + rest)
        self.full_tokens, self.full_nano_usd = full[Unit.TOKENS], full[Unit.NANO_USD]
        self.passed_tokens, self.passed_nano_usd = passed[Unit.TOKENS], passed[Unit.NANO_USD]

    def has_room(self, tokens: int, nano_usd: int, held_tokens: int, held_nano_usd: int) -> bool:
        """Whether hard budgets let in a request that holds and wants this much. One of which it
        wants no more than it holds does in any case."""
        day = self.day
        return (
            tokens <= held_tokens
            or day.tokens + self.reserved_tokens - held_tokens < self.full_tokens
        ) and (
            nano_usd <= held_nano_usd
            or day.nano_usd + self.reserved_nano_usd - held_nano_usd < self.full_nano_usd
        )

    def reserved(self, unit: Unit) -> int:
        return self.reserved_tokens if unit is _TOKENS else self.reserved_nano_usd

    @property
    def has_passed(self) -> bool:
        """Whether there is a budget that is used up, if it is hard, or overspent. Known as of the
        last time that something was charged or reserved."""
        day = self.day
        return day.tokens >= self.passed_tokens or day.nano_usd >= self.passed_nano_usd

    def used_in(self, period: Period, start_at_us: int, unit: Unit) -> int:
        use = self.used[period].get(start_at_us)
        return 0 if use is None else use.of(unit)

    def charge(self, tokens: int, nano_usd: int) -> None:
        """To the periods that are now."""
        if not self.is_kept:
            day_us, month_us = self.starts_us
            self.day, self.month = self.use_of(_DAY, day_us), self.use_of(_MONTH, month_us)
            self.is_kept = True
        day, month = self.day, self.month
        day.tokens += tokens
        day.nano_usd += nano_usd
        month.tokens += tokens
        month.nano_usd += nano_usd

    def use_of(self, period: Period, start_at_us: int) -> Amount:
        """To be added to. Metrics are read by another thread: what was used must not be gone for a
        moment."""
        periods = self.used[period]
        use = periods.get(start_at_us)
        if use is None:
            use = periods[start_at_us] = Amount(0, 0)
            if len(periods) > PERIODS_MAX:
                del periods[next(iter(periods))]
        elif next(reversed(periods)) != start_at_us:  # the clock was set
            periods[start_at_us] = periods.pop(start_at_us)
        return use
