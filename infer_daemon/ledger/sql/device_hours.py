"""What each device's time went into, by the hour: rows that are added to."""

import sqlite3
from collections.abc import Mapping, Sequence

from infer_daemon.ledger.devices import DeviceHour, Line

LINES = tuple(f"{line}_ns" for line in Line)
_KEY = ("device", "hour_at_us", "engine")
_COLUMNS = (*_KEY, "price_nano_usd_per_hour", *LINES)
_WHERE = " AND ".join(f"{name} = ?" for name in _KEY)
_ADD = f"""
    INSERT INTO device_hours ({", ".join(_COLUMNS)}) VALUES ({", ".join("?" * len(_COLUMNS))})
    ON CONFLICT ({", ".join(_KEY)}) DO UPDATE SET
        price_nano_usd_per_hour = excluded.price_nano_usd_per_hour,
        {", ".join(f"{name} = {name} + excluded.{name}" for name in LINES)}
"""
_FOUND = f"SELECT price_nano_usd_per_hour, {' + '.join(LINES)} FROM device_hours WHERE {_WHERE}"
_UNTIL = "device_until_ns:"
"""What keys in `meta` begin with: up to which moment since the epoch a device's hours are told."""
TWICE = "device_twice:"
"""The same where the clock was set back between two runs. After it come the moment at which the
later one began and the device; the value is the moment up to which the earlier one had told."""


def add(connection: sqlite3.Connection, rows: Sequence[DeviceHour], until_ns: int) -> None:
    """Add what came to these rows, whose devices are then told up to this moment. Inside a
    transaction of the caller's."""
    for row in rows:
        key = (row.device.name, row.hour_at_us, row.engine)
        price = _price(connection.execute(_FOUND, key).fetchone(), row)
        connection.execute(_ADD, (*key, price, *row.ns.values()))
    for device in {row.device.name for row in rows}:
        values = f"{_UNTIL}{device}", str(until_ns)
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)


def note_twice(connection: sqlite3.Connection, twice: Mapping[str, tuple[int, int]]) -> None:
    """So that hours with too much time are no riddle. Inside a transaction of the caller's."""
    for device, (from_ns, until_ns) in twice.items():
        values = f"{TWICE}{from_ns}:{device}", str(until_ns)
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", values)


def _price(found: tuple[int, int] | None, row: DeviceHour) -> int:
    """Of an hour in which it has changed, the mean."""
    price = row.device.price_nano_usd_per_hour
    if found is None or found[0] == price:
        return price
    before_ns, now_ns = found[1], sum(row.ns.values())
    total_ns = before_ns + now_ns
    return price if total_ns <= 0 else (found[0] * before_ns + price * now_ns) // total_ns


def until_ns(connection: sqlite3.Connection) -> dict[str, int]:
    """Up to when each device was ever told."""
    found = connection.execute("SELECT key, value FROM meta WHERE key GLOB ?", (f"{_UNTIL}*",))
    return {key.removeprefix(_UNTIL): int(value) for key, value in found}
