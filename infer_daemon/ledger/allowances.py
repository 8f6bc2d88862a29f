"""What each tenant may still spend: budgets, in the terms of requests.

A request reserves before it is rendered, amends when its tokens are known, and is billed when it is
over, at the price that holds then. Bills are the only place where a request's price is worked out:
its row, and its tenant's budgets, have it from there.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from infer_daemon.domain.errors import CutShort, DaemonError, PoolLost, QuotaExceeded
from infer_daemon.domain.money import usd
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.ledger.accounts import Budget, Unit
from infer_daemon.ledger.budgets import (
    Budgets,
    Exhausted,
    Reservation,
    Spend,
    Standing,
)
from infer_daemon.ledger.instants import iso
from infer_daemon.ledger.pricing import Bill, Price, charge, most_nano_usd

log = structlog.get_logger()

HEADER = "x-infer-budget-warning"
HELD_RETRY_S = 2.0
"""When to come again for what running requests hold: many end within that."""
SECOND_US = 1_000_000
_FREE = Price(input_nano_usd=0, cached_nano_usd=0, output_nano_usd=0)
_NOTHING = Bill()


class Allowances:
    """Used on the event loop. Each `reserve` *must* be followed by one `settle`."""

    def __init__(
        self,
        limits: Mapping[str, Sequence[Budget]],
        prices: Mapping[str, Price],
        now_us: Callable[[], int],
    ) -> None:
        """
        Args:
            limits: of each tenant.
            prices: model -> what its tokens are sold for; who is not in it is free.
            now_us: the wall clock, microseconds since the Unix epoch.
        """
        self._limits = limits
        self._prices = prices
        self._now_us = now_us
        self._budgets = Budgets(limits)
        #: What each open request has reserved: for the tokens of all its calls that are rendered.
        self._held: dict[str, Reservation] = {}
        #: Budget -> start of the last period in which it was told that it is passed, and its limit.
        self._told: dict[tuple[object, ...], tuple[int, int | None]] = {}
        #: Who had passed a budget when a request of theirs was last settled. Nobody else has
        #: overspent one, so nobody else's requests are asked.
        self._passed: set[str] = set()

    def load(self, settled: Iterable[Spend]) -> None:
        """What was used before the start; see `Budgets`. What was told of it is not told again."""
        assert not self._held, "spending is loaded before the first request"
        self._budgets = Budgets(self._limits, settled)
        for tenant in self._limits:
            self._newly_passed(tenant, self._now_us())

    def change(self, limits: Mapping[str, Sequence[Budget]], prices: Mapping[str, Price]) -> None:
        """Other budgets and prices from now on, also for requests that are running."""
        self._limits, self._prices = limits, prices
        self._budgets.change(limits)
        self._passed = {tenant for tenant in limits if self._budgets.passed(tenant, self._now_us())}

    @property
    def open_count(self) -> int:
        """Requests that hold a reservation."""
        return len(self._held)

    def _price(self, record: RequestRecord) -> Price:
        """Of the model that answers; where that has none, of the one that was asked for."""
        return self._prices.get(record.answered_by) or self._prices.get(record.model, _FREE)

    def reserve(self, record: RequestRecord, *, input_tokens: int, output_tokens: int) -> None:
        """Before a request is rendered. If a soft budget is overspent, its client is told.

        Args: input_tokens, output_tokens: the least that it will reserve.

        Raises:
            QuotaExceeded: a hard budget is used up, or held by those who are running.
        """
        price = self._price(record)
        nano_usd = most_nano_usd(price, input_tokens, output_tokens)
        tokens, now_us = input_tokens + output_tokens, self._now_us()
        answer = self._budgets.reserve(record.tenant, tokens, nano_usd, now_us)
        if isinstance(answer, Exhausted):
            raise _quota_exceeded(record.tenant, answer, now_us)
        self._held[record.id] = answer
        record.reserved_tokens, record.reserved_nano_usd = tokens, nano_usd
        if record.tenant in self._passed and (
            overspent := self._budgets.warnings(record.tenant, now_us)
        ):
            record.told[HEADER] = "; ".join(_warning(standing) for standing in overspent)

    def amend(self, record: RequestRecord, *, input_tokens: int, output_tokens: int) -> None:
        """One call of a request has been rendered, and will use no more than that. The first takes
        the place of what was reserved before, the others are added.

        Raises:
            QuotaExceeded: since it came, others have reserved all that was left.
        """
        held = self._held[record.id]
        input_tokens += held.input_tokens
        output_tokens += held.output_tokens
        price = self._price(record)
        nano_usd = most_nano_usd(price, input_tokens, output_tokens)
        tokens, now_us = input_tokens + output_tokens, self._now_us()
        why = self._budgets.amend(held, tokens, nano_usd, now_us)
        if why is not None:
            self._let_go(held, now_us)
            raise _quota_exceeded(record.tenant, why, now_us)
        held.input_tokens, held.output_tokens = input_tokens, output_tokens
        record.reserved_tokens, record.reserved_nano_usd = tokens, nano_usd

    def settle(self, record: RequestRecord, error: DaemonError | None = None) -> Bill:
        """A request is over: what it has used is charged to the periods that are now, and what it
        has reserved beyond that is free. One that no engine has worked for costs nothing; one that
        has failed by our fault has no price, and its tokens are used all the same. Fine for one
        that has reserved nothing.

        Args: error: what its client was told; None if it got its answer or went away.
        """
        held = self._held.pop(record.id, None)
        if held is None:
            return _NOTHING
        if record.granted_s is None:
            self._budgets.release(held)
            return _NOTHING
        prompt_tokens, completion_tokens = record.prompt_tokens, record.completion_tokens
        is_free = error is not None and _is_our_fault(error)
        price = _FREE if is_free else self._price(record)
        bill = charge(price, prompt_tokens, record.cached_tokens, completion_tokens)
        record.price_nano_usd = nano_usd = bill.total_nano_usd
        tokens, now_us = prompt_tokens + completion_tokens, self._now_us()
        day_us, month_us = self._budgets.settle(held, tokens, nano_usd, now_us)
        if held.account.has_passed or record.tenant in self._passed:
            for standing in self._newly_passed(record.tenant, now_us):
                _tell(record.tenant, standing)
        return Bill(bill, tokens, day_us, month_us)

    def standings(self) -> list[tuple[str, Standing]]:
        """Of every budget there is, with its tenant."""
        now_us = self._now_us()
        return [
            (tenant, standing)
            for tenant in self._limits
            for standing in self._budgets.snapshot(tenant, now_us)
            if standing.limit is not None
        ]

    def snapshot(self) -> list[dict[str, object]]:
        """Plain values for `infer-daemon state`."""
        return [
            {
                "tenant": tenant,
                "period": str(standing.period),
                "unit": str(standing.unit),
                "kind": standing.kind,
                "used": standing.used,
                "reserved": standing.reserved,
                "limit": standing.limit,
                "resets_at": iso(standing.resets_at_us),
            }
            for tenant, standing in self.standings()
        ]

    def check(self) -> None:
        """Assert that nothing is reserved that no open request holds; tests call it."""
        self._budgets.check()

    def _let_go(self, held: Reservation, now_us: int) -> None:
        """Of a request that is refused, and settles soon: what it holds must not keep out those who
        are rendered until then. Unless an engine may be at work for it."""
        if not held.input_tokens:
            self._budgets.amend(held, 0, 0, now_us)

    def _newly_passed(self, tenant: str, now_us: int) -> list[Standing]:
        """Budgets that have been passed since this was last asked."""
        passed = self._budgets.passed(tenant, now_us)
        if not passed:
            self._passed.discard(tenant)
            return passed
        self._passed.add(tenant)
        found = []
        for standing in passed:
            key = (tenant, standing.period, standing.unit, standing.is_hard)
            told = standing.start_at_us, standing.limit
            if self._told.get(key) != told:
                self._told[key] = told
                found.append(standing)
        return found


def _is_our_fault(error: DaemonError) -> bool:
    """A deadline that passes is not: it is the client's to choose, who might choose one that passes
    when most of a long list is answered. Nor is what the request itself gets wrong."""
    ours = (Outcome.ENGINE_ERROR, Outcome.INTERNAL_ERROR)
    return error.outcome in ours or isinstance(error, CutShort | PoolLost)


def _quota_exceeded(tenant: str, why: Exhausted, now_us: int) -> QuotaExceeded:
    """In OpenAI's words, and then in ours."""
    amount = f"{_amount(why.unit, why.limit)} a {why.period}"
    if why.is_used_up:
        return QuotaExceeded(
            f"You exceeded your current quota, please check your budget: the {amount} of tenant "
            f"{tenant} are used up until {iso(why.resets_at_us)}",
            retry_after_s=max(0, why.resets_at_us - now_us) / SECOND_US,
            should_retry=False,
        )
    return QuotaExceeded(
        f"You exceeded your current quota, please check your budget: what is left of the {amount} "
        f"of tenant {tenant} is reserved by requests that are running",
        retry_after_s=HELD_RETRY_S,
    )


def _tell(tenant: str, standing: Standing) -> None:
    log.warning(
        "budget_passed",
        tenant=tenant,
        kind=standing.kind,
        period=standing.period,
        used=_amount(standing.unit, standing.used),
        limit=_amount(standing.unit, standing.limit or 0),
        resets_at=iso(standing.resets_at_us),
    )


def _warning(standing: Standing) -> str:
    used, limit = _amount(standing.unit, standing.used), _amount(standing.unit, standing.limit or 0)
    return f"{used} of {limit} a {standing.period} until {iso(standing.resets_at_us)}"


def _amount(unit: Unit, amount: int) -> str:
    return f"{amount:,} tokens" if unit is Unit.TOKENS else usd(amount)
