"""Budgets against a model that remembers every request."""

from collections.abc import Mapping, Sequence

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infer_daemon.ledger.accounts import Budget, Unit
from infer_daemon.ledger.budgets import STEP_BACK_MAX_US, Budgets, Reservation, Spend
from infer_daemon.ledger.periods import HOUR_US, Period, period_starts
from tests.unit.ledger.sample import NOON_US

LARGEST = 60
"""What a request reserves at most."""
HUNDRED_A_DAY = Budget(period=Period.DAY, unit=Unit.TOKENS, limit=100)


class Remembering(RuleBasedStateMachine):
    """Keeps every request and every charge, and sums them anew at each question. The clock goes
    forward, and back by less than is believed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_us = self.newest_us = NOON_US
        self.limits: dict[str, Sequence[Budget]] = {"acme": [HUNDRED_A_DAY], "globex": []}
        self.budgets = Budgets(self.limits)
        self.is_changed = False
        self.running: list[Reservation] = []
        self.charged: list[Spend] = []

    def uses(self, tenant: str, budget: Budget) -> tuple[int, int]:
        """Settled in the period that is now, and reserved."""
        start_at_us = period_starts(self.newest_us)[budget.period is Period.MONTH]
        settled = sum(
            getattr(spend, budget.unit)
            for spend in self.charged
            if (spend.tenant, spend.period, spend.start_at_us)
            == (tenant, budget.period, start_at_us)
        )
        own = [one for one in self.running if one.tenant == tenant]
        return settled, sum(getattr(one, budget.unit) for one in own)

    @rule(
        tenant=st.sampled_from(["acme", "globex"]),
        tokens=st.integers(0, LARGEST),
        nano_usd=st.integers(0, LARGEST),
    )
    def reserve(self, tenant: str, tokens: int, nano_usd: int) -> None:
        own = {Unit.TOKENS: tokens, Unit.NANO_USD: nano_usd}
        hard = [budget for budget in self.limits[tenant] if budget.is_hard]
        room = [
            budget.limit - sum(self.uses(tenant, budget)) for budget in hard if own[budget.unit]
        ]
        answer = self.budgets.reserve(tenant, tokens, nano_usd, self.now_us)
        assert isinstance(answer, Reservation) == all(left > 0 for left in room)
        if isinstance(answer, Reservation):
            self.running.append(answer)
        else:
            assert answer.resets_at_us > self.newest_us

    @precondition(lambda self: self.running)
    @rule(
        which=st.integers(0, 99),
        tokens=st.integers(0, LARGEST),
        nano_usd=st.integers(0, LARGEST),
    )
    def amend(self, which: int, tokens: int, nano_usd: int) -> None:
        one = self.running.pop(which % len(self.running))
        own = {Unit.TOKENS: tokens, Unit.NANO_USD: nano_usd}
        room = [  # what others leave, which it wants more of
            budget.limit - sum(self.uses(one.tenant, budget))
            for budget in self.limits[one.tenant]
            if budget.is_hard and own[budget.unit] > getattr(one, budget.unit)
        ]
        answer = self.budgets.amend(one, tokens, nano_usd, self.now_us)
        assert (answer is None) == all(left > 0 for left in room)
        self.running.append(one)

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99), share=st.integers(0, 4))
    def settle(self, which: int, share: int) -> None:
        one = self.running.pop(which % len(self.running))
        tokens, nano_usd = one.tokens * share // 4, one.nano_usd * share // 4
        starts = self.budgets.settle(one, tokens, nano_usd, self.now_us)
        assert starts == period_starts(self.newest_us)
        for period, start_at_us in zip(Period, starts, strict=True):
            self.charged.append(Spend(one.tenant, period, start_at_us, tokens, nano_usd))

    @precondition(lambda self: self.running)
    @rule(which=st.integers(0, 99))
    def release(self, which: int) -> None:
        one = self.running.pop(which % len(self.running))
        self.budgets.release(one)
        self.budgets.release(one)

    @rule(hours=st.sampled_from([0, 1, 5, 30, 24 * 20]))
    def later(self, hours: int) -> None:
        self.now_us = self.newest_us + hours * HOUR_US
        self.newest_us = self.now_us

    @rule(back_us=st.integers(1, STEP_BACK_MAX_US))
    def set_back(self, back_us: int) -> None:
        self.budgets.snapshot("acme", self.now_us)  # it has seen the time before
        self.now_us = self.newest_us - back_us

    @rule(
        limits=st.fixed_dictionaries(
            dict.fromkeys(
                ["acme", "globex"],
                st.lists(
                    st.builds(
                        Budget,
                        period=st.sampled_from(Period),
                        unit=st.sampled_from(Unit),
                        limit=st.integers(0, 200),
                        is_hard=st.booleans(),
                    ),
                    max_size=3,
                ),
            )
        )
    )
    def change(self, limits: Mapping[str, Sequence[Budget]]) -> None:
        self.limits, self.is_changed = dict(limits), True
        self.budgets.change(self.limits)

    @rule()
    def restart(self) -> None:
        """What ran is lost at no charge; what was settled is loaded."""
        self.running = []
        self.budgets = Budgets(self.limits, self.charged)
        self.now_us = self.newest_us

    @invariant()
    def it_knows_what_was_used_and_reserved(self) -> None:
        self.budgets.check()
        for tenant in self.limits:
            for row in self.budgets.snapshot(tenant, self.now_us):
                budget = Budget(period=row.period, unit=row.unit, limit=0)
                assert (row.used, row.reserved) == self.uses(tenant, budget)

    @invariant()
    def no_budget_is_overshot_by_more_than_one_request(self) -> None:
        if not self.is_changed:  # a new limit may find itself overshot
            assert sum(self.uses("acme", HUNDRED_A_DAY)) < 100 + LARGEST


Remembering.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestRemembering = Remembering.TestCase
