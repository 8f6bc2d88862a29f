"""Who answers when the model that was asked for does not: the chains of the configuration, met with
what the models can do at this moment. `routing.fallback` decides; nothing is tried here."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from infer_daemon.admission import asks, needs
from infer_daemon.admission.admission import TEXT_PER_TOKEN
from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import ModelNotReady
from infer_daemon.domain.failures import Chains, FailureClass
from infer_daemon.domain.record import RequestRecord
from infer_daemon.engines.pool import Pool
from infer_daemon.engines.suspects import SUSPECT_AFTER
from infer_daemon.routing.catalog import Catalog, Deployment
from infer_daemon.routing.fallback import Abilities, Fallback, Needs, fallback
from infer_daemon.settings.fallbacks import chains
from infer_daemon.settings.schema import Settings


class StandIns:
    """Of all models. Fixed after start."""

    def __init__(self, settings: Settings, catalog: Catalog, pools: Mapping[str, Pool]) -> None:
        self._catalog = {deployment.model: deployment for deployment in catalog}
        self._pools = pools
        self._chains = {name: chains(model.fallback) for name, model in settings.models.items()}
        self._texts = {name: model.last_resort.text for name, model in settings.models.items()}

    def choice(
        self,
        record: RequestRecord,
        body: Mapping[str, Any],
        asked: Deployment,
        may_use: Callable[[str], bool],
    ) -> "Choice":
        """For one request.

        Args:
            asked: for whom others are to stand in.
            may_use: whether its tenant may use the model of a name.
        """
        return Choice(self, record, body, asked, may_use)

    def chains_of(self, model: str) -> Chains:
        """As they are configured."""
        return self._chains[model]

    def text_of(self, model: str) -> str:
        """What is answered when nobody can; "" for nothing."""
        return self._texts[model]

    def deployment(self, model: str) -> Deployment:
        """Of a public name that a chain has."""
        return self._catalog[model]

    def abilities(self, model: str) -> Abilities | None:
        """What a model can do now; None while it can answer nobody."""
        deployment = self._catalog[model]
        pool = self._pools[deployment.pool]
        if pool.is_broken or pool.is_away:
            return None
        try:
            frontend = pool.frontend(model if deployment.lora else None)
        except ModelNotReady:
            return None
        return Abilities(
            endpoints=frontend.endpoints,
            context_tokens=pool.context_tokens,
            features=pool.features,
        )

    def context_tokens(self, deployment: Deployment) -> int:
        """Of a model; 0 while that is not known."""
        return self._pools[deployment.pool].context_tokens or 0


class Choice:
    """Who may answer one request in place of the model that it asks for, and who has tried."""

    def __init__(
        self,
        stand_ins: StandIns,
        record: RequestRecord,
        body: Mapping[str, Any],
        asked: Deployment,
        may_use: Callable[[str], bool],
    ) -> None:
        self._stand_ins = stand_ins
        self._record = record
        self._body = body
        self._asked = asked
        self._may_use = may_use
        self._chains = stand_ins.chains_of(asked.model)
        self._tried = {asked.model}
        self.failure = FailureClass.DEAD
        """Why the model does not answer; until that is known, what could become of it."""

    def begin(self, failure: FailureClass) -> bool:
        """The model does not answer, for that reason. Whether anybody may in its place: not to a
        request under which engines die."""
        self.failure = failure
        return not self._is_suspect and bool(self._chains.by_class.get(failure) or self.text)

    @property
    def is_any(self) -> bool:
        """Whether a model could answer now that has not tried."""
        if not self._chains.by_class.get(self.failure) or self._is_suspect:
            return False
        return self._next() is not None

    @property
    def text(self) -> str:
        """What is answered when no model is left; "" for nothing. A prompt that is too long is for
        its client to shorten, and one of which engines die not to be tried again."""
        if self.failure is FailureClass.TOO_LONG or not self._is_talk or self._is_suspect:
            return ""
        return self._stand_ins.text_of(self._asked.model)

    @property
    def _is_suspect(self) -> bool:
        return len(self._record.died_under) >= SUSPECT_AFTER

    @property
    def _is_talk(self) -> bool:
        return self._record.endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS)

    def models(self) -> Iterator[tuple[Deployment, Mapping[str, str]]]:
        """Those that can answer at the time when they are asked for, and what the client is told of
        each. Each is to be tried before the next is asked for."""
        while not self._is_suspect and (found := self._next()) is not None:
            self._tried.add(found.model)
            yield self._stand_ins.deployment(found.model), found.headers

    def _next(self) -> Fallback | None:
        names = self._chains.by_class.get(self.failure, ())
        found = {name: self._stand_ins.abilities(name) for name in names if name not in self._tried}
        answer = fallback(
            self._chains,
            self.failure,
            self._needs,
            {name: abilities for name, abilities in found.items() if abilities is not None},
            tried=self._tried,
            has_sent=False,
            may_use=self._may_use,
        )
        if isinstance(answer, Fallback):
            return answer
        return None

    @property
    def _needs(self) -> Needs:
        """As long as is known: the exact length is found by whoever renders it."""
        record = self._record
        prompt = max(record.rendered_tokens, record.text_len // TEXT_PER_TOKEN)
        if self.failure is FailureClass.TOO_LONG:
            prompt = max(prompt, self._stand_ins.context_tokens(self._asked) + 1)
        output = asks.output_tokens(record.endpoint, self._body) or 0
        return Needs(
            endpoint=record.endpoint, tokens=prompt + output, features=needs.features(self._body)
        )
