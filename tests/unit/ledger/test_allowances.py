"""What a tenant may spend, request by request, with a clock that is set by hand."""

from collections import Counter
from typing import Any

import pytest
from structlog.types import EventDict

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import (
    ClientError,
    CutShort,
    DaemonError,
    EngineDied,
    EngineFault,
    FrontendError,
    PoolLost,
    QuotaExceeded,
    WaitedTooLong,
)
from infer_daemon.domain.record import RequestRecord
from infer_daemon.ledger.accounts import Budget, Unit
from infer_daemon.ledger.allowances import HEADER, HELD_RETRY_S, Allowances
from infer_daemon.ledger.budgets import Spend
from infer_daemon.ledger.periods import DAY_US, HOUR_US, Period
from infer_daemon.ledger.pricing import Bill, Charge, Price

DAY = 20_000 * DAY_US
"""2024-10-04."""
MONTH = 19_997 * DAY_US
NEXT = "2024-10-05T00:00:00Z"
PRICE = Price(input_nano_usd=2_000_000, cached_nano_usd=1_000_000, output_nano_usd=10_000_000)
"""2, 1 and 10 nano-dollars each."""


def tokens(limit: int, *, is_hard: bool = True, period: Period = Period.DAY) -> Budget:
    return Budget(period=period, unit=Unit.TOKENS, limit=limit, is_hard=is_hard)


class Shop:
    """Where acme buys."""

    def __init__(self, *budgets: Budget) -> None:
        self.now_us = DAY + 12 * HOUR_US
        self.prices = {"chat": PRICE}
        self.allowances = Allowances({"acme": budgets}, self.prices, lambda: self.now_us)
        self._count = 0

    def come(self, *, tenant: str = "acme", model: str = "chat") -> RequestRecord:
        """A request that has reserved the least."""
        self._count += 1
        record = RequestRecord(
            id=f"r{self._count}",
            endpoint=Endpoint.CHAT,
            accepted_s=0.0,
            clock=lambda: 0.0,
            tenant=tenant,
            model=model,
        )
        self.allowances.reserve(record, input_tokens=1, output_tokens=1)
        return record

    def rendered(self, input_tokens: int, output_tokens: int, **fields: Any) -> RequestRecord:
        """One whose length is known."""
        record = self.come(**fields)
        self.allowances.amend(record, input_tokens=input_tokens, output_tokens=output_tokens)
        return record

    def end(
        self,
        record: RequestRecord,
        prompt: int,
        completion: int,
        cached: int = 0,
        error: DaemonError | None = None,
    ) -> Bill:
        """It has used that."""
        record.granted_s = 1.0
        record.prompt_tokens, record.cached_tokens = prompt, cached
        record.completion_tokens = completion
        return self.allowances.settle(record, error)

    def buy(self, input_tokens: int, output_tokens: int, **fields: Any) -> Bill:
        """A request from its beginning to its end, that uses all that it has reserved."""
        record = self.rendered(input_tokens, output_tokens, **fields)
        return self.end(record, input_tokens, output_tokens)


def test_a_bill_is_what_was_used_at_the_price_of_its_model() -> None:
    shop = Shop()
    bill = shop.end(shop.rendered(100, 50), 100, 5, cached=40)

    assert bill == Bill(Charge(120, 40, 50), 105, DAY, MONTH)
    assert shop.buy(3, 4, model="free") == Bill(Charge(0, 0, 0), 7, DAY, MONTH)


FAULTS = [
    DaemonError(),
    EngineDied(),
    EngineFault(),
    CutShort(),
    PoolLost(),
    FrontendError("", status=500, code=""),
]
THEIRS = [None, ClientError(), WaitedTooLong(), FrontendError("", status=400, code="")]


