"""Opens a record when a request comes in and settles it, once, however it ended."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import structlog

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import (
    DaemonError,
    LimitReached,
    ModelNotFound,
    WouldWaitTooLong,
)
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord, id_in, new_id
from infer_daemon.ledger.metrics import Metrics
from infer_daemon.ledger.spate import Spate
from infer_daemon.ledger.stopwatch import Stopwatch

log = structlog.get_logger()

STORIES_MAX = 4096
"""Requests whose story is kept after they settled: a few megabytes."""
_EXPLICIT = (ModelNotFound, LimitReached, WouldWaitTooLong)
"""Errors whose message says what their code leaves open: whose limit it was, and how much of it."""
_DONE = {"truncated": "x-infer-truncated", "clamped": "x-infer-clamped"}
"""What may have been done to a request before it was answered, and the header that says so."""


class Story(NamedTuple):
    """Of a request that has settled."""

    line: dict[str, object]
    events: list[tuple[float, str]]


class Recorder:
    """The only place that ends a record."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float], stopwatch: Stopwatch) -> None:
        self._metrics = metrics
        self._stopwatch = stopwatch
        self._clock = clock
        self._open: dict[str, RequestRecord] = {}
        self._stories: OrderedDict[str, Story] = OrderedDict()
        self._spate = Spate(clock)
        self.settled_count = 0
        """Since the start."""

    @property
    def open_count(self) -> int:
        """Requests that have not settled."""
        return len(self._open)

    def open(self, endpoint: Endpoint) -> RequestRecord:
        """A request has arrived. You *must* settle what this returns."""
        record = RequestRecord(
            id=new_id(),
            endpoint=endpoint,
            accepted_s=self._clock(),
            clock=self._clock,
        )
        self._open[record.id] = record
        return record

    @property
    def untold_count(self) -> int:
        """Requests since the start that were refused without a line and a story of their own."""
        return self._spate.untold_count

    def settle(self, record: RequestRecord, outcome: Outcome, error: DaemonError | None) -> None:
        """The request is over: count it and write its one log line. One of so many refusals that
        their lines would be a load of their own has none.

        Args:
            error: what the client was told; None if it got its answer or went away.
        """
        assert record.outcome is None, f"request {record.id} settles a second time"
        record.outcome = outcome
        record.code = error.code if error is not None else ""
        if isinstance(error, _EXPLICIT):
            record.detail = record.detail or error.message
        record.settled_s = self._clock()
        self._stopwatch.settle(record)
        self._open.pop(record.id, None)
        self.settled_count += 1
        stages_s = stages(record)
        self._metrics.on_settled(record, stages_s)
        if is_cheap(record) and not self._spate.is_told(record.tenant, record.code):
            return
        write = log.error if outcome is Outcome.INTERNAL_ERROR else log.info
        param = error.param if error is not None else None
        line = {**_line(record, stages_s), **({"param": param} if param else {})}
        write("request", **line)
        self._stories[record.id] = Story(line, events(record))
        if len(self._stories) > STORIES_MAX:
            self._stories.popitem(last=False)

    def story(self, request_id: str) -> dict[str, object] | None:
        """What happened to a request, one of the open ones or of the last that settled; None if it
        is none of them. Takes ids as they stand in responses, too (`chatcmpl-...`)."""
        found = id_in(request_id)
        if found is None:
            return None
        if (record := self._open.get(found)) is not None:
            return {"request": _line(record, stages(record)), "events": events(record)}
        story = self._stories.get(found)
        return None if story is None else {"request": story.line, "events": story.events}


def is_cheap(record: RequestRecord) -> bool:
    """Whether a client can have any number of such endings for next to nothing: it was told no
    before an engine had to do with it."""
    return record.granted_s is None and record.outcome in (Outcome.REJECTED, Outcome.CLIENT_ERROR)


def events(record: RequestRecord) -> list[tuple[float, str]]:
    """(milliseconds since the request was accepted, what happened), in order."""
    marks = [
        (record.accepted_s, f"accepted: {record.endpoint}"),
        (record.authenticated_s, f"authenticated as {record.tenant}"),
        (record.read_s, "body read"),
        (record.routed_s, f"routed to {record.model}"),
        (
            record.rendered_s,
            f"rendered, {record.rendered_tokens} prompt tokens; waits for its turn",
        ),
        (record.first_token_s, "first output"),
        (record.last_token_s, f"last output, {record.completion_tokens} tokens"),
        (record.settled_s, f"settled: {record.outcome} {record.code}".rstrip()),
    ]
    known = [(time_s, event) for time_s, event in marks if time_s is not None]
    ordered = sorted([*known, *record.story], key=lambda pair: pair[0])
    return [(round((time_s - record.accepted_s) * 1e3, 3), event) for time_s, event in ordered]


def stages(record: RequestRecord) -> dict[str, float]:
    """Seconds in each stage, from the end of the last one to its own. A request that ended inside a
    stage was in that one to its end."""
    marks = [
        ("authenticate", record.authenticated_s),
        ("read", record.read_s),
        ("route", record.routed_s),
        ("render", record.rendered_s),
        ("wait", record.granted_s),
        ("generate", record.first_token_s),
        ("stream", record.last_token_s if record.completion_tokens else record.first_token_s),
        ("settle", record.settled_s),
    ]
    found: dict[str, float] = {}
    before, last = record.accepted_s, "authenticate"
    for (stage, mark), (following, _) in pairwise(marks):
        if mark is not None:
            found[stage] = max(0.0, mark - before)
            before, last = mark, following
    if record.settled_s is not None:
        found[last] = max(0.0, record.settled_s - before)
    return found


def _line(record: RequestRecord, stages_s: dict[str, float]) -> dict[str, object]:
    line: dict[str, object] = {
        "id": record.id,
        "tenant": record.tenant,
        "endpoint": record.endpoint,
        "model": record.model,
        "engine": record.engine,
        "tier": record.tier,
        "outcome": record.outcome,
        "stream": record.stream,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
    }
    if record.compute_ns:
        line["compute_ms"] = round(record.compute_ns / 1e6, 3)
    if record.code:
        line["code"] = record.code
    if record.fallback_why:
        line["answered_by"] = "static" if record.is_static else record.answered_by
        line["fallback"] = record.fallback_why
    line |= {what: record.told[header] for what, header in _DONE.items() if header in record.told}
    if record.detail:
        line["detail"] = record.detail
    total_s = (record.settled_s or record.accepted_s) - record.accepted_s
    line |= {f"{stage}_ms": round(seconds * 1e3, 3) for stage, seconds in stages_s.items()}
    return {**line, "total_ms": round(total_s * 1e3, 3)}
