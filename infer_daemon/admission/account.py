"""The limits of one party (a tenant, a model, the daemon) and what is used of them. Pure."""

from infer_daemon.admission.rates import Places, Rate
from infer_daemon.settings.schema import LimitsSection


class Account:
    """Each limit that is set has its own counter; what is not set is not counted."""

    def __init__(self, owner: str, limits: LimitsSection, now_s: float) -> None:
        """Args: owner: as an error names it: "tenant acme"."""
        self.owner = owner
        self.requests: Rate | None = None
        self.input_tokens: Rate | None = None
        self.output_tokens: Rate | None = None
        self.in_flight: Places | None = None
        self.queued: Places | None = None
        self.limits = limits
        self.change(limits, now_s)

    def change(self, limits: LimitsSection, now_s: float) -> None:
        """Other limits from now on. What is used of a limit stays used."""
        self.limits = limits
        self.requests = _rate(self.requests, limits.requests_per_minute, now_s)
        self.input_tokens = _rate(self.input_tokens, limits.input_tokens_per_minute, now_s)
        self.output_tokens = _rate(self.output_tokens, limits.output_tokens_per_minute, now_s)
        self.in_flight = _places(self.in_flight, limits.max_concurrency)
        self.queued = _places(self.queued, limits.max_queued, is_queue=True)

    def snapshot(self, now_s: float) -> dict[str, dict[str, int]]:
        """Of each limit that is set, what is taken or left of how much; {} if none is."""
        places = {"in_flight": self.in_flight, "waiting": self.queued}
        rates = {
            "requests": self.requests,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
        }
        return {
            name: {"taken": each.taken, "limit": each.limit}
            for name, each in places.items()
            if each is not None
        } | {
            name: {"left": max(0, int(each.left(now_s))), "per_minute": int(each.per_minute)}
            for name, each in rates.items()
            if each is not None
        }


def _rate(rate: Rate | None, per_minute: float | None, now_s: float) -> Rate | None:
    if per_minute is None:
        return None
    if rate is None:
        return Rate(per_minute, now_s)
    rate.change(per_minute, now_s)
    return rate


def _places(places: Places | None, limit: int | None, *, is_queue: bool = False) -> Places | None:
    if limit is None:
        return None
    if places is None:
        return Places(limit, is_queue=is_queue)
    places.limit = limit
    return places
