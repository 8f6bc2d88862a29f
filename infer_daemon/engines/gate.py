"""The gate of a pool: the one way into its engines.

Whoever wants an engine to work comes through `Gate.run`: it waits for its turn, is given to the
engine that the scheduler names, is metered as its outputs arrive, and gives its room back when the
engine is done with it, whether or not anybody still reads.
"""

from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any

from infer_daemon.domain.errors import DaemonError, EngineDied, FanoutTooLarge
from infer_daemon.domain.jobs import EngineName, Job
from infer_daemon.domain.record import CURRENT, RequestRecord
from infer_daemon.engines.contract import Engine, Meter, Turns, Work
from infer_daemon.engines.mailbox import Mailbox


class Gate:
    """The choke point of one pool."""

    def __init__(
        self,
        *,
        turns: Turns,
        engines: Mapping[EngineName, Engine],
        meter: Meter,
        wait_timeout_s: float,
        fanout_max: int,
    ) -> None:
        """Args: engines: the pool's ready engines, a live view that the pool keeps up to date."""
        self._turns = turns
        self._engines = engines
        self._meter = meter
        self._wait_timeout_s = wait_timeout_s
        self._fanout_max = fanout_max

    def run(self, work: Work) -> AsyncGenerator[Any, None]:
        """Run one engine call and yield what the handler asked for.

        The request that it belongs to is taken from the caller's context *now*: handlers iterate
        the generator in tasks of their own. Whoever gets the generator *should* close it; a
        cancelled or closed one aborts its work in the engine.

        Raises (while iterating):
            work.as_refusal(error): refused, or the engine failed. The `DaemonError` itself is kept
                in the record's `refusal`, since a vendor's handler may swallow it.
        """
        record = CURRENT.get()
        assert record is not None, "an engine call outside of a request"
        return self._run(work, record)

    async def _run(self, work: Work, record: RequestRecord) -> AsyncGenerator[Any, None]:
        mailbox: Mailbox | None = None
        engine: Engine | None = None
        try:
            self._enter(work, record)
            leave = partial(self._turns.leave, work.id)
            mailbox = Mailbox(work, record, self._meter, leave)
            engine = await self._grant(work, record)
            await engine.submit(work, mailbox)
            while (output := await mailbox.next()) is not None:
                yield output
        except DaemonError as error:
            record.refusal = record.refusal or error
            raise work.as_refusal(error) from error
        finally:
            if mailbox is not None and not mailbox.is_finished:
                # Cancelled, closed or failed on our side: the engine must not work for nobody.
                try:
                    if engine is not None:
                        await engine.abort(work.id)
                finally:
                    mailbox.close()

    def _enter(self, work: Work, record: RequestRecord) -> None:
        if record.calls_started >= self._fanout_max or work.seqs > self._fanout_max:
            raise FanoutTooLarge(f"one request may ask for at most {self._fanout_max} generations")
        now_s = record.clock()
        record.rendered_s = record.rendered_s or now_s
        record.calls_started += 1
        record.calls_open += 1
        record.prompt_tokens += work.prompt_tokens

    async def _grant(self, work: Work, record: RequestRecord) -> Engine:
        job = Job(
            id=work.id,
            tenant=record.tenant,
            seqs=work.seqs,
            prompt_tokens=work.prompt_tokens,
            output_tokens_max=work.output_tokens_max,
            deadline_s=record.clock() + self._wait_timeout_s,
        )
        name = await self._turns.turn(job)
        record.granted_s = record.granted_s or record.clock()
        record.engine = name
        engine = self._engines.get(name)
        if engine is None:
            raise EngineDied(retry_after_s=10)
        return engine
