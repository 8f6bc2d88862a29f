"""Tables, and how an older database becomes a newer one.

`PRAGMA user_version` is the number of migrations that were applied. A migration is never changed
once it was released: the next one changes what it did.
"""

import sqlite3
from pathlib import Path

from sqlite_utils import Database, Migrations
from sqlite_utils.db import ForeignKey

from infer_daemon import __version__
from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.sql.views import VIEWS

MIGRATIONS = Migrations("ledger")
VERSION = 1
"""How many migrations there are."""

_NAMES = ("tenants", "models", "engines")
"""Tables of what rows refer to."""

_REQUEST_TEXTS = (
    "id", "tenant", "tier", "endpoint", "model", "deployment", "recipe_hash", "engine",
    "fallback_from", "fallback_why", "outcome", "code", "client", "metadata",
)  # fmt: skip
_REQUEST_STAGES = (
    "authenticated_us", "admitted_us", "routed_us", "rendered_us", "granted_us",
    "first_token_us", "last_token_us", "settled_us",
)  # fmt: skip
_REQUEST_COUNTS = (
    "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens",
    "reserved_tokens", "reserved_nano_usd", "price_input_nano_usd", "price_cached_nano_usd",
    "price_output_nano_usd", "compute_ns", "compute_nano_usd", "waste_disconnect_tokens",
    "waste_continuation_tokens", "waste_preemption_tokens", "waste_fallback_tokens", "stream",
    "truncated", "clamped",
)  # fmt: skip
_REQUEST_COLUMNS = (
    "id", "tenant", "tier", "endpoint", "model", "deployment", "recipe_hash", "engine",
    "fallback_from", "fallback_why", "accepted_at_us", "authenticated_us", "admitted_us",
    "routed_us", "rendered_us", "granted_us", "first_token_us", "last_token_us", "settled_us",
    "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens",
    "reserved_tokens", "reserved_nano_usd", "price_input_nano_usd", "price_cached_nano_usd",
    "price_output_nano_usd", "compute_ns", "compute_nano_usd", "waste_disconnect_tokens",
    "waste_continuation_tokens", "waste_preemption_tokens", "waste_fallback_tokens", "outcome",
    "code", "client", "stream", "truncated", "clamped", "metadata",
)  # fmt: skip
HOUR_COUNTS = (
    "requests", "ok", "errors", "prompt_tokens", "cached_tokens", "completion_tokens",
    "price_nano_usd", "compute_ns", "compute_nano_usd", "waste_tokens",
)  # fmt: skip
"""What a settle adds to. `errors` were our fault: engine and internal errors, lost rows."""
_DEVICE_COUNTS = (
    "price_nano_usd_per_hour", "attributed_ns", "waste_ns", "idle_ns", "loading_ns",
    "sleeping_ns", "down_ns",
)  # fmt: skip


def upgrade(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables and views what this version knows, and note who did it.

    Raises:
        LedgerProblem: a newer version of infer-daemon wrote this database.
        sqlite3.Error: it cannot be read or written.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        raise LedgerProblem(
            f"{path} has schema version {found}, written by infer-daemon {_writer(connection)};"
            f" this is infer-daemon {__version__}, which knows schema version {VERSION}: start the"
            " newer one, or choose another state folder"
        )
    if found == 0:  # before the first table, or it has no effect
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db = Database(connection, recursive_triggers=False, execute_plugins=False)
    if found < VERSION:
        MIGRATIONS.apply(db)
    with db.atomic():
        for name, sql in VIEWS.items():
            db.create_view(name, sql, replace=True)
        if _writer(connection) != __version__:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('daemon_version', ?)", [__version__])


def _writer(connection: sqlite3.Connection) -> str:
    try:
        rows = connection.execute("SELECT value FROM meta WHERE key = 'daemon_version'").fetchall()
    except sqlite3.OperationalError:  # a version that has no such table
        return "of an unknown version"
    return rows[0][0] if rows else "of an unknown version"


@MIGRATIONS()
def m001_tables(db: Database) -> None:
    """Everything that issue 5 wants."""
    _table(db, "meta", {"key": str, "value": str}, pk="key")
    for name in _NAMES:
        _table(db, name, {"name": str}, pk="name")
    _requests(db)
    _feedback(db)
    columns = {"device": str, "hour_at_us": int, "engine": str}
    counts = dict.fromkeys(_DEVICE_COUNTS, int)
    _table(db, "device_hours", columns | counts, pk=("device", "hour_at_us", "engine"))
    _table(
        db,
        "hours",
        {"hour_at_us": int, "tenant": str, "model": str, "tier": str}
        | dict.fromkeys([*HOUR_COUNTS, "accepted"], int),
        pk=("hour_at_us", "tenant", "model", "tier"),
        foreign_keys=[("tenant", "tenants", "name"), ("model", "models", "name")],
    )
    _table(
        db,
        "spend",
        {"tenant": str, "period": str, "start_at_us": int, "tokens": int, "nano_usd": int},
        pk=("tenant", "period", "start_at_us"),
        foreign_keys=[("tenant", "tenants", "name")],
    )
    db.execute("PRAGMA user_version = 1")


def _requests(db: Database) -> None:
    nullable = {*_REQUEST_STAGES, "engine", "metadata"}
    types = {name: str if name in _REQUEST_TEXTS else int for name in _REQUEST_COLUMNS}
    db.table("requests").create(
        types,
        pk="id",
        foreign_keys=[
            ("tenant", "tenants", "name"),
            ("model", "models", "name"),
            ("engine", "engines", "name"),
        ],
        not_null=set(types) - nullable,
        defaults=dict.fromkeys(_REQUEST_COUNTS, 0)
        | dict.fromkeys(set(_REQUEST_TEXTS) - nullable - {"id", "tenant", "model", "outcome"}, ""),
        strict=True,
    )
    db.execute("CREATE INDEX requests_accepted_at_us ON requests(accepted_at_us)")
    db.execute("CREATE INDEX requests_open ON requests(accepted_at_us) WHERE outcome = 'open'")


def _feedback(db: Database) -> None:
    db.table("feedback").create(
        {
            "request_id": str,
            "tenant": str,
            "accepted": int,
            "score": float,
            "comment": str,
            "at_us": int,
        },
        pk="request_id",
        foreign_keys=[
            ForeignKey("feedback", "request_id", "requests", "id", on_delete="CASCADE"),
            ForeignKey("feedback", "tenant", "tenants", "name"),
        ],
        not_null={"tenant", "accepted", "comment", "at_us"},
        defaults={"comment": ""},
        strict=True,
    )


def _table(
    db: Database,
    name: str,
    columns: dict[str, type],
    *,
    pk: str | tuple[str, ...],
    foreign_keys: list[tuple[str, str, str]] | None = None,
) -> None:
    """A strict table in which nothing is NULL, and numbers outside of the key begin at 0."""
    keys = {pk} if isinstance(pk, str) else set(pk)
    numbers = {column for column, kind in columns.items() if kind is int} - keys
    db.table(name).create(
        columns,
        pk=pk,
        foreign_keys=foreign_keys,
        not_null=set(columns),
        defaults=dict.fromkeys(numbers, 0),
        strict=True,
    )
