"""Between an engine and the handler that reads it: one slot, metered on arrival.

Metering happens here and not where outputs are read: a handler of a unary request asks for the
final output alone, and a reader that stops after one token still has a request in the engine. The
slot never becomes a queue: outputs that a slow reader has not fetched are merged.

A call whose engine dies is *lost*, and not over: its reader is told, and may have it go on.
"""

import asyncio
from typing import Any

from infer_daemon.domain.errors import DaemonError, EngineDied, EngineFault
from infer_daemon.domain.jobs import EngineName, Tier
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.breaker import Ending
from infer_daemon.engines.contract import Judging, Meter, Timing, Turns, Work
from infer_daemon.engines.health import Visit, ending_of
from infer_daemon.engines.timeouts import Stage

_FOR = {Tier.CRITICAL: "a critical", Tier.INTERACTIVE: "an interactive", Tier.BATCH: "a batch"}


class Lost(Exception):
    """The engine died before it was done, or failed before anything was read; nothing that it made
    is left to be read."""

    def __init__(self, why: DaemonError) -> None:
        super().__init__(why.message)
        self.why = why


class Slot:
    """The way into a mailbox for one engine, until that has lost the call: what may still come of
    it then must not be taken for the work of another."""

    __slots__ = ("_mailbox",)

    def __init__(self, mailbox: "Mailbox") -> None:
        self._mailbox = mailbox

    def deliver(self, output: Any, *, new_tokens: int, cached_tokens: int, finished: bool) -> None:
        """See `contract.Sink`."""
        if self._mailbox.slot is self:
            self._mailbox.deliver(
                output, new_tokens=new_tokens, cached_tokens=cached_tokens, finished=finished
            )

    def fail(self, error: Exception) -> None:
        """See `contract.Sink`."""
        if self._mailbox.slot is self:
            self._mailbox.fail(error)


