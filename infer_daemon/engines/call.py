"""One call of an engine as its handler sees it: outputs to be iterated, from whichever engine.

It goes on in another engine when the one that it is in dies, fails it or is given to more urgent
work; the rules are `resuming`'s, the way into an engine is the gate's.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from infer_daemon.domain.errors import DaemonError, EngineDied, EngineFault
from infer_daemon.domain.jobs import EngineName, JobId, Tier
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.contract import Engine, Work
from infer_daemon.engines.mailbox import Lost, Mailbox
from infer_daemon.engines.resuming import resumption
from infer_daemon.engines.timeouts import Stage

if TYPE_CHECKING:
    from infer_daemon.engines.gate import Gate


class EngineCall:
    """One engine call. An object and not a generator, since it must be possible to close it while
    another task waits for its next output, and before it was ever started."""

    def __init__(self, gate: "Gate", work: Work, record: RequestRecord) -> None:
        self._gate = gate
        self._work = work
        self.record = record
        """Of the request that it belongs to."""
        self._mailbox: Mailbox | None = None
        self.engine: Engine | None = None
        """The one that has it, or had when it died."""
        self._failed_on: frozenset[EngineName] = frozenset()
        self._stopping: asyncio.Task[None] | None = None
        """An engine that lives is told to stop its work on it."""
        self._is_closed = False
        #: Set once the engine was told that this is closed, if it had to be.
        self._is_out: asyncio.Event | None = None
        self._ended_with: DaemonError | None = None
        record.open_calls.add(self)

    @property
    def id(self) -> JobId:
        """Under which the scheduler and the engine know it."""
        return self._work.id

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        """The next output.

        Raises:
            work.as_refusal(error): refused, or the engine failed. The `DaemonError` itself is kept
                in the record's `refusal`, since a vendor's handler may swallow it.
        """
        if self._is_closed:
            raise StopAsyncIteration
        try:
            if self._mailbox is None:
                if self._ended_with is not None:
                    raise self._ended_with
                self._mailbox = self._gate.enter(self._work, self.record)
                self.engine = await self._gate.begin(self._work, self.record, self._mailbox)
            output = await self._next(self._mailbox)
            if self._mailbox.is_closed and self.engine is not None:
                # By another task, perhaps before it could know the engine: whoever still reads
                # works for a request that has ended.
                await self.engine.abort(self._work.id)
                raise asyncio.CancelledError
        except DaemonError as error:
            self.record.refusal = self.record.refusal or error
            await self.aclose()
            raise self._work.as_refusal(error) from error
        except asyncio.CancelledError:
            await self.aclose()
            task = asyncio.current_task()
            if self._ended_with is None or (task is not None and task.cancelling()):
                raise
            # Not its reader was cancelled, but its wait for a turn.
            self.record.refusal = self.record.refusal or self._ended_with
            raise self._work.as_refusal(self._ended_with) from None
        except BaseException:
            await self.aclose()
            raise
        if output is None:
            await self.aclose()
            raise StopAsyncIteration
        return output

    async def _next(self, mailbox: Mailbox) -> Any:
        """What is in the mailbox next, from whichever engine."""
        while True:
            try:
                return await mailbox.next()
            except Lost as lost:
                await self._go_on(mailbox, lost.why)

    async def _go_on(self, mailbox: Mailbox, why: DaemonError) -> None:
        """In another engine, after this one has lost the call, or once it gave way."""
        is_fault = isinstance(why, EngineFault)
        if not mailbox.was_taken_back:
            self._was_lost(why)
        next_leg = resumption(self._work, has_sent=mailbox.keeps)
        if is_fault or mailbox.was_taken_back:
            self._stop_engine()
        await self._stopped()
        self.engine = None
        try:
            self.engine = await self._gate.resume(next_leg, self.record, mailbox, self._failed_on)
        except EngineDied:
            if is_fault:
                raise why from None  # what it was tried again for
            raise

    def _was_lost(self, why: DaemonError) -> None:
        """What is to be known of an engine that has lost the call.

        Raises:
            DaemonError: it has failed it, and it may not be tried again.
        """
        gate, record, engine = self._gate, self.record, self.engine
        assert engine is not None, "it was lost by an engine"
        if isinstance(why, EngineFault):
            record.note(f"failed by {engine.name}")
            has_failed_twice = engine.name in self._failed_on
            self._failed_on |= {engine.name}
            if has_failed_twice or not gate.may_retry(self._failed_on, engine.name, record.tenant):
                raise why
            return
        record.note(f"lost {engine.name}")
        gate.quarantine.died(engine)

    def _stop_engine(self) -> None:
        """Have the engine stop now: its room is somebody else's, whenever the reader comes."""
        engine, self.engine = self.engine, None
        if engine is not None:
            name = f"abort-{self._work.id}"
            self._stopping = asyncio.create_task(engine.abort(self._work.id), name=name)

    async def _stopped(self) -> None:
        """Wait until no engine works on it that was told to stop."""
        if self._stopping is not None:
            await asyncio.shield(self._stopping)
            self._stopping = None

    @property
    def request(self) -> str:
        """Id of the request that it belongs to."""
        return self.record.id

    @property
    def lost(self) -> Engine | None:
        """An engine that died under it, which its reader was not told yet."""
        mailbox = self._mailbox
        return self.engine if mailbox is not None and mailbox.was_orphaned else None

    @property
    def may_fall_back(self) -> bool:
        """Whether it waits, nothing of it was sent, and another model could answer instead."""
        mailbox = self._mailbox
        is_free = mailbox is None or (mailbox.waits and mailbox.is_replaceable)
        return is_free and self.record.can_fall_back()

    @property
    def stage(self) -> Stage | None:
        """See `timeouts.Timed`."""
        if self._ended_with is not None or self._is_closed:
            return None
        if self._mailbox is None:
            return Stage(self.record.accepted_s, None, has_output=False)
        return self._mailbox.stage

    def take_back(self) -> None:
        """Take the call from its engine; it goes on in another when its reader comes for it."""
        mailbox = self._mailbox
        if mailbox is not None and mailbox.slot is not None and not mailbox.is_finished:
            mailbox.take_back()
            self._stop_engine()

    def give_way(self, tier: Tier) -> bool:
        """Its place is wanted for work of that class: it goes on later. Returns whether it did not
        leave by itself in this moment."""
        mailbox = self._mailbox
        if self._is_closed or mailbox is None or mailbox.is_finished or mailbox.is_lost:
            return False
        mailbox.give_way(tier)
        self._stop_engine()
        return True

    def end(self, error: DaemonError) -> None:
        """Fail the call with this error; its reader is told after everything that came before."""
        self._ended_with = error
        if self._mailbox is not None:
            self._mailbox.fail(error)
            self._stop_engine()

    async def aclose(self) -> None:
        """Stop the call, wherever it is: its place in the queue, its work in the engine.
        Idempotent: what another task is closing is waited for, so that a request never settles
        before all that its calls have used is known."""
        if self._is_closed:
            if self._is_out is not None:
                await self._is_out.wait()
            return
        self._is_closed = True
        mailbox, engine = self._mailbox, self.engine
        if mailbox is None or (mailbox.is_finished and self._ended_with is None):
            self._forget()
            return  # else nobody has told the engine yet
        self._is_out = asyncio.Event()
        try:
            if engine is not None:
                await engine.abort(self._work.id)
            await self._stopped()
        finally:
            mailbox.close()
            self._forget()
            self._is_out.set()

    def _forget(self) -> None:
        self.record.open_calls.discard(self)
        self._gate.forget(self, self.record)
