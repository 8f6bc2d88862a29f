"""The way of a request, in nine verbs. Read this first.

    authenticate -> admit -> route -> render -> wait -> grant -> generate -> stream -> settle

The first three happen here, in `_answer`. A front end (`engines/*/frontend.py`) renders and calls
the gate (`engines/gate.py`), which waits for the scheduler's grant and lets the engine generate;
outputs are counted there as they arrive. Then the answer, or the stream, comes back through here
to be settled, exactly once, however it ended: this is the only place where endings are told apart.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import (
    DaemonError,
    EngineFault,
    ModelNotFound,
    NotSupported,
    ShuttingDown,
)
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import CURRENT, RequestRecord
from infer_daemon.engines.contract import Call, EventStream, Reply
from infer_daemon.engines.pool import Pool
from infer_daemon.ledger.recorder import Recorder
from infer_daemon.routing.catalog import Catalog
from infer_daemon.tenancy.registry import Registry

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Body:
    """What a client sent, decoded."""

    fields: dict[str, Any]
    upload: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A request as it comes through the door: its head, and a way to read the rest."""

    endpoint: Endpoint
    key: str | None
    read: Callable[[], Awaitable[Body]]
    """Reads and decodes the body; called once the sender is known. Raises DaemonError."""
    uid: int | None = None
    """User at the other end of a Unix socket."""


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
        pools: Mapping[str, Pool],
        recorder: Recorder,
    ) -> None:
        self._tenants = tenants
        self._catalog = catalog
        self._pools = pools
        self._recorder = recorder
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
            if isinstance(content, EventStream):
                record.stream = True  # a form says it in words
                return Answer(record.id, SettledStream(content, record, self._recorder))
            await record.close_calls()
        except asyncio.CancelledError:
            # The client went away, or the daemon is ending.
            self._recorder.settle(record, Outcome.CANCELLED, None)
            raise
        except ModelNotFound as error:
            record.detail = error.message
            raise self._failed(record, error) from None
        except DaemonError as error:
            if isinstance(error, EngineFault):
                self._note(record, error.__cause__ or error)
            raise self._failed(record, error) from error.__cause__
        except Exception as error:
            self._note(record, error)
            raise self._failed(record, DaemonError()) from error
        self._recorder.settle(record, Outcome.OK, None)
        return Answer(record.id, content)

    def _note(self, record: RequestRecord, error: BaseException) -> None:
        """What nobody expected is for the log, and not for a client to read."""
        log.error("request_failed", id=record.id, exc_info=error)
        record.detail = f"{type(error).__name__}: {error}"[:500]

    async def _answer(self, ask: Ask, record: RequestRecord) -> Reply | EventStream:
        # 1. authenticate: who asks?
        tenant = self._tenants.authenticate(ask.key, ask.uid)
        record.tenant = tenant.name
        record.authenticated_s = record.clock()
        # 2. admit: may it come in at all? What is exact (tokens, room) is decided at the gate.
        if self.is_draining:
            raise ShuttingDown(retry_after_s=10)
        body = await ask.read()
        record.read_s = record.clock()
        # 3. route: which model, which pool?
        deployment = self._catalog.route(body.fields.get("model"))
        record.model = deployment.model
        record.stream = body.fields.get("stream") is True
        pool = self._pools[deployment.pool]
        frontend = pool.frontend(deployment.model if deployment.lora else None)
        if ask.endpoint not in frontend.endpoints:
            raise NotSupported(
                f"model {deployment.model!r} does not answer {ask.endpoint.value} requests",
                param="model",
            )
        record.routed_s = record.clock()
        # 4. to 8. render, wait, grant, generate, stream.
        call = Call(
            endpoint=ask.endpoint,
            body=body.fields,
            request_id=record.id,
            upload=body.upload,
        )
        try:
            return await frontend.answer(call)
        except BaseException:
            await record.close_calls()
            raise

    def _failed(self, record: RequestRecord, error: DaemonError) -> DaemonError:
        # 9. settle what never became an answer.
        error.request_id = record.id
        self._recorder.settle(record, error.outcome, error)
        return error


class SettledStream:
    """A stream that settles its request *before* it hands out its last chunk: a client that has
    seen the end of its response finds it written down."""

    def __init__(self, stream: EventStream, record: RequestRecord, recorder: Recorder) -> None:
        self._stream = stream
        self._record = record
        self._recorder = recorder

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._record.outcome is not None:
            raise StopAsyncIteration
        try:
            if not self._record.is_generated:
                return await anext(self._stream)
            # The engine is done, so the rest comes without waiting: hold it back until settled.
            tail = b"".join([chunk async for chunk in self._stream])
        except StopAsyncIteration:
            self._end()
            raise
        except asyncio.CancelledError:
            await self.aclose()
            raise
        except Exception as error:
            self._record.detail = f"{type(error).__name__}: {error}"[:500]
            self._record.refusal = self._record.refusal or DaemonError()
            await self.aclose()
            raise
        self._end()
        return tail

    def _end(self) -> None:
        refusal = self._record.refusal
        outcome = refusal.outcome if refusal is not None else Outcome.OK
        self._recorder.settle(self._record, outcome, refusal)

    async def aclose(self) -> None:
        """Stop whatever still works for this stream and settle it. Idempotent."""
        try:
            await self._stream.aclose()
        finally:
            await self._record.close_calls()
            if self._record.outcome is None:
                if self._record.refusal is None:
                    self._recorder.settle(self._record, Outcome.CANCELLED, None)
                else:
                    self._end()
