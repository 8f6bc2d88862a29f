"""What a load generator is told, and what it tells: the lines between it and the bench, in JSON.

All times are the machine's monotonic clock, so those of several processes compare.
"""

import msgspec

from infer_daemon.bench.wire import Address

REFUSALS = (429, 503)


class LoadProblem(Exception):
    """The load generator failed, or its load did not do in time what was waited for."""


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """Clients of one tenant that all ask for the same."""

    name: str
    key: str
    prompt_tokens: int
    output_tokens: int
    connections: int
    """In a closed loop so many requests at a time; in an open loop at most so many."""
    rate_per_s: float = 0.0
    """Above 0, an open loop: requests come by a Poisson process, whatever becomes of them."""
    requests_max: int = 0
    """Of all its clients together; 0 leaves it to the time."""
    begin_s: float = 0.0
    end_s: float = 3600.0
    """Since the generator began. Then a closed loop is cut short, an open loop awaits answers."""
    pause_s: float = 0.0
    """Mean of the exponential pause of a closed loop's client between two requests. Without one,
    each request would come right after a step of the engine, in which the last one ended."""
    give_up_s: float = 600.0
    """How long a client waits for the whole of an answer before it hangs up."""
    headers: dict[str, str] = {}
    is_refusable: bool = False
    """Refusals, and waiting in vain, are what is measured, and no failures of the bench."""
    is_staggered: bool = False
    """A client's first request asks for fewer tokens, each for another number: clients that begin
    together would otherwise end together, and the engine's load would come in waves."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one generator is to do."""

    address: Address
    model: str
    template_tokens: int
    """What a prompt has before its first word (see `prompts`)."""
    crowds: list[Crowd]
    seed: int = 1


class Request(msgspec.Struct, frozen=True, array_like=True):
    """One request and what came of it."""

    begun_s: float
    first_s: float
    """When the first text came; -1 if none did."""
    ended_s: float
    status: int
    """0: there was no answer, or not all of it."""
    prompt_tokens: int
    output_tokens: int
    is_cut: bool = False
    """The bench ended before it did."""
    has_retry_after: bool = False

    @property
    def is_ok(self) -> bool:
        """Answered to the end."""
        return self.status == 200

    @property
    def is_refusal(self) -> bool:
        """Told to come back later."""
        return self.status in REFUSALS

    @property
    def ttft_s(self) -> float:
        """Time to the first text; what has none so far, had to wait at least for as long as it
        lasted."""
        return (self.ended_s if self.first_s < 0 else self.first_s) - self.begun_s

    @property
    def whole_s(self) -> float:
        """From the request to the end of the answer."""
        return self.ended_s - self.begun_s


class Told(msgspec.Struct, frozen=True, array_like=True):
    """What a crowd had so far."""

    prompt_tokens: int
    """Of requests whose first text came."""
    output_tokens: int
    done: int
    in_flight: int


class Sample(msgspec.Struct, frozen=True, tag="sample"):
    """A line in between, several a second: what every crowd had at that time."""

    at_s: float
    crowds: dict[str, Told]


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one crowd."""

    requests: list[Request]
    unsent: int
    """Arrivals of an open loop that found no connection free."""
    failures: list[str]
    """The first few answers that were none, in words."""


class Result(msgspec.Struct, frozen=True, tag="result"):
    """The last line."""

    crowds: dict[str, Played]
    lag_max_s: float
    """How late the generator itself was at worst."""

    def of(self, *crowds: str) -> list[Request]:
        """The requests of these crowds.

        Raises:
            LoadProblem: there are none, of which no figure can tell.
        """
        found = [request for crowd in crowds for request in self.crowds[crowd].requests]
        if not found:
            raise LoadProblem(f"no request of {', '.join(crowds)} in the time there was")
        return found

    @property
    def failures(self) -> list[str]:
        """The first few of each crowd, in words."""
        return [
            f"{name}: {text}" for name, played in self.crowds.items() for text in played.failures
        ]


Line = Sample | Result
