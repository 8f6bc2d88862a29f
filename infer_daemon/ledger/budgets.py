"""What a tenant may use in a day and in a month, in dollars and in tokens. Pure: `now_us` is passed
in, and nothing is kept but sums.

Whoever is let in reserves what the request may use at most, and settles what it did use. A hard
budget lets a request in while anything of it is neither used nor reserved, even if that is less
than the request reserves: so one request at most may exceed what is left, and until that one has
settled, nobody else is let in. The budget is overshot by no more than this one request's
reservation, and nobody is refused for whom there was room. What a request may use at most is known
exactly when it is rendered: it reserves the least before that, and amends.

A request is charged to the period in which it settles. Reservations belong to no period: they count
against the one that is now, so they move with it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from infer_daemon.ledger.periods import DAY_US, HOUR_US, Period, period_end, period_starts

STEP_BACK_MAX_US = HOUR_US
"""A clock that is set back by less than that stays in the newest period it has been in: what was
let in there is not to be charged to an earlier one that is full. If it goes back further, it was
wrong before, and the period it goes back to is found as it was left."""
PERIODS_MAX = 4
"""Of which the use is kept, per kind: the newest, and what a wrong clock may have touched."""
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


@dataclass(frozen=True, slots=True)
class Spend:
    """Settled use of one period, as the database keeps it."""

    tenant: str
    period: Period
    start_at_us: int
    tokens: int
    nano_usd: int


@dataclass(slots=True, eq=False)
class _Amount:
    """Of both units."""

    tokens: int
    nano_usd: int

    def of(self, unit: Unit) -> int:
        return self.tokens if unit is _TOKENS else self.nano_usd

    def add(self, tokens: int, nano_usd: int) -> None:
        self.tokens += tokens
        self.nano_usd += nano_usd


_NOTHING = _Amount(0, 0)


@dataclass(slots=True, eq=False)
class Reservation(_Amount):
    """What one request may use at most. Changed by `Budgets` alone; settled or released once."""

    tenant: str


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Why a request is refused."""

    period: Period
    unit: Unit
    limit: int
    resets_at_us: int
    is_used_up: bool
    """Else requests that are running hold what is left of it: some of it may be free when they
    end."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a tenant stands with one unit in one period."""

    period: Period
    unit: Unit
    start_at_us: int
    resets_at_us: int
    used: int
    reserved: int
    limit: int | None
    is_hard: bool

    @property
    def over(self) -> int:
        """How much more was used than the limit says."""
        return 0 if self.limit is None else max(0, self.used - self.limit)

    @property
    def kind(self) -> str:
        """As the configuration calls it."""
        return "hard" if self.is_hard else "soft"


class _Account:
    """One tenant's use."""

    def __init__(self) -> None:
        self.reserved = _Amount(0, 0)
        #: Per period, by its start; those that were charged last are at the end.
        self.used: dict[Period, dict[int, _Amount]] = {period: {} for period in Period}

    def used_in(self, period: Period, start_at_us: int, unit: Unit) -> int:
        use = self.used[period].get(start_at_us)
        if use is None:
            return 0
        return use.tokens if unit is _TOKENS else use.nano_usd

    def charge(self, period: Period, start_at_us: int, tokens: int, nano_usd: int) -> None:
        """Metrics are read by another thread: what was used must not be gone for a moment."""
        periods = self.used[period]
        use = periods.get(start_at_us)
        if use is None:
            use = periods[start_at_us] = _Amount(0, 0)
            if len(periods) > PERIODS_MAX:
                del periods[next(iter(periods))]
        elif next(reversed(periods)) != start_at_us:  # the clock was set
            periods[start_at_us] = periods.pop(start_at_us)
        use.tokens += tokens
        use.nano_usd += nano_usd


