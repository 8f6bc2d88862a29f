"""A request's record as the rows of the ledger. Pure.

What the record is at that moment is noted at once, by one call: the event loop has no time for
more. The row is made of that later, by the writer's thread.

Each field is named twice: rows that get what they have in common from a dictionary take half as
long again to make, for every request.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.ledger.pricing import Bill
from infer_daemon.ledger.rows import Opening, Settlement

METADATA_BYTES_MAX = 4096
"""OpenAI's own limits come to about 9 KiB; a ledger is no place to keep things in."""


class _Facts(NamedTuple):
    """What rows have of a record, by the same names. Fields without a default are all that an
    opening has."""

    id: str
    tenant: str
    model: str
    accepted_at_us: int
    tier: str
    endpoint: str
    deployment: str
    recipe_hash: str
    client: str
    stream: bool
    metadata: str | None
    accepted_s: float
    authenticated_s: float | None
    admitted_s: float | None
    routed_s: float | None
    reserved_tokens: int
    reserved_nano_usd: int
    outcome: Outcome | None = None
    code: str = ""
    engine: str = ""
    rendered_s: float | None = None
    granted_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    settled_s: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    compute_ns: int = 0
    compute_nano_usd: int = 0
    waste_continuation_tokens: int = 0
    waste_preemption_tokens: int = 0
    waste_fallback_tokens: int = 0
    fallback_from: str = ""
    fallback_why: str = ""
    told: Mapping[str, str] = MappingProxyType({})


_facts_at_opening = attrgetter(*(f for f in _Facts._fields if f not in _Facts._field_defaults))
_facts_at_settling = attrgetter(*_Facts._fields)


def opening_of(record: RequestRecord) -> Callable[[], Opening]:
    """What is known when it is admitted."""
    return partial(_opening, _facts_at_opening(record))


def settlement_of(record: RequestRecord, bill: Bill) -> Callable[[], Settlement]:
    """All of it, when it is over."""
    assert record.outcome is not None, "only what has ended is settled"
    return partial(_settlement, _facts_at_settling(record), bill)


def _opening(facts: Iterable[Any]) -> Opening:
    record = _Facts(*facts)
    from_s = record.accepted_s
    return Opening(
        id=record.id,
        tenant=record.tenant,
        model=record.model,
        accepted_at_us=record.accepted_at_us,
        tier=record.tier,
        endpoint=record.endpoint,
        deployment=record.deployment,
        recipe_hash=record.recipe_hash,
        client=record.client,
        stream=record.stream,
        metadata=record.metadata,
        authenticated_us=_us(from_s, record.authenticated_s),
        admitted_us=_us(from_s, record.admitted_s),
        routed_us=_us(from_s, record.routed_s),
        reserved_tokens=record.reserved_tokens,
        reserved_nano_usd=record.reserved_nano_usd,
    )


def _settlement(facts: Iterable[Any], bill: Bill) -> Settlement:
    record = _Facts(*facts)
    assert record.outcome is not None, "only what has ended is settled"
    from_s, charge, told = record.accepted_s, bill.charge, record.told
    wasted = record.completion_tokens if record.outcome is Outcome.CANCELLED else 0
    return Settlement(
        id=record.id,
        tenant=record.tenant,
        model=record.model,
        accepted_at_us=record.accepted_at_us,
        tier=record.tier,
        endpoint=record.endpoint,
        deployment=record.deployment,
        recipe_hash=record.recipe_hash,
        client=record.client,
        stream=record.stream,
        metadata=record.metadata,
        authenticated_us=_us(from_s, record.authenticated_s),
        admitted_us=_us(from_s, record.admitted_s),
        routed_us=_us(from_s, record.routed_s),
        reserved_tokens=record.reserved_tokens,
        reserved_nano_usd=record.reserved_nano_usd,
        outcome=record.outcome,
        code=record.code,
        engine=record.engine or None,
        fallback_from=record.fallback_from,
        fallback_why=record.fallback_why,
        rendered_us=_us(from_s, record.rendered_s),
        granted_us=_us(from_s, record.granted_s),
        first_token_us=_us(from_s, record.first_token_s),
        last_token_us=_us(from_s, record.last_token_s),
        settled_us=_us(from_s, record.settled_s),
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        completion_tokens=record.completion_tokens,
        reasoning_tokens=record.reasoning_tokens,
        price_input_nano_usd=charge.input_nano_usd,
        price_cached_nano_usd=charge.cached_nano_usd,
        price_output_nano_usd=charge.output_nano_usd,
        compute_ns=record.compute_ns,
        compute_nano_usd=record.compute_nano_usd,
        waste_disconnect_tokens=wasted,
        waste_continuation_tokens=record.waste_continuation_tokens,
        waste_preemption_tokens=record.waste_preemption_tokens,
        waste_fallback_tokens=record.waste_fallback_tokens,
        truncated="x-infer-truncated" in told,
        clamped="x-infer-clamped" in told,
        day_start_us=bill.day_start_us,
        month_start_us=bill.month_start_us,
        spent_tokens=bill.tokens,
        spent_nano_usd=charge.total_nano_usd,
    )


def metadata_text(body: Mapping[str, Any]) -> str | None:
    """A request's `metadata`, as JSON text; None if it has none that could be kept."""
    metadata = body.get("metadata")
    if not isinstance(metadata, dict) or not metadata or not _may_fit(metadata):
        return None
    text = msgspec.json.encode(metadata)
    return text.decode() if len(text) <= METADATA_BYTES_MAX else None


def _may_fit(metadata: dict[str, Any]) -> bool:
    """Whether it could be as short as that, found out without looking at all of it: each thing in
    it is a byte at least, and each text as many as it has characters."""
    left = METADATA_BYTES_MAX
    unseen: list[Any] = [metadata]
    while unseen:
        thing = unseen.pop()
        left -= len(thing) if isinstance(thing, str | dict | list) else 1
        if left < 0:
            return False
        if isinstance(thing, dict):
            unseen += thing.keys()
            unseen += thing.values()
        elif isinstance(thing, list):
            unseen += thing
    return True


def _us(from_s: float, time_s: float | None) -> int | None:
    return None if time_s is None else round((time_s - from_s) * 1e6)
