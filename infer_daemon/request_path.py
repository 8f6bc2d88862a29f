"""The way of a request, in nine verbs. Read this first.

    authenticate -> admit -> route -> render -> wait -> grant -> generate -> stream -> settle

The first three happen here, in `_answer` and `_try`. A front end (`engines/*/frontend.py`) renders
and calls the gate (`engines/gate.py`), which waits for the scheduler's grant and lets the engine
generate; outputs are counted there as they arrive. Then the answer, or the stream (`streams.py`),
comes back through here to be settled, exactly once, however it ended.

A model that does not answer may have others stand in for it (`falling_back.py`): they are tried
before anything of an answer was sent, in `_instead`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from infer_daemon import last_resort
from infer_daemon.admission.admission import Admission, Applicant
from infer_daemon.admission.appointments import Visitor
from infer_daemon.admission.asks import longest_text
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import (
    DaemonError,
    EngineFault,
    ModelNotReady,
    NotSupported,
    ShuttingDown,
)
from infer_daemon.domain.failures import failure_class
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import CURRENT, RequestRecord, never
from infer_daemon.domain.tenant import Tenant
from infer_daemon.engines.contract import Call, EventStream, Frontend, Reply
from infer_daemon.engines.pool import Pool
from infer_daemon.falling_back import Choice, StandIns
from infer_daemon.fitting import fit
from infer_daemon.ledger.allowances import Allowances
from infer_daemon.ledger.book import Book
from infer_daemon.ledger.entries import metadata_text
from infer_daemon.ledger.recorder import Recorder
from infer_daemon.routing.catalog import Catalog, Deployment
from infer_daemon.scheduling.scheduler import Scheduler
from infer_daemon.streams import SettledStream, WaitingStream
from infer_daemon.tenancy.registry import Registry

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Body:
    """What a client sent, decoded and looked through: whoever makes one of a large body does so
    beside the event loop."""

    fields: dict[str, Any]
    upload: bytes | None = None
    text_len: int = field(init=False)
    """Characters of its prompt, or of its longest."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text_len", longest_text(self.fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request as it comes through the door: its head, and a way to read the rest."""

    endpoint: Endpoint
    key: str | None
    read: Callable[[], Awaitable[Body]]
    """Reads and decodes the body; called once the sender is known. Raises DaemonError."""
    priority: str | None = None
    """Header `x-priority`."""
    deadline_ms: str | None = None
    """Header `x-deadline-ms`."""
    connection: int = 0
    """The same number for all requests of one connection."""
    is_large: bool = False
    """Whether the body takes long to read."""
    is_retry: bool | None = None
    """Whether the client says that it was refused before; None if it does not say."""
    client: str = ""
    """Where it comes from: an address, or a user of this machine."""
    uid: int | None = None
    """User at the other end of a Unix socket."""

    def visitor(self, tenant: Tenant) -> Visitor:
        """Who comes, as those see it who tell when to come again."""
        return Visitor(tenant.name, self.connection, self.is_retry)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back, and the id under which it is known."""

    request_id: str
    content: "Reply | SettledStream"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _Asked:
    """A request that has been read: who asks whom for what."""

    ask: Ask
    body: Body
    tenant: Tenant
    record: RequestRecord
    deployment: Deployment
    """Of the model that is tried now; at first the one that was asked for."""
    since_s: float | None = None
    """Since when it is, if it is another."""


class RequestPath:
    """Takes every request from the door to its end."""

    def __init__(
        self,
        *,
        tenants: Registry,
        catalog: Catalog,
        admission: Admission,
        pools: Mapping[str, Pool],
        schedulers: Mapping[str, Scheduler],
        recorder: Recorder,
        comment_after_s: float,
        allowances: Allowances,
        stand_ins: StandIns,
        book: Book | None = None,
    ) -> None:
        """Args: book: where admitted requests are written down; None for tests of the rest."""
        self._admission = admission
        self._schedulers = schedulers
        self.comment_after_s = comment_after_s
        """How long a stream waits in silence; may be changed."""
        self._tenants = tenants
        self._catalog = catalog
        self._pools = pools
        self._recorder = recorder
        self._allowances = allowances
        self._stand_ins = stand_ins
        self._book = book
        self.is_draining = False
        """While true, new requests are refused and running ones go on."""

    @property
    def in_flight(self) -> int:
        """Requests that have not settled."""
        return self._recorder.open_count

    async def run(self, ask: Ask) -> Answer:
        """Answer one request.

        A streamed answer settles when its stream ends; whoever gets it *must* `aclose` it.

        Raises:
            DaemonError: with the request's id in it; already settled.
        """
        record = self._recorder.open(ask.endpoint)
        # Never reset: handlers go on in this context, and the next request sets its own.
        CURRENT.set(record)
        try:
            content = await self._answer(ask, record)
            if not isinstance(content, Reply):
                record.stream = True  # a form says it in words
                stream = SettledStream(content, record, self._settle)
                return Answer(record.id, stream, self._headers(record))
            await record.close_calls()
        except asyncio.CancelledError:
            # The client went away, or the daemon is ending; perhaps in the moment in which an
            # answer had begun that nobody will read.
            try:
                await record.close_calls()
            finally:
                await self._settle(record, Outcome.CANCELLED, None)
            raise
        except DaemonError as error:
            if isinstance(error, EngineFault):
                self._note(record, error.__cause__ or error)
            raise await self._failed(record, error) from error.__cause__
        except Exception as error:
            self._note(record, error)
            raise await self._failed(record, DaemonError()) from error
        await self._settle(record, Outcome.OK, None)
        return Answer(record.id, content, self._headers(record))

    def _note(self, record: RequestRecord, error: BaseException) -> None:
        """What nobody expected is for the log, and not for a client to read."""
        log.error("request_failed", id=record.id, exc_info=error)
        record.detail = f"{type(error).__name__}: {error}"[:500]

    def _headers(self, record: RequestRecord) -> dict[str, str]:
        """What the client is told beside its answer."""
        return {**record.told, **self._admission.headers(record)}

    async def _answer(self, ask: Ask, record: RequestRecord) -> Reply | EventStream | WaitingStream:
        # 1. authenticate: who asks?
        tenant = self._tenants.authenticate(ask.key, ask.uid)
        record.tenant = tenant.name
        record.ttft_objective_s = tenant.ttft_objective_s
        record.authenticated_s = record.clock()
        # 2. admit: may it come in at all?
        if self.is_draining:
            raise ShuttingDown(retry_after_s=10)
        if ask.is_large:
            self._admission.refuse_unread(ask.visitor(tenant))
        body = await ask.read()
        record.read_s = record.clock()
        record.text_len = body.text_len
        # 3. route: which model, which pool?
        deployment = self._catalog.route(body.fields.get("model"), tenant.may_use)
        record.model = deployment.model
        record.stream = body.fields.get("stream") is True
        asked = _Asked(ask=ask, body=body, tenant=tenant, record=record, deployment=deployment)
        # 4. to 8. render, wait, grant, generate, stream.
        if record.stream:
            return await self._stream(asked)
        return await self._by_anybody(asked)

    async def _by_anybody(self, asked: _Asked) -> Reply | EventStream:
        """The answer of the model that was asked for, or of whoever stands in for it."""
        record, deployment = asked.record, asked.deployment
        choice = self._stand_ins.choice(record, asked.body.fields, deployment, asked.tenant.may_use)
        record.can_fall_back = lambda: choice.is_any
        try:
            pool = self._pools[deployment.pool]
            if (pool.is_broken or pool.is_away) and choice.is_any:
                raise ModelNotReady(pool.why_not_ready(None), retry_after_s=10)
            return await self._try(asked)
        except DaemonError as error:
            failure = failure_class(error)
            if failure is None or not choice.begin(failure):
                raise
            return await self._instead(asked, choice, error)
        finally:
            record.can_fall_back = never

    async def _instead(
        self, asked: _Asked, choice: Choice, error: DaemonError
    ) -> Reply | EventStream:
        """The answer of the first stand-in that gives one, or the text of the last resort.

        Raises:
            DaemonError: `error`, if there is none; nothing of the request is reserved then.
        """
        record, model = asked.record, asked.deployment
        for deployment, headers in choice.models():
            self._start_over(asked, deployment)
            record.told |= headers
            record.answered_by = deployment.model
            record.fallback_from, record.fallback_why = model.name, choice.failure
            record.note(f"falls back to {deployment.model}: {choice.failure}")
            try:
                return await self._try(asked)
            except DaemonError as failed:
                record.note(f"{deployment.model} does not answer either: {failed.code}")
        if asked.since_s is None and not choice.text:
            raise error
        self._start_over(asked, model)
        record.answered_by = record.fallback_from = record.fallback_why = ""
        if choice.text:
            return self._say(asked, choice)
        record.deployment, record.recipe_hash = model.name, model.recipe_hash
        record.refusal = error
        raise error

    def _say(self, asked: _Asked, choice: Choice) -> Reply | EventStream:
        """The text of the last resort."""
        record, model = asked.record, asked.deployment
        record.is_static = True
        record.told |= last_resort.HEADERS
        record.fallback_from, record.fallback_why = model.name, choice.failure
        record.note(f"falls back to a text: {choice.failure}")
        self._write_down(asked, last_resort.MODEL, "")
        return last_resort.answer(record.endpoint, asked.body.fields, record.id, choice.text)

    def _start_over(self, asked: _Asked, deployment: Deployment) -> None:
        """With another model: nothing of the last try is kept, and nothing reserved."""
        asked.record.start_over()
        self._admission.withdraw(asked.record)
        self._allowances.settle(asked.record)
        asked.deployment, asked.since_s = deployment, asked.record.clock()

    async def _try(self, asked: _Asked) -> Reply | EventStream:
        """The answer of one model."""
        ask, record, deployment = asked.ask, asked.record, asked.deployment
        pool = self._pools[deployment.pool]
        frontend = pool.frontend(deployment.model if deployment.lora else None)
        if ask.endpoint not in frontend.endpoints:
            raise NotSupported(
                f"model {deployment.model!r} does not answer {ask.endpoint.value} requests",
                param="model",
            )
        record.routed_s = record.routed_s or record.clock()
        # The rest of 2., since models and pools have limits too; what needs the exact count of its
        # tokens is decided at the gate.
        self._admission.admit(record, self._applicant(asked, pool))
        pool.refuse_late(record.deadline_s, record.clock())
        record.admitted_s = record.admitted_s or record.clock()
        self._write_down(asked, deployment.name, deployment.recipe_hash)
        fields = asked.body.fields
        if record.answered_by:
            fields = {**fields, "model": record.answered_by}
        call = Call(
            endpoint=ask.endpoint,
            body=fields,
            request_id=record.id,
            upload=asked.body.upload,
        )
        return await self._render(frontend, call, record)

    def _write_down(self, asked: _Asked, deployment: str, recipe_hash: str) -> None:
        """Who answers; and the request itself, if that was not done yet."""
        record = asked.record
        if self._book is None:
            return
        record.deployment, record.recipe_hash = deployment, recipe_hash
        if not record.accepted_at_us:
            record.client, record.metadata = asked.ask.client, metadata_text(asked.body.fields)
            self._book.open(record)

    def _applicant(self, asked: _Asked, pool: Pool) -> Applicant:
        ask, tenant, deployment = asked.ask, asked.tenant, asked.deployment
        return Applicant(
            tenant=tenant,
            model=deployment.model,
            pool=deployment.pool,
            body=asked.body.fields,
            visitor=ask.visitor(tenant),
            priority=ask.priority,
            deadline_ms=ask.deadline_ms,
            context_tokens=pool.context_tokens,
            since_s=asked.since_s,
        )

    async def _render(
        self, frontend: Frontend, call: Call, record: RequestRecord
    ) -> Reply | EventStream:
        """Everything that a front end does, with the prompt made to fit where that is wanted."""
        try:
            fitting = await fit(call, self._admission.sizes(record), frontend, record)
            return await frontend.answer(fitting)
        except BaseException:
            await record.close_calls()
            raise

    async def _stream(self, asked: _Asked) -> Reply | EventStream | WaitingStream:
        """The answer, if it begins soon; else a stream that says what it waits for."""
        record = asked.record
        answering = asyncio.create_task(self._by_anybody(asked), name=f"answer-{record.id}")
        try:
            await asyncio.wait({answering}, timeout=self.comment_after_s)
        except asyncio.CancelledError:
            answering.cancel()
            await asyncio.wait({answering})
            raise
        if answering.done():
            return answering.result()
        return WaitingStream(
            answering,
            record,
            comment=lambda: _comment(self._schedulers[asked.deployment.pool], record),
            interval_s=self.comment_after_s,
        )

    async def _settle(
        self, record: RequestRecord, outcome: Outcome, error: DaemonError | None
    ) -> None:
        """9. The end of every request, however it ended. Returns when that is safe on disk; all
        that must happen has happened before it first waits."""
        self._admission.settle(record, outcome)
        bill = self._allowances.settle(record, error)
        self._recorder.settle(record, outcome, error)
        if self._book is not None and (safe := self._book.settle(record, bill)) is not None:
            await safe

    async def _failed(self, record: RequestRecord, error: DaemonError) -> DaemonError:
        """What never became an answer."""
        error.request_id = record.id
        error.headers = self._headers(record)
        await self._settle(record, error.outcome, error)
        return error


def _comment(scheduler: Scheduler, record: RequestRecord) -> str:
    """What a client that waits is told."""
    for call in record.open_calls:
        if (prospect := scheduler.prospect(call.id)) is not None:
            return f"queued position={prospect.position} eta_ms={round(prospect.wait_s * 1e3)}"
    return "working"
