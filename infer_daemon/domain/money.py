"""Dollars as they are configured and shown, and as integers of nano-dollars. Pure, and without
floats."""

from decimal import Decimal, InvalidOperation

NANO_DIGITS = 9
USD_MAX = 1_000_000
"""A price above that, per million tokens or per hour, is a mistake."""


def nano_usd(dollars: int | float | str, what: str) -> int:
    """Configured dollars, exactly: a float is taken as it is written, not as it is stored.

    Args: what: how a problem calls it.

    Raises:
        ValueError: why no price can be that.
    """
    value = _decimal(dollars, what)
    if value.is_nan() or value < 0 or value > USD_MAX:
        raise ValueError(f"{what} {dollars}: must be from 0 to {USD_MAX} dollars")
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int), "only NaN and infinity have another"
    # Not by arithmetic, which rounds what is too long or too small to be seen.
    if exponent < -NANO_DIGITS and any(digits[exponent + NANO_DIGITS :]):
        raise ValueError(f"{what} {dollars}: has more than {NANO_DIGITS} decimals")
    return int(value.scaleb(NANO_DIGITS)) if value else 0


def usd(nano_usd: int) -> str:
    """Dollars to be read, exactly: $1,250.00, $0.0000375."""
    whole, rest = divmod(nano_usd, 10**NANO_DIGITS)
    decimals = f"{rest:0{NANO_DIGITS}}".rstrip("0")
    return f"${whole:,}.{decimals:0<2}"


def _decimal(dollars: int | float | str, what: str) -> Decimal:
    if isinstance(dollars, bool):
        raise ValueError(f"{what} {dollars}: is not a number of dollars")
    try:
        return Decimal(repr(dollars) if isinstance(dollars, float) else dollars)
    except InvalidOperation:
        raise ValueError(f"{what} {dollars!r}: is not a number of dollars") from None
