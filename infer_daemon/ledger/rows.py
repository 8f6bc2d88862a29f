"""What the ledger keeps of a request: one row when it opens, the whole of it when it settles.

Fields are columns of `requests` by the same names. Money is integers of nano-dollars; instants
(`*_at_us`) are microseconds since the Unix epoch; the stages' other `*_us` are microseconds since
`accepted_at_us`, None where the request never got there. Lines of the journal are these rows as
JSON, so a field may be added with a default but never renamed.
"""

import msgspec

OPEN, LOST = "open", "lost"
"""Outcomes that only the ledger knows: not settled yet, and never, because the daemon died."""
ERRORS = ("engine_error", "internal_error", LOST)
"""Outcomes that were our fault."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What is known of a request once it is admitted."""

    id: str
    tenant: str
    model: str
    """The name that the client asked for. You *must* not pass on names of models that do not exist:
    each is kept for ever."""
    accepted_at_us: int
    tier: str = ""
    endpoint: str = ""
    deployment: str = ""
    recipe_hash: str = ""
    client: str = ""
    stream: bool = False
    metadata: str | None = None
    """JSON text."""
    authenticated_us: int | None = None
    admitted_us: int | None = None
    routed_us: int | None = None
    reserved_tokens: int = 0
    reserved_nano_usd: int = 0


class Opening(Asked, frozen=True, kw_only=True, tag_field="row", tag="opened"):
    """A request holds a reservation from now on."""


class Settlement(Asked, frozen=True, kw_only=True, tag_field="row", tag="settled"):
    """A request has ended. Complete: its opening may have been lost."""

    outcome: str
    code: str = ""
    engine: str | None = None
    fallback_from: str = ""
    fallback_why: str = ""
    rendered_us: int | None = None
    granted_us: int | None = None
    first_token_us: int | None = None
    last_token_us: int | None = None
    settled_us: int | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    price_input_nano_usd: int = 0
    price_cached_nano_usd: int = 0
    price_output_nano_usd: int = 0
    compute_ns: int = 0
    compute_nano_usd: int = 0
    waste_disconnect_tokens: int = 0
    waste_continuation_tokens: int = 0
    waste_preemption_tokens: int = 0
    waste_fallback_tokens: int = 0
    truncated: bool = False
    clamped: bool = False
    day_start_us: int | None = None
    """From here on no columns: what the settle adds to its tenant's budget periods, which are those
    that it settles in. Without starts it adds nothing."""
    month_start_us: int | None = None
    spent_tokens: int = 0
    spent_nano_usd: int = 0

    @property
    def price_nano_usd(self) -> int:
        return self.price_input_nano_usd + self.price_cached_nano_usd + self.price_output_nano_usd

    @property
    def waste_tokens(self) -> int:
        return (
            self.waste_disconnect_tokens
            + self.waste_continuation_tokens
            + self.waste_preemption_tokens
            + self.waste_fallback_tokens
        )


Row = Opening | Settlement

SPEND_FIELDS = 4
OPENING_COLUMNS: tuple[str, ...] = Opening.__struct_fields__
SETTLEMENT_COLUMNS: tuple[str, ...] = Settlement.__struct_fields__[:-SPEND_FIELDS]
