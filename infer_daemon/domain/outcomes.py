"""How a request ended, in few words: metric label, log key and (later) ledger column."""

from enum import StrEnum


class Outcome(StrEnum):
    """The family of an ending. The precise reason is the `code` of the error, if there was one.

    *Rejected* never entered a queue and *evicted* did: the split answers an operator's first
    question, "did it cost us queue space?".
    """

    OK = "ok"
    CLIENT_ERROR = "client_error"
    REJECTED = "rejected"
    EVICTED = "evicted"
    CANCELLED = "cancelled"
    ENGINE_ERROR = "engine_error"
    INTERNAL_ERROR = "internal_error"
