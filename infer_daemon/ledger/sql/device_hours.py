"""What each device's time went into, by the hour: rows that are added to."""

import sqlite3
from collections.abc import Iterable

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
_UNTIL = "devices_until_ns"
"""Key in `meta`: up to which moment since the epoch the hours are told."""


def add(connection: sqlite3.Connection, rows: Iterable[DeviceHour], until_ns: int) -> None:
    """Add what came to these rows. Inside a transaction of the caller's."""
    for row in rows:
        key = (row.device.name, row.hour_at_us, row.engine)
        price = _price(connection.execute(_FOUND, key).fetchone(), row)
        connection.execute(_ADD, (*key, price, *row.ns.values()))
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (_UNTIL, str(until_ns)))


def _price(found: tuple[int, int] | None, row: DeviceHour) -> int:
    """Of an hour in which it has changed, the mean."""
    price = row.device.price_nano_usd_per_hour
    if found is None or found[0] == price:
        return price
    before_ns, now_ns = found[1], sum(row.ns.values())
    total_ns = before_ns + now_ns
    return price if total_ns <= 0 else (found[0] * before_ns + price * now_ns) // total_ns


def until_ns(connection: sqlite3.Connection) -> int | None:
    """Up to when an earlier run has told; None if there was none."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_UNTIL,)).fetchone()
    return None if row is None else int(row[0])
