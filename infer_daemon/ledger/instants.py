"""Instants, in microseconds since the Unix epoch, as people and programs read them. Pure."""

from datetime import UTC, datetime, timedelta

from infer_daemon.ledger.periods import SECOND_US

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def iso(at_us: int) -> str:
    """To the millisecond, or to the second where it is a whole one."""
    moment = EPOCH + timedelta(microseconds=at_us)
    return (
        moment.isoformat(timespec="seconds" if at_us % SECOND_US == 0 else "milliseconds")[:-6]
        + "Z"
    )


def day_text(at_us: int) -> str:
    """The day that begins then."""
    return iso(at_us)[:10]


def hour_text(at_us: int) -> str:
    """The hour that begins then."""
    return f"{iso(at_us)[:16]}Z"
