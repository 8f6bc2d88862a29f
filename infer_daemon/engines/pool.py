"""The engines that serve one base model: one queue, one gate, any number of replicas."""

from collections.abc import Mapping

from infer_daemon.domain.errors import LoadFailed, ModelNotReady
from infer_daemon.domain.features import Feature
from infer_daemon.domain.jobs import EngineName, WindowLimits
from infer_daemon.domain.states import EngineState
from infer_daemon.engines.contract import (
    Admit,
    Engine,
    EngineFacts,
    Frontend,
    Judging,
    Meter,
    Timing,
    Turns,
)
from infer_daemon.engines.gate import Gate
from infer_daemon.engines.health import Health
from infer_daemon.engines.supervisor import Status
from infer_daemon.settings.schema import WindowSection

NO_LIMIT = 1 << 60


class Pool:
    """Which engines of a base model can take work now, and the gate in front of them."""

    def __init__(
        self,
        name: str,
        turns: Turns,
        meter: Meter,
        timing: Timing,
        admit: Admit,
        *,
        judge: Judging,
        windows: Mapping[EngineName, WindowSection],
        fanout_max: int,
        health: Health | None = None,
    ) -> None:
        """
        Args:
            windows: of every engine of the pool.
            health: of all engines of the daemon; None for tests of one pool.
        """
        self.name = name
        self.health = health or Health()
        self._windows = windows
        self._turns = turns
        self._ready: dict[EngineName, Engine] = {}
        self._facts: dict[EngineName, EngineFacts] = {}
        #: The engine that was lost last, where none is left and one is to come: what has lost its
        #: processes can still render.
        self._resting: tuple[Engine, EngineFacts] | None = None
        self._next_frontend = 0
        self.statuses: dict[EngineName, Status] = {}
        """Of every engine of the pool, ready or not; the supervisors keep them up to date."""
        self.gate = Gate(
            turns=turns,
            engines=self._ready,
            meter=meter,
            timing=timing,
            admit=admit,
            health=self.health,
            judge=judge,
            fanout_max=fanout_max,
            limits_of=self._limits,
            is_shut=lambda: not self._ready or self.is_broken,
            count=lambda: len(self.statuses or self._ready),
        )

    @property
    def facts(self) -> Mapping[EngineName, EngineFacts]:
        """What is known of the ready engines."""
        return self._facts

    def open(self, engine: Engine, facts: EngineFacts) -> None:
        """A ready engine joins: from now on it is given work."""
        self._resting = None
        self._ready[engine.name] = engine
        self._facts[engine.name] = facts
        self.health.begin(engine.name, lambda: self._resize(engine.name))
        self._resize(engine.name)

    def _resize(self, name: EngineName) -> None:
        self._turns.resize(name, self._limits(name))
        self.gate.windows_changed()

    def close(self, name: EngineName) -> None:
        """An engine leaves: no more work for it. Idempotent."""
        if (engine := self._ready.pop(name, None)) is not None:
            facts = self._facts.pop(name)
            self._resting = None if self._ready else (engine, facts)
            self.health.forget(name)
            self.look_ahead()
            self._turns.resize(name, None)
            self.gate.windows_changed()

    def look_ahead(self) -> None:
        """Whoever waits goes on waiting as long as some engine may still become ready: one that is
        dead is started again, one that is drained may be given work again. To be called whenever
        the state of an engine has changed."""
        self._turns.expect(any(not status.state.is_final for status in self.statuses.values()))

    def change(self, windows: Mapping[EngineName, WindowSection]) -> None:
        """Other windows from now on, for engines that are ready too."""
        self._windows = windows
        for name in self._facts:
            self._turns.resize(name, self._limits(name))
        self.gate.windows_changed()

    def _limits(self, name: EngineName) -> WindowLimits | None:
        """None while its breaker is open."""
        return self.health.limits(name, window_limits(self._facts[name], self._windows[name]))

    @property
    def is_broken(self) -> bool:
        """Whether there are ready engines and no call may enter any of them: their breakers are
        open, and none is to be tried now."""
        return bool(self._facts) and not any(map(self._limits, self._facts))

    @property
    def is_away(self) -> bool:
        """Whether no engine is ready, and one that was is on its way back."""
        return self._resting is not None and self.back_s is not None

    @property
    def context_tokens(self) -> int | None:
        """The longest prompt and answer of its engines; None where that is not known."""
        known = list(self._facts.values()) + ([self._resting[1]] if self._resting else [])
        return min((facts.max_model_len for facts in known), default=None)

    @property
    def back_s(self) -> float | None:
        """Loop time at which an engine is expected to be ready again, where none is and one was;
        else None."""
        if self._ready:
            return None
        times = (status.back_s for status in self.statuses.values())
        return min((back_s for back_s in times if back_s is not None), default=None)

    @property
    def features(self) -> frozenset[Feature]:
        """What each of its ready engines can do beside text."""
        found = [facts.features for facts in self._facts.values()]
        return frozenset.intersection(*found) if found else frozenset()

    def frontend(self, lora: str | None) -> Frontend:
        """A front end to render a request with; ready engines take turns. Where none is ready and
        one is on its way back, it is that of the one that was lost: what it renders waits.

        Args:
            lora: public name of the adapter that the request is for, None for the base model.

        Raises:
            ModelNotReady: no engine is ready that has it, nor will be soon; says why.
            LoadFailed: and none has ever been.
        """
        usable = [n for n, facts in self._facts.items() if lora is None or lora in facts.loras]
        if self._resting is not None and self.is_away:
            engine, facts = self._resting
            if lora is None or lora in facts.loras:
                return engine.frontend
        if not usable:
            why = self.why_not_ready(lora)
            if self.is_lost:
                # Libraries that retry a 503 would only wait.
                was_loaded = lora is None and any(s.facts for s in self.statuses.values())
                raise (ModelNotReady if was_loaded else LoadFailed)(why, should_retry=False)
            raise ModelNotReady(why, retry_after_s=10)
        self._next_frontend += 1
        return self._ready[usable[self._next_frontend % len(usable)]].frontend

    def refuse_late(self, deadline_s: float, now_s: float) -> None:
        """Refuse who cannot wait until an engine is back: an early no is better than a late one.

        Raises:
            ModelNotReady: says when to come again.
        """
        back_s = self.back_s
        if back_s is not None and back_s > deadline_s:
            raise ModelNotReady(self.why_not_ready(None), retry_after_s=max(1.0, back_s - now_s))

    @property
    def is_lost(self) -> bool:
        """Whether those who ask in vain now will always: each engine has failed, or is ready and
        does not have what they ask for."""
        states = [status.state for status in self.statuses.values()]
        return all(state.is_final or state is EngineState.READY for state in states)

    def why_not_ready(self, lora: str | None) -> str:
        """The reason that a client and `/ready` are told."""
        for facts in self._facts.values():
            if lora in facts.lora_errors:
                return facts.lora_errors[lora or ""]
        parts = [
            f"engine {name} is {status.state}" + (f": {why}" if (why := _why(status)) else "")
            for name, status in self.statuses.items()
        ]
        return "; ".join(parts)


def window_limits(facts: EngineFacts, section: WindowSection) -> WindowLimits:
    """An engine's window: as configured, within what the engine can do.

    By default it has as many sequences as the engine runs, and prompts in flight that fill two
    steps: one that is worked on and one that need not be waited for.
    """
    seqs = min(section.seqs or facts.seqs_max, facts.seqs_max)
    kv_tokens = NO_LIMIT if facts.kv_tokens is None else int(facts.kv_tokens * section.kv_share)
    step_tokens = NO_LIMIT if facts.step_tokens is None else 2 * facts.step_tokens
    return WindowLimits(
        seqs=seqs,
        kv_tokens=max(1, kv_tokens),
        prompt_step_tokens=facts.prompt_step_tokens or NO_LIMIT,
        prefill_tokens=section.prefill_tokens or step_tokens,
        kv_block_tokens=facts.kv_block_tokens,
    )


def _why(status: Status) -> str:
    if status.reason or not status.restarts:
        return status.reason or status.step
    return f"{status.step} (restart {status.restarts}, after: {status.last_end})"