@pytest.mark.parametrize(("errors", "nano_usd"), [(FAULTS, 0), (THEIRS, 250)])
def test_what_failed_by_our_fault_has_no_price_and_its_budgets_are_charged_none(
    errors: list[DaemonError | None], nano_usd: int
) -> None:
    dollars = Budget(period=Period.DAY, unit=Unit.NANO_USD, limit=10**9, is_hard=True)
    shop = Shop(dollars, tokens(10_000))
    for error in errors:
        record = shop.rendered(100, 50)
        bill = shop.end(record, 100, 5, error=error)
        assert (bill.charge.total_nano_usd, bill.tokens) == (nano_usd, 105)
        assert record.price_nano_usd == nano_usd

    used = {one["unit"]: one["used"] for one in shop.allowances.snapshot()}
    assert used == {Unit.NANO_USD: nano_usd * len(errors), Unit.TOKENS: 105 * len(errors)}
    assert {one["reserved"] for one in shop.allowances.snapshot()} == {0}


def test_a_request_reserves_the_least_and_then_the_most_that_it_can_use() -> None:
    shop = Shop()
    record = shop.come()
    assert (record.reserved_tokens, record.reserved_nano_usd) == (2, 12)
    shop.allowances.amend(record, input_tokens=100, output_tokens=50)
    assert (record.reserved_tokens, record.reserved_nano_usd) == (150, 700)


def test_the_calls_of_one_request_add_up() -> None:
    shop = Shop(tokens(1000))
    record = shop.rendered(10, 20)
    shop.allowances.amend(record, input_tokens=30, output_tokens=40)

    assert record.reserved_tokens == 100
    assert shop.allowances.snapshot()[0]["reserved"] == 100
    shop.allowances.check()


def test_where_cached_tokens_are_the_dearer_ones_they_are_reserved() -> None:
    shop = Shop()
    shop.prices["odd"] = Price(
        input_nano_usd=1_000_000, cached_nano_usd=3_000_000, output_nano_usd=0
    )

    assert shop.rendered(10, 5, model="odd").reserved_nano_usd == 30


def test_a_request_that_no_engine_worked_for_costs_nothing_and_leaves_nothing() -> None:
    shop = Shop(tokens(100))
    record = shop.rendered(60, 60)
    record.prompt_tokens = 60  # it was rendered and waited
    assert shop.allowances.settle(record) == Bill()

    assert shop.allowances.open_count == 0
    (standing,) = shop.allowances.snapshot()
    assert (standing["used"], standing["reserved"]) == (0, 0)


def test_a_request_that_has_reserved_nothing_may_be_settled() -> None:
    record = RequestRecord(id="r", endpoint=Endpoint.TOKENIZE, accepted_s=0, clock=lambda: 0.0)

    assert Shop().allowances.settle(record) == Bill()


def test_a_budget_that_is_used_up_is_refused_until_it_starts_anew() -> None:
    shop = Shop(tokens(100))
    shop.buy(60, 60)
    with pytest.raises(QuotaExceeded) as caught:
        shop.come()

    error = caught.value
    assert error.message == (
        "You exceeded your current quota, please check your budget: the 100 tokens a day of tenant "
        f"acme are used up until {NEXT}"
    )
    assert (error.status, error.code, error.type) == (429, *["insufficient_quota"] * 2)
    assert (error.retry_after_s, error.should_retry) == (12 * 3600, False)

    shop.now_us += 12 * HOUR_US
    shop.come()


def test_what_running_requests_hold_may_be_asked_for_again_soon() -> None:
    shop = Shop(Budget(period=Period.MONTH, unit=Unit.NANO_USD, limit=1_500_000_000))
    shop.rendered(600_000_000, 30_000_000)
    with pytest.raises(QuotaExceeded, match=r"the \$1\.50 a month of tenant acme is reserved") as e:
        shop.come()

    assert (e.value.retry_after_s, e.value.should_retry) == (HELD_RETRY_S, None)


def test_of_those_who_came_together_the_ones_that_do_not_fit_are_refused_when_that_is_known() -> (
    None
):
    shop = Shop(tokens(100))
    first, second, third = shop.come(), shop.come(), shop.come()
    shop.allowances.amend(first, input_tokens=50, output_tokens=40)
    shop.allowances.amend(second, input_tokens=50, output_tokens=40)
    with pytest.raises(QuotaExceeded, match="running"):
        shop.allowances.amend(third, input_tokens=1, output_tokens=2)
    assert shop.allowances.snapshot()[0]["reserved"] == 180

    assert shop.allowances.settle(third) == Bill()
    shop.allowances.check()


