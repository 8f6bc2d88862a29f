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

import msgspec

from infer_daemon.ledger.accounts import NEVER, Account, Amount, Budget, Unit
from infer_daemon.ledger.periods import DAY_US, HOUR_US, Period, period_end, period_starts

STEP_BACK_MAX_US = HOUR_US
"""A clock that is set back by less than that stays in the newest period it has been in: what was
let in there is not to be charged to an earlier one that is full. If it goes back further, it was
wrong before, and the period it goes back to is found as it was left."""
_MONTH = Period.MONTH  # members are slow to come by


@dataclass(frozen=True, slots=True)
class Spend:
    """Settled use of one period, as the database keeps it."""

    tenant: str
    period: Period
    start_at_us: int
    tokens: int
    nano_usd: int


_NOTHING = Amount(0, 0)


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


class Reservation(msgspec.Struct, eq=False, gc=False):
    """What one request may use at most. Changed by `Budgets` alone; settled or released once."""

    account: Account
    tokens: int
    nano_usd: int
    input_tokens: int = 0
    """From here on whoever reserves may note what it is for."""
    output_tokens: int = 0

    @property
    def tenant(self) -> str:
        return self.account.tenant


class Budgets:
    """Everybody's. Use is counted also for those who have no budget: they may get one."""

    def __init__(
        self, limits: Mapping[str, Sequence[Budget]], settled: Iterable[Spend] = ()
    ) -> None:
        """Args: settled: of the day and the month that are now, or that begin within
        `STEP_BACK_MAX_US`; earlier ones do no harm."""
        self._limits = limits
        self._accounts: dict[str, Account] = {}
        self._open: set[Reservation] = set()
        self._now_us = 0
        #: Of the day and the month in which that is, and when that day ends.
        self._starts_us, self._day_end_us = period_starts(0), DAY_US
        for spend in sorted(settled, key=lambda spend: spend.start_at_us):
            use = self._account(spend.tenant).use_of(spend.period, spend.start_at_us)
            use.add(spend.tokens, spend.nano_usd)
            self._now_us = max(self._now_us, spend.start_at_us)

    def change(self, limits: Mapping[str, Sequence[Budget]]) -> None:
        """Other limits from now on; what is used and reserved stays so."""
        self._limits = limits
        for account in self._accounts.values():
            account.starts_us = NEVER

    def reserve(
        self, tenant: str, tokens: int, nano_usd: int, now_us: int
    ) -> Reservation | Exhausted:
        """Let a request in that will use no more than that, or say which budget forbids it: of
        several the one that keeps it out the longest. What reserves nothing of a unit is not
        refused for it: a model that is free stays open to those who have spent their dollars."""
        assert tokens >= 0 <= nano_usd, "a request cannot use less than nothing"
        account = self._accounts.get(tenant) or self._account(tenant)
        self._turn(account, now_us)
        if not account.has_room(tokens, nano_usd, 0, 0):
            return self._refusal(account, Amount(tokens, nano_usd), _NOTHING)
        reservation = Reservation(account, tokens, nano_usd)
        self._open.add(reservation)
        account.reserved_tokens += tokens
        account.reserved_nano_usd += nano_usd
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
        account = reservation.account
        self._turn(account, now_us)
        held_tokens, held_nano_usd = reservation.tokens, reservation.nano_usd
        if not account.has_room(tokens, nano_usd, held_tokens, held_nano_usd):
            held = Amount(held_tokens, held_nano_usd)
            return self._refusal(account, Amount(tokens, nano_usd), held)
        account.reserved_tokens += tokens - held_tokens
        account.reserved_nano_usd += nano_usd - held_nano_usd
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
        self._let_go(reservation)
        account = reservation.account
        self._turn(account, now_us)
        account.charge(tokens, nano_usd)
        return account.starts_us

    def release(self, reservation: Reservation) -> None:
        """Nothing was used. One that is settled or released already is fine."""
        if reservation in self._open:
            self._let_go(reservation)

    def _let_go(self, reservation: Reservation) -> None:
        self._open.remove(reservation)
        reservation.account.reserved_tokens -= reservation.tokens
        reservation.account.reserved_nano_usd -= reservation.nano_usd

    def warnings(self, tenant: str, now_us: int) -> list[Standing]:
        """Soft budgets that are overspent; `over` says by how much."""
        return [standing for standing in self.passed(tenant, now_us) if not standing.is_hard]

    def passed(self, tenant: str, now_us: int) -> list[Standing]:
        """Budgets of which there is something to tell: hard ones that are used up, soft ones that
        are overspent. Quick where there are none: each request asks."""
        if tenant not in self._accounts:
            return []
        account = self._accounts[tenant]
        self._turn(account, now_us)
        if not account.has_passed:
            return []
        starts_us, found = account.starts_us, []
        for budget in self._limits.get(tenant, ()):
            period, unit = budget.period, budget.unit
            start_at_us = starts_us[period is _MONTH]
            used = account.used_in(period, start_at_us, unit)
            if used >= budget.passed_at:
                end_us, reserved = period_end(period, starts_us[0]), account.reserved(unit)
                limit = budget.limit, budget.is_hard
                found.append(Standing(period, unit, start_at_us, end_us, used, reserved, *limit))
        return found

    def snapshot(self, tenant: str, now_us: int) -> list[Standing]:
        """Its use of the day and of the month, in tokens and in nano-dollars, budget or none. A
        unit with a hard and a soft budget is there twice."""
        account = self._accounts.get(tenant) or Account(tenant)
        rows: list[Standing] = []
        starts_us = self._starts(now_us)
        for period, start_at_us in zip(Period, starts_us, strict=True):
            resets_at_us = period_end(period, starts_us[0])
            for unit in Unit:
                used, reserved = (
                    account.used_in(period, start_at_us, unit),
                    account.reserved(unit),
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
            own = [one for one in self._open if one.account is account]
            assert account.reserved_tokens == sum(one.tokens for one in own), tenant
            assert account.reserved_nano_usd == sum(one.nano_usd for one in own), tenant

    def _starts(self, now_us: int) -> tuple[int, int]:
        """Of the day and of the month that are believed to be now."""
        if not 0 <= self._now_us - now_us <= STEP_BACK_MAX_US:
            self._now_us = now_us
        starts_us = period_starts(self._now_us)
        if starts_us != self._starts_us:
            self._starts_us, self._day_end_us = starts_us, starts_us[0] + DAY_US
        return self._starts_us

    def _turn(self, account: Account, now_us: int) -> None:
        """It is to know what is left now."""
        if self._now_us <= now_us < self._day_end_us:  # as good as always
            self._now_us, starts_us = now_us, self._starts_us
        else:
            starts_us = self._starts(now_us)
        if account.starts_us is not starts_us:
            account.turn_to(starts_us, self._limits.get(account.tenant, ()))

    def _account(self, tenant: str) -> Account:
        account = self._accounts.get(tenant)
        if account is None:
            account = self._accounts[tenant] = Account(tenant)
        return account

    def _refusal(self, account: Account, wanted: Amount, held: Amount) -> Exhausted:
        """Which hard budget keeps out a request for which there is no room."""
        refusals, starts_us = [], account.starts_us
        for budget in self._limits[account.tenant]:
            period, unit = budget.period, budget.unit
            if not budget.is_hard or wanted.of(unit) <= held.of(unit):
                continue
            left = budget.limit - account.used_in(period, starts_us[period is _MONTH], unit)
            if left - account.reserved(unit) + held.of(unit) <= 0:
                resets_at_us = period_end(period, starts_us[0])
                refusals.append(
                    Exhausted(period, unit, budget.limit, resets_at_us, is_used_up=left <= 0)
                )
        return max(refusals, key=lambda one: (one.is_used_up, one.resets_at_us))