class Budgets:
    """Everybody's. Use is counted also for those who have no budget: they may get one."""

    def __init__(
        self, limits: Mapping[str, Sequence[Budget]], settled: Iterable[Spend] = ()
    ) -> None:
        """Args: settled: of the day and the month that are now, or that begin within
        `STEP_BACK_MAX_US`; earlier ones do no harm."""
        self._limits = limits
        self._accounts: dict[str, _Account] = {}
        self._open: set[Reservation] = set()
        self._now_us = 0
        #: Of the day and the month in which that is, and when that day ends.
        self._starts_us, self._day_end_us = period_starts(0), DAY_US
        for spend in sorted(settled, key=lambda spend: spend.start_at_us):
            account = self._account(spend.tenant)
            account.charge(spend.period, spend.start_at_us, spend.tokens, spend.nano_usd)
            self._now_us = max(self._now_us, spend.start_at_us)

    def change(self, limits: Mapping[str, Sequence[Budget]]) -> None:
        """Other limits from now on; what is used and reserved stays so."""
        self._limits = limits

    def reserve(
        self, tenant: str, tokens: int, nano_usd: int, now_us: int
    ) -> Reservation | Exhausted:
        """Let a request in that will use no more than that, or say which budget forbids it: of
        several the one that keeps it out the longest. What reserves nothing of a unit is not
        refused for it: a model that is free stays open to those who have spent their dollars."""
        assert tokens >= 0 <= nano_usd, "a request cannot use less than nothing"
        account = self._account(tenant)
        if tenant in self._limits:
            wanted, starts_us = _Amount(tokens, nano_usd), self._starts(now_us)
            if why := _refusal(account, self._limits[tenant], _NOTHING, wanted, starts_us):
                return why
        reservation = Reservation(tokens, nano_usd, tenant)
        self._open.add(reservation)
        account.reserved.add(tokens, nano_usd)
        return reservation

    def amend(
        self, reservation: Reservation, tokens: int, nano_usd: int, now_us: int
    ) -> Exhausted | None:
        """The request turns out to use no more than that. If it is more than it has reserved, it is
        let in as if it came now: while anything is left that others neither use nor reserve. So of
        those who come together too many may reserve a little, but not amend it to too much.

        Returns: why it is refused, which leaves it what it held; None if it is not.
        """
        assert tokens >= 0 <= nano_usd, "a request cannot use less than nothing"
        assert reservation in self._open, "a reservation was amended that is not open"
        tenant, account = reservation.tenant, self._accounts[reservation.tenant]
        if tenant in self._limits:
            wanted, starts_us = _Amount(tokens, nano_usd), self._starts(now_us)
            if why := _refusal(account, self._limits[tenant], reservation, wanted, starts_us):
                return why
        account.reserved.add(tokens - reservation.tokens, nano_usd - reservation.nano_usd)
        reservation.tokens, reservation.nano_usd = tokens, nano_usd
        return None

    def settle(
        self, reservation: Reservation, tokens: int, nano_usd: int, now_us: int
    ) -> tuple[int, int]:
        """That is what the request has used.

        Returns: the starts of the day and of the month that it is charged to, for the database to
        charge the same ones.
        """
        assert reservation in self._open, "a reservation was settled that is not open"
        account = self._let_go(reservation)
        starts_us = self._starts(now_us)
        account.charge(_DAY, starts_us[0], tokens, nano_usd)
        account.charge(_MONTH, starts_us[1], tokens, nano_usd)
        return starts_us

    def release(self, reservation: Reservation) -> None:
        """Nothing was used. One that is settled or released already is fine."""
        if reservation in self._open:
            self._let_go(reservation)

    def _let_go(self, reservation: Reservation) -> _Account:
        self._open.remove(reservation)
        account = self._accounts[reservation.tenant]
        account.reserved.add(-reservation.tokens, -reservation.nano_usd)
        return account

    def warnings(self, tenant: str, now_us: int) -> list[Standing]:
        """Soft budgets that are overspent; `over` says by how much."""
        return [standing for standing in self.passed(tenant, now_us) if not standing.is_hard]

    def passed(self, tenant: str, now_us: int) -> list[Standing]:
        """Budgets of which there is something to tell: hard ones that are used up, soft ones that
        are overspent. Quick where there are none: each request asks."""
        account = self._accounts.get(tenant)
        if account is None:
            return []
        starts_us = self._starts(now_us)
        found = []
        for budget in self._limits.get(tenant, ()):
            period, unit = budget.period, budget.unit
            start_at_us = starts_us[period is _MONTH]
            used = account.used_in(period, start_at_us, unit)
            if used > budget.limit or (used == budget.limit and budget.is_hard):
                end_us, reserved = period_end(period, starts_us[0]), account.reserved.of(unit)
                limit = budget.limit, budget.is_hard
                found.append(Standing(period, unit, start_at_us, end_us, used, reserved, *limit))
        return found

    def snapshot(self, tenant: str, now_us: int) -> list[Standing]:
        """Its use of the day and of the month, in tokens and in nano-dollars, budget or none. A
        unit with a hard and a soft budget is there twice."""
        now_us = self._believe(now_us)
        account = self._accounts.get(tenant) or _Account()
        rows: list[Standing] = []
        for period, start_at_us in zip(Period, self._starts(now_us), strict=True):
            resets_at_us = period_end(period, now_us)
            for unit in Unit:
                used, reserved = (
                    account.used_in(period, start_at_us, unit),
                    account.reserved.of(unit),
                )
                limits: list[tuple[int | None, bool]] = [
                    (budget.limit, budget.is_hard)
                    for budget in self._limits.get(tenant, ())
                    if budget.period is period and budget.unit is unit
                ]
                rows += [
                    Standing(period, unit, start_at_us, resets_at_us, used, reserved, *limit)
                    for limit in limits or [(None, False)]
                ]
        return rows

    def check(self) -> None:
        """Raises AssertionError unless what is reserved is what open reservations reserve."""
        for tenant, account in self._accounts.items():
            own = [one for one in self._open if one.tenant == tenant]
            assert account.reserved.tokens == sum(one.tokens for one in own), tenant
            assert account.reserved.nano_usd == sum(one.nano_usd for one in own), tenant

    def _believe(self, now_us: int) -> int:
        if not 0 <= self._now_us - now_us <= STEP_BACK_MAX_US:
            self._now_us = now_us
        return self._now_us

    def _starts(self, now_us: int) -> tuple[int, int]:
        """Of the day and of the month that are believed to be now."""
        starts_us = self._starts_us
        if starts_us[0] <= self._now_us <= now_us < self._day_end_us:  # as good as always
            self._now_us = now_us
            return starts_us
        self._starts_us = period_starts(self._believe(now_us))
        self._day_end_us = self._starts_us[0] + DAY_US
        return self._starts_us

    def _account(self, tenant: str) -> _Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = _Account()
        return account


def _refusal(
    account: _Account,
    budgets: Iterable[Budget],
    held: _Amount,
    wanted: _Amount,
    starts_us: tuple[int, int],
) -> Exhausted | None:
    """Which hard budget keeps out a request that holds and wants this much; one of which it wants
    no more than it holds does not."""
    refusals = []
    for budget in budgets:
        period, unit = budget.period, budget.unit
        if not budget.is_hard or wanted.of(unit) <= held.of(unit):
            continue
        left = budget.limit - account.used_in(period, starts_us[period is _MONTH], unit)
        if left - account.reserved.of(unit) + held.of(unit) <= 0:
            resets_at_us = period_end(period, starts_us[0])
            refusals.append(
                Exhausted(period, unit, budget.limit, resets_at_us, is_used_up=left <= 0)
            )
    if not refusals:
        return None
    return max(refusals, key=lambda one: (one.is_used_up, one.resets_at_us))
