"""What is known of one request, gathered on its way and written down when it settles."""

import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import DaemonError
from infer_daemon.domain.jobs import JobId, Tier
from infer_daemon.domain.outcomes import Outcome

STORY_MAX = 64
ID_CHARS = 24
_ID = re.compile(rf"(?<![0-9a-f])[0-9a-f]{{{ID_CHARS}}}(?![0-9a-f])")


def _made_up() -> Iterator[str]:
    """Many of one call of the kernel, which lets go of the interpreter: a thread that waits for it
    may then keep it for longer than all else takes that is done for a request."""
    while True:
        many = secrets.token_hex(128 * ID_CHARS // 2)
        for begin in range(0, len(many), ID_CHARS):
            yield many[begin : begin + ID_CHARS]


_ids = _made_up()


def new_id() -> str:
    """Of a request, or of an answer that belongs to none. For the event loop's thread."""
    return next(_ids)


def id_in(text: str) -> str | None:
    """A request's id, by itself or as it stands in responses (`chatcmpl-...`); None without one."""
    found = _ID.search(text)
    return None if found is None else found[0]


CONTINUED = "x-infer-continued"
"""Response header of an answer that was continued after its engine was lost: what of it is not as
it would have been. A stream that has begun is told by a comment."""
_OF_ONE_TRY = (
    "x-infer-truncated", "x-infer-clamped", "x-infer-model", "x-infer-fallback", CONTINUED,
)  # fmt: skip
"""What is told of a request that is not so of it with another model."""


def never() -> bool:
    """Whether another model could answer, where none may."""
    return False


class Closable(Protocol):
    """Something that works for a request and can be told to stop."""

    @property
    def id(self) -> JobId:
        """Under which the scheduler knows it."""

    async def aclose(self) -> None:
        """Stop. Idempotent."""


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One HTTP request. Written by the request path and the gate, both on the event loop.

    Times are seconds of a monotonic clock, the event loop's own; a stage that was never reached is
    None. A request may make several engine calls (prompt lists, rerank pairs): token counts are
    sums over them, stage times are those of the first call to get there, `last_token_s` of the
    last.
    """

    id: str
    endpoint: Endpoint
    accepted_s: float
    clock: Callable[[], float]
    accepted_at_us: int = 0
    """The same moment by the wall clock, since the Unix epoch; known when it is admitted."""

    tenant: str = ""
    model: str = ""
    """The public name that the client asked for; responses carry it back."""
    deployment: str = ""
    """What serves that name: its pool, and the adapter if it is one."""
    recipe_hash: str = ""
    """Of all that makes this deployment answer as it does."""
    engine: str = ""
    answered_by: str = ""
    """Public name of the model that answers in place of the one that was asked for."""
    fallback_from: str = ""
    """What would have served the model that was asked for, where it does not."""
    fallback_why: str = ""
    can_fall_back: Callable[[], bool] = field(default=never)
    """Whether another model could answer in place of this one, if it were lost now."""
    died_under: set[object] = field(default_factory=set)
    """Incarnations of engines that died under it."""
    is_static: bool = False
    """Whether no model answers, but a text that was written beforehand."""
    client: str = ""
    """Address, or user of this machine."""
    metadata: str | None = None
    """What the client wants to be kept with it, as JSON text."""
    stream: bool = False
    text_len: int = 0
    """Characters of its prompt, or of its longest."""
    tier: Tier = Tier.INTERACTIVE
    ttft_objective_s: float | None = None
    """Its tenant's, if it has one."""
    due_s: float = 0.0
    """When its tenant would like the answer to begin."""
    deadline_s: float = 0.0
    """When waiting for an engine ends in a refusal."""
    told: dict[str, str] = field(default_factory=dict)
    """What was done to the request that its client should know: headers of the answer."""

    authenticated_s: float | None = None
    read_s: float | None = None
    routed_s: float | None = None
    admitted_s: float | None = None
    rendered_s: float | None = None
    granted_s: float | None = None
    first_token_s: float | None = None
    last_token_s: float | None = None
    settled_s: float | None = None

    rendered_tokens: int = 0
    """Of its prompts, whether or not an engine has come to read them."""
    prompt_tokens: int = 0
    """Of the prompts that were given to an engine: what is billed and written down."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    """Those of the completion that are thoughts, as far as the front end says; known at the end."""
    waste_continuation_tokens: int = 0
    waste_preemption_tokens: int = 0
    waste_fallback_tokens: int = 0
    """Tokens that were worked on for nothing, by cause. What a disconnect wastes is known when the
    request has ended."""

    compute_ns: int = 0
    """What its calls used of devices, all together; known when it is settled."""
    compute_nano_usd: int = 0
    waste_ns: int = 0
    """The part of `compute_ns` that was for nothing."""
    price_nano_usd: int = 0
    """What it is charged; known when it is settled."""

    reserved_tokens: int = 0
    """Of its tenant's budgets: what it may use at most, as far as that is known."""
    reserved_nano_usd: int = 0

    seqs: int = 0
    """Sequences asked of engines, `n` and prompt lists included."""
    calls_started: int = 0
    calls_open: int = 0
    """Engine calls that were begun and have not delivered their last output yet."""
    open_calls: set[Closable] = field(default_factory=set)
    """Engine calls that nobody has closed yet."""
    refusal: DaemonError | None = None
    """What the gate refused with. The vendor's handlers turn an exception into their own error, so
    the request path answers from here."""
    outcome: Outcome | None = None
    code: str = ""
    story: list[tuple[float, str]] = field(default_factory=list)
    """What happened to it, and when."""
    detail: str = ""
    """For the log alone: what went wrong inside, never told to the client."""

    def note(self, event: str) -> None:
        """Add to its story, which is bounded: a long answer has no more of one than a short."""
        if len(self.story) < STORY_MAX:
            self.story.append((self.clock(), event))

    def tell_continued(self, inexact: Iterable[str]) -> None:
        """A call of it goes on, and this of it not as without the interruption."""
        known = self.told[CONTINUED].split(",") if CONTINUED in self.told else []
        for what in sorted(inexact):
            self.note(f"continued, {what} not as without interruption")
        if found := {*known, *inexact}:
            self.told[CONTINUED] = ",".join(sorted(found))

    async def close_calls(self) -> None:
        """End whatever this request still has in an engine or in a queue."""
        while self.open_calls:
            try:
                await self.open_calls.pop().aclose()
            except Exception as error:  # noqa: BLE001 - the others are to be closed all the same
                self.detail = self.detail or f"{type(error).__name__}: {error}"[:500]

    @property
    def is_generated(self) -> bool:
        """Whether everything that engines contribute has arrived."""
        return self.is_static or (self.calls_started > 0 and self.calls_open == 0)

    @property
    def served_model(self) -> str:
        """Public name of the model that answers."""
        return self.answered_by or self.model

    def start_over(self) -> None:
        """What was done so far was for nothing, and is nobody's to pay. Nothing of it may have been
        sent, and its calls must be closed."""
        assert not self.open_calls, "a call goes on that nobody will read"
        self.waste_fallback_tokens += self.prompt_tokens + self.completion_tokens
        self.rendered_tokens = self.prompt_tokens = self.cached_tokens = 0
        self.completion_tokens = self.reasoning_tokens = 0
        self.rendered_s = self.granted_s = self.first_token_s = self.last_token_s = None
        self.seqs = self.calls_started = 0
        self.refusal = None
        self.detail = ""
        for header in _OF_ONE_TRY:
            self.told.pop(header, None)


CURRENT: ContextVar[RequestRecord | None] = ContextVar("infer_daemon_request", default=None)
"""The request that this task works for. Set once by the request path and read when a handler calls
the gate; handlers may run the rest in other tasks, so nothing reads it later than that."""
