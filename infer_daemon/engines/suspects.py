"""The query of death: a request that kills every engine it meets is stopped. Pure.

Engines die for many reasons, and whoever was in one when it died is hardly ever the reason. So,
by the number of deaths that a request has met, in whichever pools it was:

1. after the first it goes on like any other;
2. after the second it is a *suspect*: it runs alone in an engine, never in the last healthy one,
   so that another death of its making harms nobody else;
3. after the third it is ended: no engine is given to it again.

One suspect at a time has an engine of its own; the others wait for theirs in the order in which
they became suspects. While no second engine is healthy they wait too, within their deadlines; where
the pool has only one engine at all, there is nothing to wait for, and the second death ends it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from infer_daemon.domain.jobs import EngineName

SUSPECT_AFTER = 2
ENDED_AFTER = 3


class Verdict(StrEnum):
    """What becomes of a request whose engine has died."""

    GOES_ON = "goes_on"
    SUSPECT = "suspect"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Seclusion:
    """An engine that is kept for one suspect: nobody else is given work there."""

    request: str
    engine: EngineName
    may_enter: bool
    """Whether all others have left it."""


class Suspects:
    """Of one pool. Remembers requests from the first death that they meet in it until `forget`."""

    def __init__(self, engines: int) -> None:
        """Args: engines: that the pool has, ready or not."""
        assert engines >= 1, "a pool without engines"
        self._engines = engines
        #: Engine deaths that each request has met, at least 1.
        self._deaths: dict[str, int] = {}
        #: Suspects in their order; the first of them has the secluded engine, if there is one.
        self._waiting: dict[str, None] = {}
        self._secluded: EngineName | None = None

    def died(self, engine: EngineName, deaths: Mapping[str, int]) -> dict[str, Verdict]:
        """An engine died, or stalled. What becomes of each request that was in it.

        Args: deaths: that each of them has met, this one included.
        """
        if engine == self._secluded:
            self._secluded = None
        return {request: self._blame(request, count) for request, count in deaths.items()}

    def is_suspect(self, request: str) -> bool:
        """Whether it must wait for an engine of its own."""
        return request in self._waiting

    @property
    def first(self) -> str | None:
        """The suspect that is to have an engine of its own now."""
        return next(iter(self._waiting), None)

    def seclude(self, in_flight: Mapping[EngineName, int]) -> Seclusion | None:
        """The engine that is kept for the first suspect; None if there is no suspect, or no engine
        that can be spared. To be asked whenever an engine comes, goes or becomes empty, and after
        `died` and `forget`. A suspect that runs already and is left with the last healthy engine
        *must* be taken back from it, to be continued when another is healthy.

        Args: in_flight: requests in each healthy engine, the suspect's own not counted.
        """
        request = self.first
        if request is None or len(in_flight) < 2:
            self._secluded = None
            return None
        if self._secluded not in in_flight:
            self._secluded = min(in_flight, key=lambda name: (in_flight[name], name))
        assert self._secluded is not None, "one of several was chosen"
        return Seclusion(request, self._secluded, not in_flight[self._secluded])

    def forget(self, request: str) -> None:
        """The request has ended, however: well, given up or refused. Idempotent."""
        self._deaths.pop(request, None)
        self._drop(request)

    def reason(self, request: str) -> str:
        """Why it was ended, for its client: an error 500."""
        deaths = self._deaths[request]
        return f"the engine died {deaths} times while it worked on this request; not tried again"

    def _blame(self, request: str, deaths: int) -> Verdict:
        self._deaths[request] = deaths
        has_nowhere_to_go = deaths >= SUSPECT_AFTER and self._engines == 1
        if deaths >= ENDED_AFTER or has_nowhere_to_go:
            self._drop(request)
            return Verdict.ENDED
        if deaths < SUSPECT_AFTER:
            return Verdict.GOES_ON
        self._waiting[request] = None
        return Verdict.SUSPECT

    def _drop(self, request: str) -> None:
        if request in self._waiting:
            if request == next(iter(self._waiting)):
                self._secluded = None
            del self._waiting[request]

    def check(self) -> None:
        """Assert what holds between calls."""
        for request in self._waiting:
            assert self._deaths[request] == SUSPECT_AFTER, f"{request} waits without two deaths"
        assert self._waiting or self._secluded is None, "an engine is kept for nobody"
