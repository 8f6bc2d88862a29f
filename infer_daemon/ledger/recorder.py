"""Opens a record when a request comes in and settles it, once, however it ended."""

import secrets
from collections.abc import Callable
from itertools import pairwise

import structlog

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.errors import DaemonError
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.ledger.metrics import Metrics

log = structlog.get_logger()


class Recorder:
    """The only place that ends a record. `open` and `settled` are its counts since the start."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self.open_count = 0
        self.settled_count = 0

    def open(self, endpoint: Endpoint) -> RequestRecord:
        """A request has arrived. You *must* settle what this returns."""
        self.open_count += 1
        return RequestRecord(
            id=secrets.token_hex(12),
            endpoint=endpoint,
            accepted_s=self._clock(),
            clock=self._clock,
        )

    def settle(self, record: RequestRecord, outcome: Outcome, error: DaemonError | None) -> None:
        """The request is over: count it and write its one log line.

        Args:
            error: what the client was told; None if it got its answer or went away.
        """
        assert record.outcome is None, f"request {record.id} settles a second time"
        record.outcome = outcome
        record.code = error.code if error is not None else ""
        record.settled_s = self._clock()
        self.open_count -= 1
        self.settled_count += 1
        stages_s = stages(record)
        self._metrics.on_settled(record, stages_s)
        write = log.error if outcome is Outcome.INTERNAL_ERROR else log.info
        param = error.param if error is not None else None
        write("request", **_line(record, stages_s), **({"param": param} if param else {}))


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
        "outcome": record.outcome,
        "stream": record.stream,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
    }
    if record.code:
        line["code"] = record.code
    if record.detail:
        line["detail"] = record.detail
    total_s = (record.settled_s or record.accepted_s) - record.accepted_s
    line |= {f"{stage}_ms": round(seconds * 1e3, 3) for stage, seconds in stages_s.items()}
    return {**line, "total_ms": round(total_s * 1e3, 3)}
