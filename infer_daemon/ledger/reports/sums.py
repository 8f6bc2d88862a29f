"""What requests add up to, and the figures that are made of sums. Pure.

Sums are integers, so that a report is exact; only the figures of the last step are rounded.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Of any number of settled requests. The first ten are columns of the table `hours`."""

    requests: int = 0
    ok: int = 0
    errors: int = 0
    """That were our fault."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    price_nano_usd: int = 0
    compute_ns: int = 0
    compute_nano_usd: int = 0
    waste_tokens: int = 0
    accepted: int = 0
    """Of which their tenant said that the answer was of use."""
    from_us: int | None = None
    """When the first of them was accepted, or its hour began; None if there is none."""
    to_us: int | None = None
    """When the last of them ended, or its hour."""

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


COUNTS = tuple(field.name for field in fields(Sums))[:-2]
"""What is added up."""


def total(sums: Iterable[Sums]) -> Sums:
    """All of them together."""
    listed = list(sums)
    counts = {name: sum(getattr(one, name) for one in listed) for name in COUNTS}
    return Sums(
        **counts,
        from_us=min((one.from_us for one in listed if one.from_us is not None), default=None),
        to_us=max((one.to_us for one in listed if one.to_us is not None), default=None),
    )


@dataclass(frozen=True, slots=True)
class Ttft:
    """Time to the first token, of the requests whose rows still exist."""

    p50_us: int | None = None
    p99_us: int | None = None


def figures(sums: Sums, ttft: Ttft) -> dict[str, object]:
    """What a report says of them. None stands where there is nothing to divide by."""
    return {
        "requests": sums.requests,
        "ok": sums.ok,
        "errors": sums.errors,
        "prompt_tokens": sums.prompt_tokens,
        "cached_tokens": sums.cached_tokens,
        "completion_tokens": sums.completion_tokens,
        "price_nano_usd": sums.price_nano_usd,
        "compute_nano_usd": sums.compute_nano_usd,
        "compute_s": round(sums.compute_ns / NANO, 3),
        "price_usd_per_million_tokens": _usd_per(sums.price_nano_usd * 1_000_000, sums.tokens),
        "compute_usd_per_million_tokens": _usd_per(sums.compute_nano_usd * 1_000_000, sums.tokens),
        "completion_tokens_per_s": _per_s(sums),
        "ttft_p50_ms": _ms(ttft.p50_us),
        "ttft_p99_ms": _ms(ttft.p99_us),
        "errors_percent": _percent(sums.errors, sums.requests),
        "waste_tokens": sums.waste_tokens,
        "waste_percent": _percent(sums.waste_tokens, sums.tokens),
        "accepted": sums.accepted,
        "price_usd_per_accepted": _usd_per(sums.price_nano_usd, sums.accepted),
        "compute_usd_per_accepted": _usd_per(sums.compute_nano_usd, sums.accepted),
    }


def usd_text(nano_usd: int) -> str:
    """Dollars, to the last digit."""
    whole, rest = divmod(abs(nano_usd), NANO)
    return f"{'-' if nano_usd < 0 else ''}{whole}.{rest:09d}"


def _usd_per(nano_usd: int, count: int) -> float | None:
    return round(nano_usd / count / NANO, 9) if count else None


def _per_s(sums: Sums) -> float | None:
    """Output tokens in the time from the first request's beginning to the last one's end."""
    if sums.from_us is None or sums.to_us is None or sums.to_us <= sums.from_us:
        return None
    return round(sums.completion_tokens * 1e6 / (sums.to_us - sums.from_us), 3)


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 3) if whole else None


def _ms(us: int | None) -> float | None:
    return None if us is None else us / 1000
