"""What the traffic would have cost at an API's prices, and what it cost here: `breakeven`.

The devices of this machine cost as much when they are idle, so what it cost here is their time, not
the part of it that requests used.
"""

from dataclasses import dataclass

from infer_daemon.ledger.instants import iso
from infer_daemon.ledger.periods import HOUR_US
from infer_daemon.ledger.pricing import Charge, Price, charge, compute_nano_usd
from infer_daemon.ledger.reports.reader import Reader
from infer_daemon.ledger.reports.spans import Span
from infer_daemon.ledger.reports.sums import usd_text
from infer_daemon.ledger.sql.device_hours import LINES

MONTH_NS = 2_629_800_000_000_000
"""A twelfth of 365.25 days."""
MONTHS_MAX = 1200
"""Whatever takes a century does not pay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What one has to choose between."""

    api: Price
    hour_nano_usd: int | None = None
    """What a device costs by the hour; None for what is configured."""
    monthly_nano_usd: int = 0
    """Engineering and maintenance of one's own, by the month."""
    setup_nano_usd: int = 0
    """Spent before the first month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What was asked of the devices, and how long they were there for it."""

    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    devices: int
    device_ns: int
    """Of all devices together."""
    wall_ns: int
    devices_nano_usd: int
    """At the configured prices."""


def breakeven(reader: Reader, offer: Offer, span: Span) -> dict[str, object]:
    """The comparison over this time, by whole hours.

    Raises:
        LedgerProblem: the ledger cannot be read.
    """
    since_us = span.since_us - span.since_us % HOUR_US
    with reader.moment():
        traffic, notes = _traffic(reader, since_us, span.until_us)
    if offer.hour_nano_usd is None and not traffic.devices_nano_usd:
        notes.append("no device has a price: it is to be given (gpu_hour)")
    return {
        "since": iso(since_us),
        "until": iso(span.until_us),
        **compare(traffic, offer, now_us=span.until_us),
        "notes": notes,
    }


def compare(traffic: Traffic, offer: Offer, *, now_us: int) -> dict[str, object]:
    """What this traffic costs here and there, and when what was set up has paid. Pure."""
    api = charge(
        offer.api,
        prompt_tokens=traffic.prompt_tokens,
        cached_tokens=traffic.cached_tokens,
        completion_tokens=traffic.completion_tokens,
    )
    here_nano_usd = traffic.devices_nano_usd
    if offer.hour_nano_usd is not None:
        here_nano_usd = compute_nano_usd(traffic.device_ns, offer.hour_nano_usd)
    found: dict[str, object] = {
        "requests": traffic.requests,
        "prompt_tokens": traffic.prompt_tokens,
        "cached_tokens": traffic.cached_tokens,
        "completion_tokens": traffic.completion_tokens,
        "devices": traffic.devices,
        "device_hours": round(traffic.device_ns / 3.6e12, 4),
        "api_usd": usd_text(api.total_nano_usd),
        "here_usd": usd_text(here_nano_usd),
    }
    return found | _by_month(traffic, offer, api, here_nano_usd, now_us)


def _by_month(
    traffic: Traffic, offer: Offer, api: Charge, here_nano_usd: int, now_us: int
) -> dict[str, object]:
    """The same, if it goes on like that for months."""
    if not traffic.wall_ns:
        return {"break_even_month": None, "verdict": "there was no traffic in this time"}
    api_nano_usd = api.total_nano_usd * MONTH_NS // traffic.wall_ns
    month_nano_usd = here_nano_usd * MONTH_NS // traffic.wall_ns + offer.monthly_nano_usd
    saved_nano_usd = api_nano_usd - month_nano_usd
    month = _first_paid(offer.setup_nano_usd, saved_nano_usd)
    return {
        "api_usd_per_month": usd_text(api_nano_usd),
        "here_usd_per_month": usd_text(month_nano_usd),
        "saved_usd_per_month": usd_text(saved_nano_usd),
        "setup_usd": usd_text(offer.setup_nano_usd),
        "break_even_traffic": round(month_nano_usd / api_nano_usd, 4) if api_nano_usd else None,
        "break_even_month": month,
        "break_even_calendar_month": None if month is None else _calendar_month(now_us, month),
        "verdict": _verdict(month, month_nano_usd, api_nano_usd),
    }


def _first_paid(setup_nano_usd: int, saved_nano_usd: int) -> int | None:
    """At the end of which month, counted from 1, nothing is owed any more."""
    if saved_nano_usd <= 0:
        return None
    month = max(1, -(-setup_nano_usd // saved_nano_usd))
    return month if month <= MONTHS_MAX else None


def _verdict(month: int | None, month_nano_usd: int, api_nano_usd: int) -> str:
    if month is not None:
        return f"pays from month {month} on"
    if not api_nano_usd:
        return "never pays: this traffic costs nothing there"
    if month_nano_usd < api_nano_usd:
        return f"does not pay within {MONTHS_MAX // 12} years"
    times = month_nano_usd / api_nano_usd
    return f"never pays at this traffic: it would at {times:,.2f} times as much on the same devices"


def _calendar_month(now_us: int, month: int) -> str:
    """The first month is the one after this."""
    year, this = int(iso(now_us)[:4]), int(iso(now_us)[5:7])
    year, index = divmod(12 * year + this - 1 + month, 12)
    return f"{year:04d}-{index + 1:02d}"


def _traffic(reader: Reader, since_us: int, until_us: int) -> tuple[Traffic, list[str]]:
    """What the ledger has of this time, and what one should know of it."""
    names = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
    sums = ", ".join(f"coalesce(sum({name}), 0) AS {name}" for name in names)
    between = "hour_at_us >= ? AND hour_at_us < ?"
    (asked,) = reader.rows(f"SELECT {sums} FROM hours WHERE {between}", since_us, until_us)
    found = reader.rows(
        f"SELECT device, price_nano_usd_per_hour AS price, sum({' + '.join(LINES)}) AS ns"
        f" FROM device_hours WHERE {between} GROUP BY device, price",
        since_us,
        until_us,
    )
    by_device: dict[str, int] = {}
    for row in found:
        by_device[row["device"]] = by_device.get(row["device"], 0) + row["ns"]
    if any(by_device.values()):
        cost = sum(compute_nano_usd(row["ns"], row["price"]) for row in found)
        wall_ns, notes = max(by_device.values()), []
    else:
        wall_ns, cost = _lasted_ns(reader, since_us, until_us), 0
        notes = ["no time of devices is on record: one device, from the first request to the last"]
        by_device = {"": wall_ns}
    device_ns = sum(by_device.values())
    return Traffic(
        **asked,
        devices=len(by_device),
        device_ns=device_ns,
        wall_ns=wall_ns,
        devices_nano_usd=cost,
    ), notes


def _lasted_ns(reader: Reader, since_us: int, until_us: int) -> int:
    (row,) = reader.rows(
        "SELECT max(accepted_at_us + coalesce(settled_us, 0)) - min(accepted_at_us) AS us"
        " FROM requests WHERE accepted_at_us >= ? AND accepted_at_us < ? AND outcome <> 'open'",
        since_us,
        until_us,
    )
    return (row["us"] or 0) * 1000
