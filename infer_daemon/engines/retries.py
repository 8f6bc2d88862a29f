"""The retry budget: retries never multiply an outage. Pure.

What failed on one engine may be tried on another as long as such retries are a small share of what
the *other* engines lately answered at the first try: so an engine that fails, however often, adds
at most that share to the load of the rest. The same holds for each tenant, of its own successes:
one whose requests fail wherever they go uses up nobody else's retries.

Not for what is rerun or continued because its engine has died: the dead engine's load is gone and
not doubled, and `engines.suspects` ends the request that kills one engine after the other.
"""

from dataclasses import dataclass, field

from infer_daemon.engines.recent import Recent


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How much may be tried again."""

    share_max: float = 0.1
    """Retries by successes of the last `window_s`."""
    window_s: float = 10.0
    floor: int = 3
    """Retries in the window that a tenant may have, and all of them together, when there are hardly
    any successes: a quiet system may retry at all."""


@dataclass(frozen=True, slots=True)
class _Account:
    """Of one tenant, or of everybody."""

    successes: Recent
    """By engine."""
    retries: Recent
    """By the engine that had failed."""

    def has_room(self, failed_on: str, policy: RetryPolicy, now_s: float) -> bool:
        successes = self.successes.counts(now_s)
        elsewhere = successes.total() - successes[failed_on]
        room = max(policy.floor, int(policy.share_max * elsewhere))
        return self.retries.total(now_s) < room

    def is_empty(self, now_s: float) -> bool:
        return not self.successes.total(now_s) and not self.retries.total(now_s)


@dataclass(slots=True)
class RetryBudget:
    """Counts successes and retries, of all tenants and of each. Times are of a monotonic clock."""

    policy: RetryPolicy
    _all: _Account = field(init=False)
    #: Tenants that had a success or a retry since they were last tidied away.
    _tenants: dict[str, _Account] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._all = self._account()

    def succeeded(self, tenant: str, engine: str, now_s: float) -> None:
        """A request was answered by that engine at its first try. *Not* to be told of one that was
        retried: retries would earn retries."""
        for account in (self._all, self._of(tenant)):
            account.successes.add(engine, now_s)

    def take(self, tenant: str, failed_on: str, now_s: float) -> bool:
        """Whether a request that failed on an engine may be tried again on another; if so, that is
        counted."""
        accounts = (self._all, self._of(tenant))
        if not all(account.has_room(failed_on, self.policy, now_s) for account in accounts):
            return False
        for account in accounts:
            account.retries.add(failed_on, now_s)
        return True

    def tidy(self, now_s: float) -> None:
        """Forget tenants that did nothing lately. To be called now and then."""
        idle = [name for name, account in self._tenants.items() if account.is_empty(now_s)]
        for name in idle:
            del self._tenants[name]

    def _of(self, tenant: str) -> _Account:
        account = self._tenants.get(tenant)
        if account is None:
            account = self._tenants[tenant] = self._account()
        return account

    def _account(self) -> _Account:
        return _Account(Recent(self.policy.window_s), Recent(self.policy.window_s))
