"""The engine half: continuous batching over made-up tokens, in steps of a given length."""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from infer_daemon.domain.errors import EngineDied, EngineFault
from infer_daemon.domain.jobs import EngineName, JobId
from infer_daemon.engines.contract import (
    EngineFacts,
    EngineStartError,
    EngineStats,
    Sink,
    Work,
)
from infer_daemon.engines.gate import Gate
from infer_daemon.engines.sim.frontend import SimFrontend
from infer_daemon.engines.sim.tokens import Piece, SimPayload
from infer_daemon.settings.schema import SimSection


@dataclass(slots=True)
class _Sequence:
    """One call inside the engine."""

    work: Work
    sink: Sink
    payload: SimPayload
    to_prefill: int
    generated: list[int]
    """Tokens so far, per choice: its payload's own, which another engine may go on with."""

    @property
    def kv_tokens(self) -> int:
        return self.work.prompt_tokens - self.to_prefill + sum(self.generated)


class SimEngine:
    """Implements `contract.Engine`.

    Each step takes `step_ms`, spends up to `prefill_tokens_per_step` on prompts, and gives every
    prefilled sequence one token. Sequences enter while their prompt and output fit into
    `kv_tokens`; others wait inside, as in a real engine.
    """

    def __init__(
        self,
        name: EngineName,
        script: SimSection,
        gate: Gate,
        *,
        seqs_max: int,
        loras: frozenset[str] = frozenset(),
    ) -> None:
        self._name = name
        self._script = script
        self._seqs_max = seqs_max
        self._loras = loras
        self._frontend = SimFrontend(gate, script)
        self._waiting: deque[_Sequence] = deque()
        self._running: dict[JobId, _Sequence] = {}
        self._work_came = asyncio.Event()
        self._death: asyncio.Future[str] | None = None
        self._loop_task: asyncio.Task[None] | None = None
        self._tokens_made = 0
        self.fault_share = script.fault_share
        """Of its calls, those that it fails with their first token; may be changed."""
        #: What is due of the next fault: evenly, not at random.
        self._fault_due = 0.0
        self.steps = 0
        self._killed = asyncio.Event()

    @property
    def name(self) -> EngineName:
        return self._name

    @property
    def frontend(self) -> SimFrontend:
        return self._frontend

    @property
    def pid(self) -> int | None:
        return None

    @property
    def stats(self) -> EngineStats:
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=min(1.0, self._kv_used() / self._script.kv_tokens),
        )

    @property
    def is_killed(self) -> bool:
        """Whether it was ended without being asked."""
        return self._killed.is_set()

    @property
    def in_flight(self) -> int:
        return len(self._running) + len(self._waiting)

    async def start(self, progress: Callable[[str], None]) -> EngineFacts:
        """See `contract.Engine.start`."""
        progress("pretending to load")
        await asyncio.sleep(self._script.start_s)
        if self._script.fail_start:
            raise EngineStartError(self._script.fail_start, is_final=True)
        self._death = asyncio.get_running_loop().create_future()
        self._loop_task = asyncio.create_task(self._run(), name=f"sim-{self._name}")
        return EngineFacts(
            max_model_len=self._script.max_model_len,
            seqs_max=self._seqs_max,
            kv_tokens=self._script.kv_tokens,
            step_tokens=self._script.prefill_tokens_per_step,
            loras=self._loras,
            features=frozenset(self._script.features),
        )

    async def stop(self) -> None:
        """See `contract.Engine.stop`."""
        if self._loop_task is not None:
            self._loop_task.cancel()
            await asyncio.gather(self._loop_task, return_exceptions=True)
        self._fail_all()
        if self._script.stop_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._script.stop_s):
                    await self._killed.wait()

    async def died(self) -> str:
        """See `contract.Engine.died`."""
        assert self._death is not None, "only a started engine can die"
        return await asyncio.shield(self._death)

    def kill(self, reason: str = "killed") -> None:
        """See `contract.Engine.kill`: die now, as a process that is sent SIGKILL."""
        if self._death is not None and not self._death.done():
            self._death.set_result(reason)
        self._killed.set()
        self._fail_all()

    async def check(self, work: Work) -> None:
        """See `contract.Engine.check`."""

    async def submit(self, work: Work, sink: Sink) -> None:
        """See `contract.Engine.submit`."""
        if self._death is None or self._death.done():
            raise EngineDied(retry_after_s=10)
        payload: SimPayload = work.payload
        sequence = _Sequence(work, sink, payload, work.prompt_tokens, payload.made)
        self._waiting.append(sequence)
        self._work_came.set()

    async def abort(self, work_id: JobId) -> None:
        """See `contract.Engine.abort`."""
        self._running.pop(work_id, None)
        self._waiting = deque(s for s in self._waiting if s.work.id != work_id)

    async def _run(self) -> None:
        """The engine's loop: one iteration is one step."""
        step_s = self._script.step_ms / 1e3
        while True:
            while not self._running and not self._waiting:
                self._work_came.clear()
                await self._work_came.wait()
            self._admit()
            await asyncio.sleep(step_s)
            if self._is_hung():
                await asyncio.Event().wait()
            self._step()
            if 0 < self._script.die_after_tokens <= self._tokens_made:
                self.kill("it was told to die (die_after_tokens)")
                return

    def _is_hung(self) -> bool:
        return 0 < self._script.hang_after_tokens <= self._tokens_made

    def _admit(self) -> None:
        """Let waiting calls in, in order, while their whole length fits."""
        used = sum(self._reserved(sequence) for sequence in self._running.values())
        while self._waiting:
            need = self._reserved(self._waiting[0])
            if self._running and used + need > self._script.kv_tokens:
                return
            sequence = self._waiting.popleft()
            self._running[sequence.work.id] = sequence
            used += need

    @staticmethod
    def _reserved(sequence: _Sequence) -> int:
        return sequence.work.prompt_tokens + sum(len(c.words) for c in sequence.payload.choices)

    def _kv_used(self) -> int:
        # A copy: the page for Prometheus is written in a thread.
        return sum(sequence.kv_tokens for sequence in list(self._running.values()))

    def _step(self) -> None:
        self.steps += 1
        budget = self._script.prefill_tokens_per_step
        for sequence in list(self._running.values()):
            if sequence.to_prefill > 0:
                done = min(budget, sequence.to_prefill)
                sequence.to_prefill -= done
                budget -= done
            if sequence.to_prefill == 0:
                if not any(sequence.generated) and self._is_fault():
                    del self._running[sequence.work.id]
                    sequence.sink.fail(EngineFault())
                else:
                    self._generate(sequence)

    def _is_fault(self) -> bool:
        self._fault_due += self.fault_share
        if self._fault_due < 1.0:
            return False
        self._fault_due -= 1.0
        return True

    def _generate(self, sequence: _Sequence) -> None:
        """One token for each unfinished choice of a call."""
        pieces: list[Piece] = []
        for index, choice in enumerate(sequence.payload.choices):
            position = sequence.generated[index]
            if position >= len(choice.words):
                continue
            sequence.generated[index] = position + 1
            is_last = position + 1 == len(choice.words)
            reason = choice.finish_reason if is_last else None
            pieces.append(Piece(index, [choice.words[position]], reason))
        self._tokens_made += len(pieces)
        finished = all(
            made >= len(choice.words)
            for made, choice in zip(sequence.generated, sequence.payload.choices, strict=True)
        )
        if finished:
            self._running.pop(sequence.work.id, None)
        sequence.sink.deliver(pieces, new_tokens=len(pieces), cached_tokens=0, finished=finished)

    def _fail_all(self) -> None:
        calls = [*self._running.values(), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for sequence in calls:
            sequence.sink.fail(EngineDied(retry_after_s=10))
