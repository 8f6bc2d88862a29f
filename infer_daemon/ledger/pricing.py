"""What a request is charged, and what it cost: integers of nano-dollars. Pure, and without floats:
a sum over millions of requests is exact to the last digit."""

from dataclasses import dataclass
from typing import Self

import msgspec

from infer_daemon.domain.money import nano_usd

MILLION = 1_000_000
HALF = MILLION // 2
"""For quotients to be rounded and not cut."""
HOUR_NS = 3_600_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What a model's tokens are sold for, each in nano-dollars per million tokens."""

    input_nano_usd: int
    cached_nano_usd: int
    """Of prompt tokens that were found in the engine's prefix cache."""
    output_nano_usd: int

    @classmethod
    def parse(
        cls,
        *,
        input_usd: int | float | str,
        output_usd: int | float | str,
        cached_usd: int | float | str | None = None,
    ) -> Self:
        """From dollars per million tokens, as configured.

        Args: cached_usd: None for no discount.

        Raises:
            ValueError: which price is impossible, and why.
        """
        input_nano_usd = nano_usd(input_usd, "input price")
        return cls(
            input_nano_usd=input_nano_usd,
            cached_nano_usd=input_nano_usd
            if cached_usd is None
            else nano_usd(cached_usd, "cached input price"),
            output_nano_usd=nano_usd(output_usd, "output price"),
        )


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What a request is charged. Each part is rounded by itself and the total is their sum, so that
    columns add up to rows."""

    input_nano_usd: int
    """Of prompt tokens that were not cached."""
    cached_nano_usd: int
    output_nano_usd: int

    @property
    def total_nano_usd(self) -> int:
        """What a budget is charged."""
        return self.input_nano_usd + self.cached_nano_usd + self.output_nano_usd


class Bill(msgspec.Struct, frozen=True, gc=False):
    """What a request comes to in the end."""

    charge: Charge = Charge(0, 0, 0)
    tokens: int = 0
    """That its tenant has used of its budgets, cached ones included."""
    day_start_us: int | None = None
    """Of the periods in which it is charged; None where there is nothing to be charged."""
    month_start_us: int | None = None


def charge(price: Price, prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> Charge:
    """The charge for that use.

    Args: prompt_tokens: all of them, cached ones included, as in OpenAI's `usage`. More cached
    tokens than that are not believed: nobody pays for tokens that were not sent.
    """
    if cached_tokens > prompt_tokens:
        cached_tokens = prompt_tokens
    return Charge(
        ((prompt_tokens - cached_tokens) * price.input_nano_usd + HALF) // MILLION,
        (cached_tokens * price.cached_nano_usd + HALF) // MILLION,
        (completion_tokens * price.output_nano_usd + HALF) // MILLION,
    )


def most_nano_usd(price: Price, prompt_tokens: int, completion_tokens: int) -> int:
    """What such a request is charged at most, whatever is cached (but for rounding)."""
    dearest, cached = price.input_nano_usd, price.cached_nano_usd
    if cached > dearest:
        dearest = cached
    input_nano_usd = (prompt_tokens * dearest + HALF) // MILLION
    return input_nano_usd + (completion_tokens * price.output_nano_usd + HALF) // MILLION


def compute_nano_usd(compute_ns: int, price_nano_usd_per_hour: int) -> int:
    """What that much time of a device cost."""
    return (compute_ns * price_nano_usd_per_hour + HOUR_NS // 2) // HOUR_NS
