"""What traffic costs at an API's prices, and here."""

from typing import Any

import pytest

from infer_daemon.domain.money import nano_usd
from infer_daemon.ledger.instants import iso
from infer_daemon.ledger.periods import HOUR_US, SECOND_US
from infer_daemon.ledger.pricing import Price
from infer_daemon.ledger.reports.answers import answer
from infer_daemon.ledger.reports.breakeven import Offer, Traffic, compare
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.reports.spans import BadQuestion
from infer_daemon.ledger.sql.database import WriterDatabase
from tests.unit.ledger.reports.seeded import FIRST_US, NOW_US

API = Price.parse(input_usd="1.25", output_usd=10)
HOUR = nano_usd(2, "device")
MONTH_NS = 2_629_800 * 10**9
BEFORE_US = FIRST_US - 100 * HOUR_US
"""A time of which the seeded ledger has nothing."""
PRICES = {"api_input": "1.25", "api_output": "10"}


def traffic(**fields: Any) -> Traffic:
    """The known example: 10^6 requests of 1,000 and 500 tokens, 100 a second, on one device."""
    known = {
        "requests": 10**6,
        "prompt_tokens": 10**9,
        "cached_tokens": 0,
        "completion_tokens": 5 * 10**8,
        "devices": 1,
        "device_ns": 10**4 * 10**9,
        "wall_ns": 10**4 * 10**9,
        "devices_nano_usd": 0,
    }
    return Traffic(**(known | fields))


def test_the_known_example() -> None:
    found = compare(traffic(), Offer(api=API, hour_nano_usd=HOUR), now_us=NOW_US)

    assert found["api_usd"] == "6250.000000000"
    assert found["device_hours"] == 2.7778
    assert found["here_usd"] == "5.555555556"


def test_the_known_example_from_a_ledger(database: WriterDatabase, reader: Reader) -> None:
    since = iso(BEFORE_US)
    with database.transaction():
        database.connection.executemany(
            "INSERT INTO hours (hour_at_us, tenant, model, tier, requests, prompt_tokens,"
            " completion_tokens) VALUES (?, 'acme', 'chat', 'batch', ?, ?, ?)",
            [
                (BEFORE_US, 360_000, 360_000_000, 180_000_000),
                (BEFORE_US + HOUR_US, 360_000, 360_000_000, 180_000_000),
                (BEFORE_US + 2 * HOUR_US, 280_000, 280_000_000, 140_000_000),
            ],
        )
        database.connection.executemany(
            "INSERT INTO device_hours (device, hour_at_us, engine, price_nano_usd_per_hour,"
            " attributed_ns, idle_ns) VALUES ('gpu-0', ?, 'a', ?, ?, ?)",
            [
                (BEFORE_US, HOUR, 3500 * 10**9, 100 * 10**9),
                (BEFORE_US + HOUR_US, HOUR, 3600 * 10**9, 0),
                (BEFORE_US + 2 * HOUR_US, HOUR, 2800 * 10**9, 0),
            ],
        )
    words = {**PRICES, "since": since, "until": iso(BEFORE_US + 3 * HOUR_US)}

    configured = answer(reader, "breakeven", words, NOW_US)
    other = answer(reader, "breakeven", {**words, "gpu_hour": "4"}, NOW_US)

    assert (configured["requests"], configured["notes"]) == (1_000_000, [])
    assert (configured["api_usd"], configured["here_usd"]) == ("6250.000000000", "5.555555556")
    assert other["here_usd"] == "11.111111111"


def test_without_device_hours_one_device_is_assumed_and_told(reader: Reader) -> None:
    words = {**PRICES, "gpu_hour": "2", "since": iso(FIRST_US)}

    found: Any = answer(reader, "breakeven", words, NOW_US)

    assert found["devices"] == 1
    assert found["device_hours"] == pytest.approx(120, abs=0.5)
    assert "no time of devices is on record" in found["notes"][0]


def test_without_any_price_of_a_device_that_is_told(reader: Reader) -> None:
    found: Any = answer(reader, "breakeven", {**PRICES, "since": iso(FIRST_US)}, NOW_US)

    assert found["here_usd"] == "0.000000000"
    assert "no device has a price" in found["notes"][-1]


def whole_month(**offer: Any) -> dict[str, Any]:
    """A month of $6,250 there and $1,461 here."""
    month = traffic(device_ns=MONTH_NS, wall_ns=MONTH_NS)
    return compare(month, Offer(api=API, hour_nano_usd=HOUR, **offer), now_us=NOW_US)


def test_what_was_set_up_pays_in_the_month_in_which_nothing_is_owed_any_more() -> None:
    saved = 6250 - 1461
    exactly = whole_month(setup_nano_usd=nano_usd(2 * saved, "setup"))
    more = whole_month(setup_nano_usd=nano_usd(2 * saved, "setup") + 1)

    assert exactly["saved_usd_per_month"] == f"{saved}.000000000"
    assert (exactly["break_even_month"], more["break_even_month"]) == (2, 3)
    assert iso(NOW_US)[:7] == "2024-10"
    assert (exactly["break_even_calendar_month"], more["break_even_calendar_month"]) == (
        "2024-12",
        "2025-01",
    )
    assert whole_month()["break_even_month"] == 1


def test_engineering_that_costs_more_than_is_saved_never_pays_at_this_traffic() -> None:
    found = whole_month(monthly_nano_usd=nano_usd(11_039, "engineering"))

    assert found["break_even_month"] is None
    assert found["break_even_traffic"] == 2.0
    assert found["verdict"].startswith("never pays at this traffic: it would at 2.00 times as much")


def test_what_takes_a_century_does_not_pay() -> None:
    found = whole_month(
        monthly_nano_usd=nano_usd(6250 - 1461, "engineering") - 1, setup_nano_usd=10**12
    )

    assert (found["break_even_month"], found["verdict"]) == (None, "does not pay within 100 years")


def test_no_traffic_says_so(reader: Reader) -> None:
    words = {**PRICES, "since": iso(BEFORE_US), "until": iso(BEFORE_US + SECOND_US)}

    found = answer(reader, "breakeven", words, NOW_US)

    assert found["verdict"] == "there was no traffic in this time"
    assert whole_month()["verdict"] == "pays from month 1 on"
    free = traffic(prompt_tokens=0, completion_tokens=0)
    assert "costs nothing there" in str(compare(free, Offer(api=API), now_us=NOW_US)["verdict"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ({"api_input": "1"}, "needs api_input and api_output"),
        ({**PRICES, "api_input": "-1"}, "input price -1: must be from 0 to 1000000 dollars"),
        ({**PRICES, "api_output": "nan"}, "output price nan: must be from 0"),
        ({**PRICES, "gpu_hour": "two"}, "gpu_hour 'two': is not a number of dollars"),
        ({**PRICES, "setup_usd": "1e999999"}, "setup_usd 1e999999: must be from 0"),
        ({**PRICES, "api_cached": "0.0000000001"}, "has more than 9 decimals"),
        ({**PRICES, "colour": "red"}, "breakeven has no option 'colour'"),
        ({**PRICES, "since": "yesterday"}, "since 'yesterday': neither an age"),
    ],
)
def test_what_makes_no_sense_is_told_in_one_line(
    reader: Reader, words: dict[str, str], why: str
) -> None:
    with pytest.raises(BadQuestion, match=why) as caught:
        answer(reader, "breakeven", words, NOW_US)
    assert "\n" not in str(caught.value)
