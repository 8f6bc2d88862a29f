"""What tenants say of their answers, in the database."""

from infer_daemon.ledger.periods import HOUR_US
from infer_daemon.ledger.rows import OPEN
from infer_daemon.ledger.sql.database import WriterDatabase

_FIND = f"""
    SELECT requests.model, requests.tier, accepted_at_us - accepted_at_us % {HOUR_US},
        feedback.accepted
    FROM requests LEFT JOIN feedback ON feedback.request_id = requests.id
    WHERE requests.id = ? AND requests.tenant = ? AND requests.outcome <> '{OPEN}'
"""
_GIVE = "INSERT OR REPLACE INTO feedback VALUES (?, ?, ?, ?, ?, ?)"
_COUNT = """
    UPDATE hours SET accepted = accepted + ?
    WHERE hour_at_us = ? AND tenant = ? AND model = ? AND tier = ?
"""


def give(
    database: WriterDatabase,
    *,
    request_id: str,
    tenant: str,
    accepted: bool,
    score: float | None,
    comment: str,
    at_us: int,
) -> tuple[str, bool | None] | None:
    """Keep what is said, in place of what was said before of the same request.

    Returns:
        The request's model, and whether it had been accepted before, None if nobody had said; or
        None: this tenant has no such request that has ended.

    Raises:
        sqlite3.Error: nothing was changed.
    """
    with database.transaction():
        run = database.connection.execute
        found = run(_FIND, (request_id, tenant)).fetchone()
        if found is None:
            return None
        model, tier, hour_at_us, before = found
        run(_GIVE, (request_id, tenant, int(accepted), score, comment, at_us))
        run(_COUNT, (int(accepted) - (before or 0), hour_at_us, tenant, model, tier))
    return model, None if before is None else bool(before)
