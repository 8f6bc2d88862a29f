"""The way around a model that does not answer: its stand-ins, one after the other, and then a text.

Who they are is `falling_back`'s to say. Nothing of the answer may have been sent; each of them is
asked as if it had been the one that the client named, by the same way.
"""

from collections.abc import Awaitable, Callable, Mapping

from infer_daemon import last_resort
from infer_daemon.asking import Asked
from infer_daemon.domain.errors import DaemonError, KillsEngines, ModelNotReady, QuotaExceeded
from infer_daemon.domain.failures import failure_class
from infer_daemon.domain.record import RequestRecord, never
from infer_daemon.engines.contract import EventStream, Reply
from infer_daemon.engines.pool import Pool
from infer_daemon.falling_back import Choice, StandIns
from infer_daemon.routing.catalog import Deployment


class StandingIn:
    """Has a request answered by the model that it asks for, or by another."""

    def __init__(
        self,
        stand_ins: StandIns,
        pools: Mapping[str, Pool],
        *,
        ask_one: Callable[[Asked], Awaitable[Reply | EventStream]],
        give_back: Callable[[RequestRecord], None],
        write_down: Callable[[Asked, str, str], None],
    ) -> None:
        """
        Args:
            ask_one: the answer of one model, that of the request's deployment.
            give_back: what was reserved for the try before.
            write_down: which deployment answers, of which recipe.
        """
        self._stand_ins = stand_ins
        self._pools = pools
        self._ask_one = ask_one
        self._give_back = give_back
        self._write_down = write_down

    async def answer(self, asked: Asked) -> Reply | EventStream:
        """The answer of the model that was asked for, or of whoever stands in for it."""
        record, deployment = asked.record, asked.deployment
        choice = self._stand_ins.choice(record, asked.body.fields, deployment, asked.tenant.may_use)
        record.can_fall_back = lambda: choice.is_any
        try:
            pool = self._pools[deployment.pool]
            if (pool.is_broken or pool.is_away) and choice.is_any:
                raise ModelNotReady(pool.why_not_ready(None), retry_after_s=10)
            return await self._ask_one(asked)
        except DaemonError as error:
            failure = failure_class(error)
            if failure is None or not choice.begin(failure):
                raise
            return await self._instead(asked, choice, error)
        finally:
            record.can_fall_back = never

    async def _instead(
        self, asked: Asked, choice: Choice, error: DaemonError
    ) -> Reply | EventStream:
        """The answer of the first stand-in that gives one, or the text of the last resort.

        Raises:
            DaemonError: `error`, if there is none, or what holds for every model; nothing of the
                request is reserved then.
        """
        record, model = asked.record, asked.deployment
        for deployment, headers in choice.models():
            self._start_over(asked, deployment)
            record.told |= headers
            record.answered_by = deployment.model
            record.fallback_from, record.fallback_why = model.name, choice.failure
            record.note(f"falls back to {deployment.model}: {choice.failure}")
            try:
                return await self._ask_one(asked)
            except DaemonError as failed:
                record.note(f"{deployment.model} does not answer either: {failed.code}")
                if isinstance(failed, KillsEngines | QuotaExceeded):
                    error = failed  # whichever model answers, it holds
        if asked.since_s is None and not choice.text:
            raise error
        self._start_over(asked, model)
        record.answered_by = record.fallback_from = record.fallback_why = ""
        if choice.text:
            return self._say(asked, choice)
        record.deployment, record.recipe_hash = model.name, model.recipe_hash
        record.refusal = error
        raise error

    def _say(self, asked: Asked, choice: Choice) -> Reply | EventStream:
        """The text of the last resort."""
        record, model = asked.record, asked.deployment
        record.is_static = True
        record.told |= last_resort.HEADERS
        record.fallback_from, record.fallback_why = model.name, choice.failure
        record.note(f"falls back to a text: {choice.failure}")
        self._write_down(asked, last_resort.MODEL, "")
        return last_resort.answer(record.endpoint, asked.body.fields, record.id, choice.text)

    def _start_over(self, asked: Asked, deployment: Deployment) -> None:
        """With another model: nothing of the last try is kept, and nothing reserved."""
        asked.record.start_over()
        self._give_back(asked.record)
        asked.deployment, asked.since_s = deployment, asked.record.clock()
