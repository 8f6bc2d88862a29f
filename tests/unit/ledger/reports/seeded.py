"""A few thousand requests of five days, as the daemon's own store wrote them, and what they come to
by plain arithmetic over the same list."""

from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

from infer_daemon.ledger.batch import batch_of
from infer_daemon.ledger.periods import DAY_US, HOUR_US, SECOND_US, period_starts
from infer_daemon.ledger.rows import ERRORS, LOST, Opening, Settlement
from infer_daemon.ledger.sql.database import WriterDatabase, open_database
from tests.unit.ledger.sample import opening, settlement

FIRST_US = 20_000 * DAY_US
DAYS = 5
NOW_US = FIRST_US + DAYS * DAY_US
REQUESTS = 3000
LOST_ID, OPEN_ID = "dead" * 6, "beef" * 6

_OUTCOMES = ("ok", "ok", "ok", "ok", "cancelled", "client_error", "engine_error", "internal_error")


def requests() -> list[Settlement]:
    """The same ones every time, in no order."""
    random = Random(5)
    return [_request(random, number) for number in range(REQUESTS)]


def _request(random: Random, number: int) -> Settlement:
    outcome = random.choice(_OUTCOMES)
    accepted_at_us = FIRST_US + random.randrange(DAYS * DAY_US - 60 * SECOND_US)
    first_us, length_us = random.randrange(1000, 900_000), random.randrange(30 * SECOND_US)
    prompt_tokens, completion_tokens = random.randrange(2000), random.randrange(500)
    price = [random.randrange(1_000_000) for _ in range(3)]
    price = [0, 0, 0] if outcome in ERRORS else price
    day_us, month_us = period_starts(accepted_at_us)
    return settlement(
        f"{number:024x}",
        tenant=random.choice(("acme", "globex", "initech")),
        model=random.choice(("chat", "code")),
        tier=random.choice(("interactive", "batch")),
        endpoint=random.choice(("chat", "completions", "embeddings")),
        outcome=outcome,
        accepted_at_us=accepted_at_us,
        first_token_us=first_us if completion_tokens and outcome != "client_error" else None,
        settled_us=first_us + length_us,
        prompt_tokens=prompt_tokens,
        cached_tokens=random.randrange(prompt_tokens + 1),
        completion_tokens=completion_tokens,
        price_input_nano_usd=price[0],
        price_cached_nano_usd=price[1],
        price_output_nano_usd=price[2],
        compute_ns=random.randrange(10**9),
        compute_nano_usd=random.randrange(10**6),
        waste_disconnect_tokens=completion_tokens if outcome == "cancelled" else 0,
        waste_fallback_tokens=random.choice((0, 0, 0, 17)),
        day_start_us=day_us,
        month_start_us=month_us,
        spent_tokens=prompt_tokens + completion_tokens,
        spent_nano_usd=sum(price),
    )


def write(path: Path) -> WriterDatabase:
    """All of them, one that was lost and one that is open. You *must* close it."""
    database = open_database(path, "process")
    listed = requests()
    database.write(batch_of([opening(LOST_ID, accepted_at_us=FIRST_US + HOUR_US, tier="batch")]))
    database.settle_lost()
    for at in range(0, len(listed), 128):
        chunk = listed[at : at + 128]
        database.write(batch_of([*map(_opening, chunk), *chunk]))
    database.write(batch_of([opening(OPEN_ID, accepted_at_us=NOW_US - SECOND_US)]))
    return database


def _opening(row: Settlement) -> Opening:
    return opening(row.id, tenant=row.tenant, accepted_at_us=row.accepted_at_us)


def lost() -> Settlement:
    """The lost one, as a row."""
    zero = dict.fromkeys(("prompt_tokens", "completion_tokens", "price_input_nano_usd"), 0)
    zero |= dict.fromkeys(("price_cached_nano_usd", "price_output_nano_usd"), 0)
    return settlement(
        LOST_ID,
        accepted_at_us=FIRST_US + HOUR_US,
        tier="batch",
        outcome=LOST,
        settled_us=None,
        **zero,
    )


def grouped(
    rows: Iterable[Settlement], key: Callable[[Settlement], tuple[object, ...]]
) -> dict[tuple[object, ...], list[Settlement]]:
    """Rows by a key."""
    groups: dict[tuple[object, ...], list[Settlement]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def percentile(values: list[int], percent: int) -> int | None:
    """The smallest of them that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[-(-len(ordered) * percent // 100) - 1] if ordered else None
