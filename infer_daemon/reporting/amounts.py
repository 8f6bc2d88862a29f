"""Dollars for people."""

from infer_daemon.ledger.reports.sums import NANO


def usd(value: float | None) -> str:
    """Cents where there are dollars, more digits where there are none."""
    if value is None:
        return "-"
    digits = 2 if abs(value) >= 10 or value == 0 else 4 if abs(value) >= 0.01 else 7
    return f"{value:,.{digits}f}"


def nano(value: int) -> str:
    """Of nano-dollars."""
    return usd(value / NANO)
