"""Whether an answer was accepted: what its tenant says of it, and what is made of that."""

import asyncio
import time
from functools import partial
from typing import Annotated

import msgspec

from infer_daemon.domain.errors import LedgerUnavailable, RequestNotFound
from infer_daemon.domain.record import id_in
from infer_daemon.ledger.book import RETRY_AFTER_S, Book
from infer_daemon.ledger.metrics import Metrics
from infer_daemon.ledger.problems import LedgerProblem
from infer_daemon.ledger.sql.feedback import give

WAITING_MAX = 256
"""Feedback that waits for the ledger, of all tenants."""
WRITE_TIMEOUT_S = 10.0


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a tenant says of an answer it had."""

    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    """As the answer has it, with what an endpoint puts before it (`chatcmpl-...`) or without."""
    accepted: bool
    score: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    comment: Annotated[str, msgspec.Meta(max_length=2000)] | None = None


class FeedbackDesk:
    """Takes feedback, one after the other: whoever waits for a row to be written waits for one of
    these at most. Used from one event loop."""

    def __init__(self, book: Book, metrics: Metrics) -> None:
        self._book = book
        self._metrics = metrics
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def take(self, tenant: str, feedback: Feedback) -> dict[str, object]:
        """Write it down, in place of what this tenant said before of the same request. Returns what
        the client is told, when it is safe.

        Raises:
            RequestNotFound: the tenant has no such request, it has not ended, or is no longer kept.
            LedgerUnavailable: it cannot be written down now.
        """
        id_ = id_in(feedback.request_id)
        if id_ is None:
            raise _not_found(feedback)
        if self._waiting >= WAITING_MAX:
            raise LedgerUnavailable(retry_after_s=RETRY_AFTER_S)
        self._waiting += 1
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S), self._turn:
                found = await self._write(tenant, id_, feedback)
        except (LedgerProblem, TimeoutError) as error:
            raise LedgerUnavailable(retry_after_s=RETRY_AFTER_S) from error
        finally:
            self._waiting -= 1
        if found is None:
            raise _not_found(feedback)
        model, before = found
        self._metrics.on_feedback(model, tenant, accepted=feedback.accepted, before=before)
        return {
            "object": "feedback",
            "request_id": id_,
            "accepted": feedback.accepted,
            "replaced": before is not None,
        }

    async def _write(
        self, tenant: str, request_id: str, feedback: Feedback
    ) -> tuple[str, bool | None] | None:
        return await self._book.run(
            partial(
                give,
                request_id=request_id,
                tenant=tenant,
                accepted=feedback.accepted,
                score=feedback.score,
                comment=feedback.comment or "",
                at_us=time.time_ns() // 1000,
            )
        )


def _not_found(feedback: Feedback) -> RequestNotFound:
    return RequestNotFound(
        f"no request {feedback.request_id[:100]!r} of this tenant that has ended and is still kept",
        param="request_id",
    )
