"""The seams between the gate and whatever runs a model.

Three parties: a `Frontend` turns a request body into engine calls and their outputs into a
response; the gate stands between the calls and the engines; an `Engine` is one incarnation of one
running model. `engines/vllm` and `engines/sim` implement `Frontend` and `Engine`; one suite of
contract tests runs on both.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import DaemonError
from infer_daemon.domain.features import Feature
from infer_daemon.domain.jobs import EngineName, Job, JobId, Tier, WindowLimits
from infer_daemon.domain.record import RequestRecord
from infer_daemon.domain.steps import Step
from infer_daemon.engines.continuing import Continue, Generated, Sampling, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as a front end sees it: decoded, authenticated, routed."""

    endpoint: Endpoint
    body: dict[str, Any]
    """The JSON body, or a form's fields, with `model` already the engine's own name for it."""
    request_id: str
    """Ours; responses carry it in their id."""
    upload: bytes | None = None
    """The file of an audio request."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


class EventStream:
    """A streamed answer: chunks of server-sent events, ready for the wire.

    The engine has produced its first output (or ended) when this exists, so nothing that can still
    fail before the first content is left. Whoever holds it *must* call `aclose`, also if it was
    never iterated: an object and not a generator, because closing a generator that was never
    started runs none of its code.
    """

    def __init__(self, head: list[bytes], rest: AsyncGenerator[bytes, None]) -> None:
        """Args: head: events that were already read from `rest`, in order."""
        self._head = head[::-1]
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return self._head.pop() if self._head else await anext(self._rest)

    async def aclose(self) -> None:
        """Stop the work behind the stream. Idempotent."""
        await self._rest.aclose()


class Frontend(Protocol):
    """From a request body to a response. Dies with the engine incarnation that it was built for."""

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """What its model can be asked for."""

    async def answer(self, call: Call) -> Reply | EventStream:
        """Answer one call; every engine call goes through the gate.

        Raises:
            DaemonError: the request is at fault, or the gate refused.
        """

    async def count_tokens(self, call: Call) -> int:
        """Tokens that the prompt of this call has once it is rendered, of the longest if there are
        several; also if that is more than the model can take. Nothing runs. For chat, completions,
        responses and messages.

        Raises:
            DaemonError: the request is at fault, or such requests are not counted.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One sequence that has ended by itself."""

    token_ids: Sequence[int]
    finish_reason: str
    """As the engine says it: `stop`, `length` and the like."""
    text: str | None
    """All of it, thoughts and tool calls too; None where tokens are not made into text."""
    json: str | None = None
    """The part of the text that was to be JSON; None if none was, or none was to be whole."""


class Progress(Protocol):
    """What has come of one call: its engine keeps it, so that another can go on from there."""

    @property
    def target(self) -> Target:
        """An engine of its pool, which may go on with it."""

    @property
    def prompt_token_ids(self) -> Sequence[int]:
        """Of the call as it was made."""

    @property
    def sampling(self) -> Sampling:
        """What it asked for."""

    def detach(self) -> None:
        """The engine that has the call has lost it: what it may still make does not come here."""

    def sequences(self) -> Sequence[Generated]:
        """What each of its sequences has."""

    def again(self) -> Any:
        """The payload that begins the call from scratch."""

    def further(self, step: Continue) -> Any:
        """The payload that goes on with the call: what is delivered then follows what was
        delivered, and is as if the same engine had gone on. For the engine, it is one call."""

    def endings(self) -> Sequence[Ended]:
        """Of each of its sequences, once the last of them has ended by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One engine call on its way through the gate."""

    id: JobId
    payload: Any
    """What the engine needs to run it; only engines of the pool's kind look inside."""
    wants: Literal["deltas", "final"]
    """Which outputs the handler reads. The engine always runs in deltas (metering needs them)."""
    merge: Callable[[Any, Any], None]
    """merge(earlier, later): add a later output to an earlier one, in place."""
    prompt_tokens: int
    output_tokens_max: int
    seqs: int = 1
    is_slow_to_check: bool = False
    """Whether `Engine.check` may take long; nothing is to be held for the call meanwhile."""
    cap: Callable[[int], Any] | None = None
    """cap(tokens): the payload for at most so many output tokens; None where none are generated."""
    progress: Progress | None = None
    """None for a call that can only be begun again."""
    as_refusal: Callable[[DaemonError], Exception] = lambda error: error
    """The exception that the handler is to see for a refusal (some log what they do not know)."""


