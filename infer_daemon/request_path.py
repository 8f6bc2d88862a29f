"""The way of a request, in nine verbs. Read this first.

    authenticate -> admit -> route -> render -> wait -> grant -> generate -> stream -> settle

The first three happen here, in `_answer` and `_try`. A front end (`engines/*/frontend.py`) renders
and calls the gate (`engines/gate.py`), which waits for the scheduler's grant and lets the engine
generate; outputs are counted there as they arrive. Then the answer, or the stream (`streams.py`),
comes back through here to be settled, exactly once, however it ended.

A model that does not answer may have others stand in for it (`standing_in.py`): they are tried
before anything of an answer was sent, by the same way.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import structlog

from infer_daemon.admission.admission import Admission, Applicant
from infer_daemon.asking import Ask, Asked
from infer_daemon.domain.errors import (
    CutShort,
    DaemonError,
    EngineFault,
    NotSupported,
    ShuttingDown,
)
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import CURRENT, RequestRecord
from infer_daemon.engines.contract import Call, EventStream, Frontend, Reply
from infer_daemon.engines.pool import Pool
from infer_daemon.falling_back import StandIns
from infer_daemon.fitting import fit
from infer_daemon.ledger.allowances import Allowances
from infer_daemon.ledger.book import Book
from infer_daemon.ledger.entries import metadata_text
from infer_daemon.ledger.recorder import Recorder
from infer_daemon.routing.catalog import Catalog
from infer_daemon.scheduling.scheduler import Scheduler
from infer_daemon.standing_in import StandingIn
from infer_daemon.streams import SettledStream, WaitingStream
from infer_daemon.tenancy.registry import Registry

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back, and the id under which it is known."""

    request_id: str
    content: "Reply | SettledStream"
    headers: Mapping[str, str] = field(default_factory=dict)


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
        self._standing_in = StandingIn(
            stand_ins,
            pools,
            ask_one=self._try,
            give_back=self._give_back,
            write_down=self._write_down,
        )
        self._book = book
        self.is_draining = False
        """While true, new requests are refused and running ones go on."""
        self.is_ending = False
        """While true, a request that is cancelled was sent away: its client has not left it."""

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
                stream = SettledStream(
                    content,
                    record,
                    self._settle,
                    comment=lambda: self._comment(record),
                    comment_after_s=self.comment_after_s,
                )
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
        asked = Asked(ask=ask, body=body, tenant=tenant, record=record, deployment=deployment)
        # 4. to 8. render, wait, grant, generate, stream.
        if record.stream:
            return await self._stream(asked)
        return await self._standing_in.answer(asked)

    async def _try(self, asked: Asked) -> Reply | EventStream:
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

    def _write_down(self, asked: Asked, deployment: str, recipe_hash: str) -> None:
        """Who answers; and the request itself, if that was not done yet."""
        record = asked.record
        if self._book is None:
            return
        record.deployment, record.recipe_hash = deployment, recipe_hash
        if not record.accepted_at_us:
            record.client, record.metadata = asked.ask.client, metadata_text(asked.body.fields)
            self._book.open(record)

    def _applicant(self, asked: Asked, pool: Pool) -> Applicant:
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

    async def _stream(self, asked: Asked) -> Reply | EventStream | WaitingStream:
        """The answer, if it begins soon; else a stream that says what it waits for."""
        record = asked.record
        answering = asyncio.create_task(self._standing_in.answer(asked), name=f"answer-{record.id}")
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
            comment=lambda: self._comment(record),
            interval_s=self.comment_after_s,
        )

    def _comment(self, record: RequestRecord) -> str:
        """What a client that waits is told."""
        for (pool, scheduler), call in product(self._schedulers.items(), record.open_calls):
            if (prospect := scheduler.prospect(call.id)) is not None:
                back_s = self._pools[pool].back_s or 0.0
                wait_s = prospect.wait_s + max(0.0, back_s - record.clock())
                return f"queued position={prospect.position} eta_ms={round(wait_s * 1e3)}"
        return "working"

    def _give_back(self, record: RequestRecord) -> None:
        """What the request has reserved: another model is asked, with limits of its own."""
        self._admission.withdraw(record)
        self._allowances.settle(record)

    async def _settle(
        self, record: RequestRecord, outcome: Outcome, error: DaemonError | None
    ) -> None:
        """9. The end of every request, however it ended. Returns when that is safe on disk; all
        that must happen has happened before it first waits."""
        if outcome is Outcome.CANCELLED and self.is_ending:
            error = CutShort()
            outcome = error.outcome
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
