"""The gate of a pool: the one way into its engines.

Whoever wants an engine to work comes through `Gate.run`: it waits for its turn, is given to the
engine that the scheduler names, is metered as its outputs arrive, and gives its room back when the
engine is done with it, whether or not anybody still reads.

A call whose engine dies is given to another: begun again if its client has seen nothing of it, else
continued. It waits for its turn as before, within the patience that it came with. So does one whose
place is given to more urgent work, and that is always continued. One that its engine has failed,
and of which nothing was read, is begun again in an engine that has not, as often as the budget for
that allows.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

from infer_daemon.domain.endpoints import INPUTS_MAX
from infer_daemon.domain.errors import (
    DaemonError,
    EngineDied,
    EngineFault,
    FanoutTooLarge,
    ModelNotReady,
    PoolLost,
)
from infer_daemon.domain.jobs import EngineName, Job, JobId, Tier, WindowLimits
from infer_daemon.domain.record import CURRENT, RequestRecord
from infer_daemon.engines.call import EngineCall
from infer_daemon.engines.contract import Admit, Engine, Judging, Meter, Timing, Turns, Work
from infer_daemon.engines.health import Health
from infer_daemon.engines.jobs import job_again, job_of
from infer_daemon.engines.mailbox import Mailbox
from infer_daemon.engines.pacing import wait_to_begin
from infer_daemon.engines.quarantine import Quarantine
from infer_daemon.engines.resuming import Resumption
from infer_daemon.engines.timeouts import StageLimits, Sweep


class Gate:
    """The choke point of one pool."""

    def __init__(
        self,
        *,
        turns: Turns,
        engines: Mapping[EngineName, Engine],
        meter: Meter,
        timing: Timing,
        admit: Admit,
        health: Health,
        judge: Judging,
        fanout_max: int,
        limits_of: Callable[[EngineName], WindowLimits | None],
        is_shut: Callable[[], bool],
        count: Callable[[], int],
    ) -> None:
        """
        Args:
            engines: the pool's ready engines, a live view that the pool keeps up to date.
            limits_of: the window that a ready engine has; None while its breaker is open.
            is_shut: whether no engine takes any call, as things are.
            count: engines of the pool, ready or not.
        """
        self._turns = turns
        self._engines = engines
        self._meter = meter
        self._timing = timing
        self._admit = admit
        self._health = health
        self._judge = judge
        self.fanout_max = fanout_max
        """Most generations of one request; may be changed."""
        self._calls: set[EngineCall] = set()
        self._sweep = Sweep(self._calls, when_ended=lambda: self.quarantine.review())
        self._ended_with: DaemonError | None = None
        self._is_shut = is_shut
        self.quarantine = Quarantine(
            turns, engines, limits_of=limits_of, count=count, requests_in=self._requests_in
        )
        turns.when_preempted(self._preempted)

    def _requests_in(self, engine: Engine) -> dict[str, RequestRecord]:
        return {call.request: call.record for call in self._calls if call.engine is engine}

    def limit_stages(self, limits: StageLimits) -> None:
        """How long the stages of a call may take, of those too that are under way."""
        self._sweep.change(limits)

    def _preempted(self, job_id: JobId, tier: Tier) -> None:
        """Told by the scheduler; it may have ended in the same moment."""
        for call in self._calls:
            if call.id == job_id:
                if call.give_way(tier):
                    self._meter.on_preempted(tier)
                return

    def windows_changed(self) -> None:
        """The pool has opened or closed windows. A suspect that is left with the last engine is
        taken back from it; who waits for one that may not come soon, and could be answered by
        another model, waits no longer."""
        for lost in {call.lost for call in self._calls}:
            if lost is not None:  # whether it may go on depends on how many it has met
                self.quarantine.died(lost)
        if self._is_shut():
            for call in list(self._calls):
                if call.may_fall_back:
                    call.end(PoolLost(retry_after_s=10))
        if self.quarantine.review(were_opened=True) is None:
            for call in self._calls:
                if self.quarantine.is_suspect(call.request):
                    call.take_back()

    def run(self, work: Work) -> "EngineCall":
        """One engine call, to be iterated for the outputs that its handler asked for.

        The request that it belongs to is taken from the caller's context *now*: handlers iterate
        in tasks of their own. Handlers do not always close what they stop reading, so the record
        keeps the call too and the request path closes whatever is open when the request ends.

        Raises:
            work.as_refusal(error): the request asks for too much.
        """
        record = CURRENT.get()
        assert record is not None, "an engine call outside of a request"
        if self._ended_with is not None:
            record.refusal = self._ended_with
            raise work.as_refusal(self._ended_with)
        record.seqs += work.seqs
        limit = self.fanout_max if work.output_tokens_max else INPUTS_MAX
        if record.seqs > limit:
            # Handlers make all their calls before they read the first: nothing has begun yet.
            what = "generations" if work.output_tokens_max else "inputs"
            record.refusal = FanoutTooLarge(
                f"the request asks for {record.seqs} {what} or more, it may have at most {limit}",
                param="n" if work.seqs > 1 else None,
            )
            raise work.as_refusal(record.refusal)
        try:
            call = EngineCall(self, self._admitted(work, record), record)
        except DaemonError as error:
            record.refusal = record.refusal or error
            raise work.as_refusal(error) from error
        self._calls.add(call)
        self._sweep.watch(call)
        return call

    def _admitted(self, work: Work, record: RequestRecord) -> Work:
        """The exact part of admission: now that the prompt has been rendered, its length is known.
        Returns the work with as much output as it may have."""
        output_tokens = self._admit.admit_tokens(
            record,
            prompt_tokens=work.prompt_tokens,
            output_tokens_max=work.output_tokens_max,
            seqs=work.seqs,
        )
        if work.cap is None or output_tokens >= work.output_tokens_max:
            return work
        return replace(work, payload=work.cap(output_tokens), output_tokens_max=output_tokens)

    def end_all(self, error: DaemonError) -> None:
        """Fail every call, waiting, running or still to come, with this error."""
        self._ended_with = error
        for call in list(self._calls):
            call.end(error)
        self.quarantine.review()

    def forget(self, call: "EngineCall", record: RequestRecord) -> None:
        """The call has been closed."""
        self._calls.discard(call)
        if not record.open_calls:
            self.quarantine.forget(record.id)

    async def begin(self, work: Work, record: RequestRecord, mailbox: Mailbox) -> Engine:
        """Wait for a turn and hand the work to the engine that was granted.

        Raises:
            DaemonError: refused, or the engine would not take it.
        """
        await wait_to_begin(record.calls_started)
        await self._check(work, mailbox)
        return await self._enter(job_of(work, record), work, record, mailbox)

    async def _check(self, work: Work, mailbox: Mailbox) -> None:
        """What is slow to check is checked before anything is taken from those who wait, if there
        is an engine to ask; else once there is."""
        if (engine := next(iter(self._engines.values()), None)) is not None:
            await engine.check(work)
            mailbox.is_checked = True

    def may_retry(self, failed_on: frozenset[EngineName], last: EngineName, tenant: str) -> bool:
        """Whether a call that these engines have failed may be begun again: another takes calls,
        and the budget has room."""
        others = self._engines.keys() - failed_on
        return any(map(self._health.takes_calls, others)) and self._health.may_retry(tenant, last)

    async def resume(
        self,
        next_leg: Resumption,
        record: RequestRecord,
        mailbox: Mailbox,
        avoids: frozenset[EngineName],
    ) -> Engine:
        """Wait for a turn in another engine, or in this one when it has room or has been started
        again.

        Args: avoids: engines that have failed the call.

        Raises:
            DaemonError: there will be no other, or it would not take it.
        """
        if self._is_shut() and mailbox.is_replaceable and record.can_fall_back():
            raise EngineDied(retry_after_s=10)
        work, was_preempted = next_leg.work, mailbox.was_preempted
        mailbox.go_on(work)
        job = job_again(work, record, preemptions=mailbox.preemptions, avoids=avoids)
        try:
            engine = await self._enter(job, work, record, mailbox)
        except (ModelNotReady, PoolLost) as error:
            raise EngineDied(retry_after_s=error.retry_after_s) from error
        if was_preempted:
            record.waste_preemption_tokens += next_leg.waste_tokens
        else:
            record.waste_continuation_tokens += next_leg.waste_tokens
        record.tell_continued(next_leg.inexact)
        return engine

    async def _enter(self, job: Job, work: Work, record: RequestRecord, mailbox: Mailbox) -> Engine:
        if mailbox.is_finished:  # closed meanwhile: nothing may be taken for it
            raise asyncio.CancelledError
        while not self.quarantine.must_be_alone(record.id):
            mailbox.waits = True
            name = await self._turns.turn(job)
            mailbox.waits = False
            if mailbox.is_finished:  # closed since it was granted, and its room is given back
                raise asyncio.CancelledError
            if self.quarantine.must_be_alone(record.id):  # other calls of it were lost meanwhile
                self._turns.cancel(job.id)
            elif work.is_slow_to_check and not mailbox.is_checked:  # no engine was there before
                self._turns.cancel(job.id)
                await self._check(work, mailbox)
            elif (engine := await self._enter_one(name, job, work, record, mailbox)) is not None:
                return engine
        mailbox.waits = True
        return await self._enter_alone(job, work, record, mailbox)

    async def _enter_one(
        self, name: EngineName, job: Job, work: Work, record: RequestRecord, mailbox: Mailbox
    ) -> Engine | None:
        """None if it has to wait again."""
        record.note(f"granted {name}")
        try:
            return await self._give(name, job, work, record, mailbox)
        except _Closed:
            self._turns.cancel(job.id)
            record.note(f"{name} takes no calls, waits again")
        except EngineDied:
            # What failed in it made the room that we were given: close it before its supervisor
            # gets to, and wait for another engine. Nothing of this call has begun.
            self._turns.resize(name, None)
            if mailbox.is_finished:
                raise
            self._turns.cancel(job.id)
            mailbox.leave()
            record.note(f"{name} was dead, waits again")
        return None

    async def _enter_alone(
        self, job: Job, work: Work, record: RequestRecord, mailbox: Mailbox
    ) -> Engine:
        """Past the scheduler: the engine is closed to everybody else."""
        while True:
            record.note("waits for an engine of its own")
            name = await self.quarantine.turn(
                record.id, job.deadline_s, is_over=lambda: mailbox.is_finished
            )
            record.note(f"given {name} alone")
            engine = self._engines[name]
            try:
                return await self._give(name, job, work, record, mailbox)
            except EngineDied:
                mailbox.leave()
                self.quarantine.died(engine)

    async def _give(
        self, name: EngineName, job: Job, work: Work, record: RequestRecord, mailbox: Mailbox
    ) -> Engine:
        """To an engine that may refuse it."""
        record.granted_s = record.granted_s or record.clock()
        record.engine = name
        self._admit.granted(record)
        # Once, however many engines come to read it: what they read again is waste.
        prompt_tokens = 0 if job.is_resumed else work.prompt_tokens
        record.prompt_tokens += prompt_tokens
        try:
            return await self._submit(name, work, record, mailbox)
        except (_Closed, EngineDied):
            record.prompt_tokens -= prompt_tokens
            raise

    async def _submit(
        self, name: EngineName, work: Work, record: RequestRecord, mailbox: Mailbox
    ) -> Engine:
        engine = self._engines.get(name)
        if engine is None:
            raise EngineDied(retry_after_s=10)
        is_first, is_alone = not mailbox.was_resumed, self.quarantine.is_suspect(record.id)
        visit = self._health.enter(name, record.tenant, is_first_try=is_first, is_alone=is_alone)
        if visit is None:
            raise _Closed
        slot = mailbox.enter(name, visit)
        try:
            await engine.submit(work, slot)
        except EngineDied:
            await engine.abort(work.id)
            if not mailbox.is_lost:  # else its reader is told, and has it go on
                raise
        except EngineFault as fault:
            await engine.abort(work.id)
            if not mailbox.is_lost:  # it gave way, and fails nowhere
                mailbox.fail(fault)  # its reader has it begin again, if that may be
        except BaseException:
            await engine.abort(work.id)
            raise
        return engine

    def enter(self, work: Work, record: RequestRecord) -> Mailbox:
        """Count a call in. Its mailbox gives the room back, when it is finished or closed."""
        record.rendered_s = record.rendered_s or record.clock()
        record.calls_started += 1
        record.calls_open += 1
        record.rendered_tokens += work.prompt_tokens
        return Mailbox(work, record, self._meter, self._turns, self._timing, self._judge)


class _Closed(Exception):
    """The breaker has opened, or the probe was given away, since the turn came."""