class Sink(Protocol):
    """Where an engine puts what it produced, on the event loop, the moment it arrives."""

    def deliver(self, output: Any, *, new_tokens: int, cached_tokens: int, finished: bool) -> None:
        """One output. `new_tokens` were generated since the last; nothing follows `finished`."""

    def fail(self, error: Exception) -> None:
        """The call ended without a last output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What is known of a model once its engine is ready."""

    max_model_len: int
    seqs_max: int
    """The most sequences it runs at once: the ceiling of its window."""
    kv_tokens: int | None = None
    """Tokens that its KV cache holds; None if it generates nothing."""
    kv_block_tokens: int = 1
    """Tokens of one block of it."""
    step_tokens: int | None = None
    """The most tokens that it works on in one step; None if it does not say."""
    prompt_step_tokens: int | None = None
    """The most that it reads of one prompt in one step; None for as much as the step takes."""
    steps: Sequence[Step] = ()
    """Steps that were timed while it warmed up."""
    loras: frozenset[str] = frozenset()
    """Public names of the adapters that are loaded."""
    lora_errors: Mapping[str, str] = field(default_factory=dict)
    """Public name -> why that adapter could not be loaded."""
    features: frozenset[Feature] = frozenset()
    """What it can do beside text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStats:
    """What an engine said of itself after its last step."""

    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    """Share of the KV cache in use, 0 to 1."""
    prefix_queries: int = 0
    """Prompt tokens looked up in the prefix cache since the engine started."""
    prefix_hits: int = 0


class Engine(Protocol):
    """One engine from start to stop. Started once, stopped once, never reused."""

    @property
    def name(self) -> EngineName:
        """Its name in the configuration."""

    @property
    def frontend(self) -> Frontend:
        """Its front end; valid between the end of `start` and the beginning of `stop`."""

    @property
    def pid(self) -> int | None:
        """The process that schedules the model, where there is one."""

    @property
    def stats(self) -> EngineStats:
        """Its own figures; stale by at most a step while it works."""

    @property
    def in_flight(self) -> int:
        """Calls that were given to it and have not ended, whether or not it knows of them yet."""

    @property
    def steps(self) -> int:
        """That it has taken; one that has work and takes none is hung."""

    async def died(self) -> str:
        """Wait until the engine is dead without having been stopped; say why, for a log."""

    async def start(self, progress: Callable[[str], None]) -> EngineFacts:
        """Load, warm up and become able to take work. `progress` is told each step by name.

        Raises:
            EngineStartError: it will not become ready. Nothing is left running.
        """

    async def stop(self) -> None:
        """End every process of it; every call that is still in it fails. Idempotent; also ends a
        start that is still under way."""

    def kill(self) -> None:
        """End its processes without asking them; whoever waits for `stop`, or comes to, need not
        wait long. Idempotent."""

    async def check(self, work: Work) -> None:
        """Find out what takes long to know of a call, such as whether its grammar can be used,
        before it waits for a turn. To be awaited before it is first submitted, to this engine or to
        a replica of it; it then holds for every engine that goes on with the call.

        Raises:
            DaemonError: the call is invalid, or it cannot be known now.
        """

    async def submit(self, work: Work, sink: Sink) -> None:
        """Begin a call. Outputs go to the sink until `finished`, `fail` or `abort`.

        Raises:
            DaemonError: the engine is dead, or the call is invalid.
        Whatever it raises, `abort` cleans up what may be left.
        """

    async def abort(self, work_id: JobId) -> None:
        """Take a call back, wherever it is. Unknown ids are fine."""


class EngineStartError(Exception):
    """An engine could not be started; the message says why, in words for an operator."""

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        """Args: is_final: another start would end the same, however things are by then."""
        super().__init__(message)
        self.is_final = is_final


class Turns(Protocol):
    """What the gate needs of a scheduler; see `scheduling.scheduler.Scheduler`."""

    async def turn(self, job: Job) -> EngineName:
        """Wait for a turn; raises a `DaemonError` where there will be none."""

    def when_preempted(self, tell: Callable[[JobId, Tier], None]) -> None:
        """Whom to tell of jobs that must leave their engines, for work of which class."""

    def token(self, job_id: JobId, count: int) -> None:
        """A running job has generated that many tokens."""

    def finish(self, job_id: JobId) -> None:
        """A running job has ended by itself."""

    def cancel(self, job_id: JobId) -> None:
        """The job is given up."""

    def resize(self, engine: EngineName, limits: WindowLimits | None) -> None:
        """Open, change or (None) close an engine's window."""

    def expect(self, is_engine_expected: bool) -> None:
        """Whether jobs may wait while no engine has a window, for one that is to come."""


class Admit(Protocol):
    """What the gate needs of admission; see `admission.admission.Admission`."""

    def admit_tokens(
        self, record: RequestRecord, *, prompt_tokens: int, output_tokens_max: int, seqs: int
    ) -> int:
        """Output tokens that each sequence may generate; raises a `DaemonError` for a refusal."""

    def granted(self, record: RequestRecord) -> None:
        """The request has its turn."""


class Judging(Protocol):
    """Who looks at answers; see `engines.judging.Judge`."""

    def ended(self, model: str, progress: Progress) -> None:
        """A call for that public model has ended by itself. Must be quick."""


class Timing(Protocol):
    """Who is told when calls use an engine; see `ledger.stopwatch.Stopwatch`."""

    def enter(self, engine: EngineName, call: JobId, *, prompt_tokens: int, seqs: int) -> None:
        """The call is given to the engine now; it must `leave` before it enters another."""

    def first_output(self, call: JobId) -> None:
        """Its prompt has been read. Unknown calls are fine."""

    def leave(self, record: RequestRecord, call: JobId) -> None:
        """The engine is done with it. Unknown calls are fine."""


class Meter(Protocol):
    """Who is told of every token as it arrives; see `ledger.metrics.Metrics`."""

    def on_tokens(
        self, record: RequestRecord, *, new_tokens: int, gap_s: float | None, now_s: float
    ) -> None:
        """`new_tokens` arrived for a request, `gap_s` after the call's previous ones."""

    def on_preempted(self, tier: Tier) -> None:
        """A call gave its place up to work of that class."""
