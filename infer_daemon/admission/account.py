"""The limits of one party (a tenant, a model, the daemon) and what is used of them. Pure."""

import math
from collections.abc import Mapping

from infer_daemon.admission.rates import Places, Rate
from infer_daemon.settings.schema import LimitsSection


class Account:
    """Each rate that is limited has its own counter. Places are counted without a limit, too: one
    that is set later holds for those who are in already."""

    def __init__(self, owner: str, limits: LimitsSection, now_s: float) -> None:
        """Args: owner: as an error names it: "tenant acme"."""
        self.owner = owner
        self.requests: Rate | None = None
        self.input_tokens: Rate | None = None
        self.output_tokens: Rate | None = None
        self.in_flight = Places(math.inf)
        self.queued = Places(math.inf, is_queue=True)
        self.limits = limits
        self.change(limits, now_s)

    def change(self, limits: LimitsSection, now_s: float) -> None:
        """Other limits from now on. What is used of a limit stays used."""
        self.limits = limits
        self.requests = _rate(self.requests, limits.requests_per_minute, now_s)
        self.input_tokens = _rate(self.input_tokens, limits.input_tokens_per_minute, now_s)
        self.output_tokens = _rate(self.output_tokens, limits.output_tokens_per_minute, now_s)
        self.in_flight.limit = limits.max_concurrency or math.inf
        self.queued.limit = limits.max_queued or math.inf

    def headers(self, now_s: float) -> dict[str, str]:
        """What its clients are told of it, as OpenAI's know it."""
        found: dict[str, str] = {}
        if self.requests is not None:
            found |= _rate_headers("requests", self.requests, now_s)
        tokens = [rate for rate in (self.input_tokens, self.output_tokens) if rate is not None]
        if tokens:
            tightest = min(tokens, key=lambda rate: rate.left(now_s) / rate.per_minute)
            found |= _rate_headers("tokens", tightest, now_s)
        return found

    def snapshot(self, now_s: float) -> dict[str, dict[str, int]]:
        """Of each limit that is set, what is taken or left of how much; {} if none is."""
        places = {"in_flight": self.in_flight, "waiting": self.queued}
        rates = {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }
        return {
            name: {"taken": each.taken, "limit": int(each.limit)}
            for name, each in places.items()
            if each.limit < math.inf
        } | {
            name: {"left": max(0, int(each.left(now_s))), "per_minute": int(each.per_minute)}
            for name, each in rates.items()
            if each is not None
        }


def changed(
    accounts: dict[str, Account], limits: Mapping[str, LimitsSection], now_s: float
) -> dict[str, Account]:
    """The accounts of those who have these limits from now on."""
    for owner, section in limits.items():
        if owner in accounts:
            accounts[owner].change(section, now_s)
        else:
            accounts[owner] = Account(owner, section, now_s)
    # Whoever was taken out while in may be put in again.
    return {
        owner: account
        for owner, account in accounts.items()
        if owner in limits or account.in_flight.taken
    }


def _rate(rate: Rate | None, per_minute: float | None, now_s: float) -> Rate | None:
    if per_minute is None:
        return None
    if rate is None:
        return Rate(per_minute, now_s)
    rate.change(per_minute, now_s)
    return rate


def _rate_headers(what: str, rate: Rate, now_s: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(int(rate.per_minute)),
        f"x-ratelimit-remaining-{what}": str(max(0, int(rate.left(now_s)))),
        f"x-ratelimit-reset-{what}": f"{max(0.0, rate.full_after_s(now_s)):.3f}s",
    }
