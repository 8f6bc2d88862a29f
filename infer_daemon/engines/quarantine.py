"""Where `suspects` meets a pool: an engine is kept for a request that may be what kills engines,
and given back to all when that has ended."""

import asyncio
from collections.abc import Callable, Mapping
from weakref import WeakSet

from infer_daemon.domain.errors import KillsEngines, WaitedTooLong
from infer_daemon.domain.jobs import EngineName, WindowLimits
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.contract import Engine, Turns
from infer_daemon.engines.suspects import Seclusion, Suspects, Verdict


class Quarantine:
    """Of one pool."""

    def __init__(
        self,
        turns: Turns,
        engines: Mapping[EngineName, Engine],
        *,
        limits_of: Callable[[EngineName], WindowLimits | None],
        count: Callable[[], int],
        requests_in: Callable[[Engine], Mapping[str, RequestRecord]],
    ) -> None:
        """
        Args:
            engines: those that are ready; a live view.
            limits_of: the window that a ready engine has; None while its breaker is open.
            count: engines of the pool, ready or not.
            requests_in: the requests that have calls in an engine, by their ids.
        """
        self._turns = turns
        self._engines = engines
        self._limits_of = limits_of
        self._count = count
        self._requests_in = requests_in
        #: None until the first engine dies.
        self._suspects: Suspects | None = None
        self._dead = WeakSet[Engine]()
        #: Why each request that was ended was.
        self._ended: dict[str, str] = {}
        self._closed: EngineName | None = None
        self._changed = asyncio.Event()

    def died(self, engine: Engine) -> None:
        """An engine died under its calls, which have not been given to another yet. Idempotent;
        requests that it was being given in that moment are found when it is told again."""
        met = {
            request: record
            for request, record in self._requests_in(engine).items()
            if engine not in record.died_under
        }
        if engine in self._dead and not met:
            return
        self._dead.add(engine)
        for record in met.values():
            record.died_under.add(engine)
        self._suspects = self._suspects or Suspects(max(1, self._count()))
        deaths = {request: len(record.died_under) for request, record in met.items()}
        verdicts = self._suspects.died(engine.name, deaths)
        for request, verdict in verdicts.items():
            if verdict is Verdict.ENDED:
                self._ended[request] = self._suspects.reason(request)
        self.review()

    def must_be_alone(self, request: str) -> bool:
        """Whether it may enter no engine but with `turn`.

        Raises:
            KillsEngines: it may enter none at all.
        """
        if (reason := self._ended.get(request)) is not None:
            raise KillsEngines(reason, should_retry=False)
        return self.is_suspect(request)

    def is_suspect(self, request: str) -> bool:
        """Whether it must be alone in its engine."""
        return self._suspects is not None and self._suspects.is_suspect(request)

    async def turn(
        self, request: str, deadline_s: float, is_over: Callable[[], bool]
    ) -> EngineName:
        """Wait for an engine that nobody else is in, with another that is healthy beside it.

        Args:
            deadline_s: loop time at which waiting ends.
            is_over: whether the call was ended meanwhile; call `review` when it is.

        Raises:
            WaitedTooLong: there was none in time.
        """
        while not is_over():
            seclusion = self._review()
            if seclusion is not None and seclusion.request == request and seclusion.may_enter:
                return seclusion.engine
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._changed.wait()
            except TimeoutError:
                raise WaitedTooLong(retry_after_s=10) from None
        raise asyncio.CancelledError

    def forget(self, request: str) -> None:
        """The request has ended. Idempotent."""
        if self._suspects is not None:
            self._suspects.forget(request)
            self._ended.pop(request, None)
            self.review()

    def review(self, *, were_opened: bool = False) -> Seclusion | None:
        """Close the window of the engine that is kept for a suspect, and open it again when it is
        not; to be called whenever an engine comes, goes, or has lost a request.

        Args: were_opened: whether windows were opened by somebody else meanwhile.
        """
        seclusion = self._review(were_opened=were_opened)
        self._changed.set()
        return seclusion

    def _review(self, *, were_opened: bool = False) -> Seclusion | None:
        """Without a word to those who wait: they ask, too."""
        if self._suspects is None or (self._suspects.first is None and self._closed is None):
            return None
        seclusion = self._suspects.seclude(self._in_flight(self._suspects))
        new, old = None if seclusion is None else seclusion.engine, self._closed
        self._closed = new
        if old is not None and old != new and old in self._engines:
            self._turns.resize(old, self._limits_of(old))
        if new is not None and (new != old or were_opened):
            self._turns.resize(new, None)
        return seclusion

    def _in_flight(self, suspects: Suspects) -> dict[EngineName, int]:
        first = suspects.first
        return {
            name: len(self._requests_in(engine).keys() - {first})
            for name, engine in self._engines.items()
            if engine not in self._dead and self._limits_of(name) is not None
        }
