"""Prices and charges, to the last nano-dollar."""

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infer_daemon.domain.money import USD_MAX, nano_usd, usd
from infer_daemon.ledger.pricing import HOUR_NS, Charge, Price, charge, compute_nano_usd

USD = 1_000_000_000
TOKENS = st.integers(0, 10_000_000)
PRICES = st.builds(
    Price,
    input_nano_usd=st.integers(0, 100 * USD),
    cached_nano_usd=st.integers(0, 100 * USD),
    output_nano_usd=st.integers(0, 100 * USD),
)


def test_a_million_requests_at_a_known_price_cost_what_everybody_says_they_cost() -> None:
    price = Price.parse(input_usd=1.25, output_usd=10)
    one = charge(price, prompt_tokens=1000, cached_tokens=0, completion_tokens=500)

    assert 1_000_000 * one.total_nano_usd == 6250 * USD


def test_ten_thousand_seconds_of_a_device_cost_their_share_of_its_hourly_price() -> None:
    assert compute_nano_usd(10_000 * USD, 2 * USD) == 5_555_555_556
    assert compute_nano_usd(HOUR_NS, 2 * USD) == 2 * USD


def test_cached_tokens_are_charged_at_their_own_price_and_not_twice() -> None:
    price = Price.parse(input_usd=2, cached_usd="0.5", output_usd=8)

    assert charge(price, prompt_tokens=1000, cached_tokens=400, completion_tokens=10) == Charge(
        600 * 2000, 400 * 500, 10 * 8000
    )


def test_without_a_price_of_their_own_cached_tokens_have_no_discount() -> None:
    assert Price.parse(input_usd=2, output_usd=8).cached_nano_usd == 2 * USD


def test_a_price_of_zero_for_cached_tokens_is_a_price() -> None:
    assert Price.parse(input_usd=2, cached_usd=0, output_usd=8).cached_nano_usd == 0


def test_nobody_pays_for_more_cached_tokens_than_were_sent() -> None:
    price = Price.parse(input_usd=2, cached_usd=1, output_usd=8)

    assert charge(price, prompt_tokens=10, cached_tokens=25, completion_tokens=0) == Charge(
        0, 10 * 1000, 0
    )


def test_each_part_is_rounded_by_itself_to_the_nearest() -> None:
    price = Price(input_nano_usd=499_999, cached_nano_usd=500_000, output_nano_usd=1_500_000)

    assert charge(price, prompt_tokens=2, cached_tokens=1, completion_tokens=1) == Charge(0, 1, 2)


@given(price=PRICES, prompt=TOKENS, cached=TOKENS, completion=TOKENS)
def test_a_charge_is_within_half_a_nano_dollar_per_part_of_the_exact_one(
    price: Price, prompt: int, cached: int, completion: int
) -> None:
    cached = min(cached, prompt)
    total = charge(
        price, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion
    ).total_nano_usd
    exact = (
        (prompt - cached) * price.input_nano_usd
        + cached * price.cached_nano_usd
        + completion * price.output_nano_usd
    )

    assert 2 * abs(total * 1_000_000 - exact) <= 3 * 1_000_000


@pytest.mark.parametrize(
    ("dollars", "nano"),
    [
        (0, 0),
        ("0", 0),
        ("0e-999999999", 0),
        (-0.0, 0),
        (1, USD),
        (1.25, 1_250_000_000),
        (0.1, 100_000_000),
        (1e-9, 1),
        ("0.000000001", 1),
        ("1.2500000000000000000000000000000000", 1_250_000_000),
        ("1e3", 1000 * USD),
        (USD_MAX, USD_MAX * USD),
        ("999999.999999999", USD_MAX * USD - 1),
    ],
)
def test_dollars_are_taken_as_they_are_written(dollars: int | float | str, nano: int) -> None:
    assert nano_usd(dollars, "price") == nano


@given(nano=st.integers(0, USD_MAX * USD))
@example(nano=1)
def test_every_whole_number_of_nano_dollars_can_be_configured(nano: int) -> None:
    assert nano_usd(str(Decimal(nano).scaleb(-9)), "price") == nano


@given(dollars=st.floats(0, USD_MAX).map(lambda value: round(value, 9)))
def test_a_float_means_the_digits_that_it_is_shown_with(dollars: float) -> None:
    if -Decimal(repr(dollars)).as_tuple().exponent <= 9:
        assert nano_usd(dollars, "price") == nano_usd(repr(dollars), "price")


@pytest.mark.parametrize(
    ("dollars", "why"),
    [
        (-1, "must be from 0"),
        ("-0.000000001", "must be from 0"),
        (float("nan"), "must be from 0"),
        ("sNaN", "must be from 0"),
        (float("inf"), "must be from 0"),
        ("-Infinity", "must be from 0"),
        (USD_MAX + 1, "must be from 0"),
        ("1e999999", "must be from 0"),
        (1e-10, "more than 9 decimals"),
        ("1.0000000001", "more than 9 decimals"),
        ("1.00000000000000000000000000000000000001", "more than 9 decimals"),
        ("1e-999999999", "more than 9 decimals"),
        ("", "not a number"),
        ("1,25", "not a number"),
        ("$1", "not a number"),
        (True, "not a number"),
    ],
)
def test_an_impossible_price_is_refused_in_words(dollars: int | float | str, why: str) -> None:
    with pytest.raises(ValueError, match=f"output price .*{why}"):
        Price.parse(input_usd=1, output_usd=dollars)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (1, "$0.000000001"),
        (37_500, "$0.0000375"),
        (500_000_000, "$0.50"),
        (1_250_000_000_000, "$1,250.00"),
        (1_234_567_890, "$1.23456789"),
    ],
)
def test_dollars_are_shown_to_the_last_digit(nano: int, text: str) -> None:
    assert usd(nano) == text