class Mailbox:
    """What one engine call has produced, and its reader's end."""

    def __init__(
        self,
        work: Work,
        record: RequestRecord,
        meter: Meter,
        turns: Turns,
        timing: Timing,
        judge: Judging,
    ) -> None:
        """
        Args:
            turns: is told of every token, and when the call needs its room no more.
            timing: is told when the call is in an engine.
            judge: is told when it has ended by itself.
        """
        self._work = work
        self._record = record
        self._meter = meter
        self._turns = turns
        self._timing = timing
        self._judge = judge
        self._unread: Any = None
        self._error: Exception | None = None
        self._lost: DaemonError | None = None
        self._visit: Visit | None = None
        self.slot: Slot | None = None
        """Of the engine that has the call."""
        self.has_sent = False
        """Whether its reader has been given something that a client may have seen."""
        self.was_taken_back = False
        """Whether the call was lost to an engine that lives, and still has it."""
        self.was_preempted = False
        """Whether that was for more urgent work; until another engine has it."""
        self.preemptions = 0
        """How often it gave its place up."""
        self.waits = True
        """Whether it is in no engine, nor being given to one."""
        self.is_checked = False
        """Whether an engine of the pool has found nothing against the call."""
        self.was_resumed = False
        """Whether an engine has lost or failed it: to have given way is neither."""
        self._begins_again = False
        self._tokens = 0
        self._is_first_of_record = False
        self._finished = False
        self._has_output = False
        self.is_closed = False
        """Whether it was closed before the engine was done."""
        self._last_tokens_s: float | None = None
        self._quiet_since_s: float | None = None
        """Since when its engine owes it an output; None while no engine has it."""
        self._has_begun = False
        """Whether that engine has given it any."""
        self._cached_tokens = 0
        self._ready = asyncio.Event()

    @property
    def is_finished(self) -> bool:
        """Whether the engine is done with this call."""
        return self._finished

    @property
    def is_lost(self) -> bool:
        """Whether its engine has died under it, and it was not given to another yet."""
        return self._lost is not None

    @property
    def was_orphaned(self) -> bool:
        """Whether its engine has died under it, which nobody has been told."""
        is_dead = isinstance(self._lost, EngineDied) and not self.was_taken_back
        return is_dead and not self._finished

    @property
    def stage(self) -> Stage | None:
        """See `timeouts.Timed`."""
        if self._finished:
            return None
        return Stage(self._record.accepted_s, self._quiet_since_s, self._has_begun)

    @property
    def keeps(self) -> bool:
        """Whether it goes on from what there is, once it was lost; else it begins again."""
        return self.has_sent or (self.was_preempted and self._tokens > 0)

    @property
    def is_replaceable(self) -> bool:
        """Whether another model may answer instead, while it has no engine: nothing of it was sent,
        and it did not leave for a while only."""
        return not self.has_sent and not self.was_preempted

    def enter(self, engine: EngineName, visit: Visit | None = None) -> Slot:
        """The call is given to an engine now, unless it is over already.

        Args: visit: told how the call leaves the engine.
        """
        self.was_preempted = False
        if self._begins_again:
            self._forget()
        if not self._finished:
            work = self._work
            self._quiet_since_s, self._has_begun = self._record.clock(), False
            self._timing.enter(engine, work.id, prompt_tokens=work.prompt_tokens, seqs=work.seqs)
        self.slot, self._visit = Slot(self), visit
        return self.slot

    def leave(self, ending: Ending = Ending.CLIENT) -> None:
        """The engine has it no more, or did not take it."""
        self.slot = self._quiet_since_s = None
        self.waits = True
        if self._visit is not None:
            self._visit.end(ending)
            self._visit = None
        self._timing.leave(self._record, self._work.id)

    def take_back(self) -> None:
        """The call leaves its engine, to be continued by another."""
        if self.slot is not None and not self._finished:
            self.was_taken_back = True
            self.fail(EngineDied(retry_after_s=10))

    def give_way(self, tier: Tier) -> None:
        """Its place is now that of work of this class: it leaves the engine that it is in, with all
        that there is of it."""
        self.preemptions += 1
        self._record.note(f"preempted for {_FOR[tier]} request")
        if self.slot is not None and not self._finished:
            self.was_preempted = True
            self.take_back()

    def go_on(self, work: Work) -> None:
        """Another engine is to go on with it. What is not kept begins from scratch, and what there
        is of it was made in vain."""
        self._work, self._lost = work, None
        self._begins_again = not self.keeps
        self.was_resumed = self.was_resumed or not self.was_preempted
        self.was_taken_back = False
        self._ready.clear()

    def _forget(self) -> None:
        record = self._record
        record.completion_tokens -= self._tokens
        record.cached_tokens -= self._cached_tokens
        if self._is_first_of_record:
            record.first_token_s = None
        if not record.completion_tokens:
            record.last_token_s = None
        self._unread, self._tokens, self._cached_tokens = None, 0, 0
        self._has_output = self._is_first_of_record = self._begins_again = False
        self._last_tokens_s = None

    def deliver(self, output: Any, *, new_tokens: int, cached_tokens: int, finished: bool) -> None:
        """Take one output: meter it, merge it, wake the reader if it wants to know."""
        if self._finished:
            return  # an output that crossed our abort
        record = self._record
        now_s = record.clock()
        self._quiet_since_s = now_s
        if new_tokens:
            last_s = self._last_tokens_s
            self._last_tokens_s = record.last_token_s = now_s
            record.completion_tokens += new_tokens
            self._tokens += new_tokens
            # Outputs of parallel sequences come one after the other: no gap that a client feels.
            gap_s = None if last_s is None or self._work.seqs > 1 else now_s - last_s
            self._meter.on_tokens(record, new_tokens=new_tokens, gap_s=gap_s, now_s=now_s)
            self._turns.token(self._work.id, new_tokens)
        if not self._has_begun:
            self._begin()
        if not self._has_output:
            self._has_output = True
            if record.first_token_s is None:
                record.first_token_s = now_s
                self._is_first_of_record = True
        if cached_tokens > self._cached_tokens:
            record.cached_tokens += cached_tokens - self._cached_tokens
            self._cached_tokens = cached_tokens
        if self._unread is None:
            self._unread = output
        else:
            self._work.merge(self._unread, output)
        if finished:
            self._turns.finish(self._work.id)
            self._end(Ending.OK)
        if finished or self._work.wants == "deltas":
            self._ready.set()
        if finished and self._work.progress is not None:  # last: nobody waits for it
            self._judge.ended(record.served_model, self._work.progress)

    def _begin(self) -> None:
        """The engine that has the call has read its prompt."""
        self._has_begun = True
        self._timing.first_output(self._work.id)
        if self._visit is not None:
            self._visit.first_output()

    def fail(self, error: Exception) -> None:
        """The engine gave up on this call."""
        if self._finished:
            return
        self._turns.cancel(self._work.id)
        ending = Ending.CLIENT if self.was_taken_back else ending_of(error)
        if isinstance(error, EngineDied) or (isinstance(error, EngineFault) and not self.has_sent):
            self._lost = error
            if self._work.progress is not None:
                self._work.progress.detach()
            self.leave(ending)
        else:
            self._error = error
            self._end(ending)
        self._ready.set()

    async def next(self) -> Any:
        """The next thing to read: a delta, or the one final output; None when there is no more.

        Raises:
            Lost: the engine has died; `go_on` or `close`.
            Exception: what the engine failed with, after everything that came before it.
        """
        if not self._ready.is_set():
            await self._ready.wait()
        if self._lost is not None and not self._finished:
            # What nobody has begun to read is not read any more: it will be made anew.
            is_begun = self.keeps and self._work.wants == "deltas"
            if not is_begun or self._unread is None:
                raise Lost(self._lost) from self._lost
        else:
            self._ready.clear()
        output, self._unread = self._unread, None
        if output is not None and (self._error is None or self._work.wants == "deltas"):
            if self._finished:
                self._ready.set()  # come back for the end
            self.has_sent = self._work.wants == "deltas"
            return output
        if self._error is not None:
            raise self._error
        return None

    def _end(self, ending: Ending) -> None:
        self._finished = True
        self._record.calls_open -= 1
        self.leave(ending)

    def close(self) -> None:
        """Nothing more is taken, the room is given back, and whoever waits here is woken.
        Idempotent."""
        if not self._finished:
            self.is_closed = True
            self._turns.cancel(self._work.id)
            self._end(Ending.CLIENT)
            self._ready.set()