def test_whoever_is_about_to_be_refused_keeps_nobody_out() -> None:
    shop = Shop(tokens(400))
    came = [shop.come() for _ in range(100)]
    endings: Counter[str] = Counter()
    for record in came:
        try:
            shop.allowances.amend(record, input_tokens=20, output_tokens=20)
            endings["in"] += 1
        except QuotaExceeded:
            endings["refused"] += 1

    assert endings == {"in": 10, "refused": 90}


def test_a_request_whose_second_call_is_refused_pays_for_its_first() -> None:
    shop = Shop(tokens(100))
    record = shop.rendered(10, 10)
    shop.rendered(100, 100)
    with pytest.raises(QuotaExceeded, match="running"):
        shop.allowances.amend(record, input_tokens=10, output_tokens=10)

    assert shop.end(record, 10, 4).tokens == 14


def test_a_request_over_midnight_is_charged_to_the_day_in_which_it_ends() -> None:
    shop = Shop(tokens(100))
    record = shop.rendered(60, 60)
    shop.now_us += DAY_US
    bill = shop.end(record, 60, 60)

    assert (bill.day_start_us, bill.month_start_us) == (DAY + DAY_US, MONTH)
    with pytest.raises(QuotaExceeded):
        shop.come()


def test_a_soft_budget_lets_everybody_in_and_tells_them() -> None:
    shop = Shop(tokens(100, is_hard=False))
    shop.buy(50, 50)
    assert shop.come().told == {}
    shop.buy(1, 1, model="free")

    assert shop.come().told == {HEADER: f"102 tokens of 100 tokens a day until {NEXT}"}


def test_a_budget_that_is_passed_is_logged_once_in_each_period(log_lines: list[EventDict]) -> None:
    shop = Shop(tokens(1000), tokens(100, is_hard=False))
    for _ in range(5):
        shop.buy(50, 50)
    shop.now_us += DAY_US
    for _ in range(10):
        shop.buy(50, 50)

    found = [(line["kind"], line["used"], line["resets_at"]) for line in log_lines]
    assert found == [
        ("soft", "200 tokens", NEXT),
        ("soft", "200 tokens", "2024-10-06T00:00:00Z"),
        ("hard", "1,000 tokens", "2024-10-06T00:00:00Z"),
    ]


def test_a_budget_that_was_raised_is_told_of_again(log_lines: list[EventDict]) -> None:
    shop = Shop(tokens(100))
    shop.buy(50, 50)
    shop.allowances.change({"acme": [tokens(150)]}, {})
    for _ in range(2):
        shop.allowances.settle(shop.come(tenant="globex"))
    shop.buy(30, 30)

    assert [line["limit"] for line in log_lines] == ["100 tokens", "150 tokens"]


def test_what_was_spent_before_the_start_counts_and_is_not_told_again(
    log_lines: list[EventDict],
) -> None:
    shop = Shop(tokens(100, is_hard=False), tokens(1000))
    shop.allowances.load([Spend("acme", Period.DAY, DAY, 300, 0)])
    shop.buy(300, 300)
    shop.buy(50, 50)

    with pytest.raises(QuotaExceeded):
        shop.come()
    assert [line["kind"] for line in log_lines] == ["hard"]


def test_other_budgets_and_prices_hold_at_once_and_for_whoever_is_running() -> None:
    shop = Shop()
    record = shop.rendered(60, 60)
    shop.allowances.change({"acme": [tokens(100)]}, {})
    with pytest.raises(QuotaExceeded, match="running"):
        shop.come()

    assert shop.end(record, 60, 60).charge.total_nano_usd == 0
    with pytest.raises(QuotaExceeded, match="used up"):
        shop.come()


def test_only_budgets_that_there_are_are_shown() -> None:
    shop = Shop(tokens(100), tokens(50, is_hard=False, period=Period.MONTH))
    shop.buy(1, 2)
    shop.buy(1, 2, tenant="globex")

    common = {"tenant": "acme", "unit": "tokens", "used": 3, "reserved": 0}
    assert shop.allowances.snapshot() == [
        {**common, "period": "day", "kind": "hard", "limit": 100, "resets_at": NEXT},
        {
            **common,
            "period": "month",
            "kind": "soft",
            "limit": 50,
            "resets_at": "2024-11-01T00:00:00Z",
        },
    ]
