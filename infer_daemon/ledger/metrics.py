"""What Prometheus is told: the daemon's own series, labelled by model and engine.

Names end in their unit. TTFT, ITL, TPOT and end-to-end time are as the client feels them, counted
from the moment the request was accepted and so with the wait; vLLM's own series (`vllm:*`), which
begin inside the engine, are exported beside them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.process_collector import ProcessCollector

from infer_daemon.domain.jobs import Tier
from infer_daemon.domain.record import RequestRecord

_LABELS = ("model", "engine")
_LATENCY_S = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0,
)  # fmt: skip
_GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_STAGE_S = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Hot:
    """The children that are touched for every token, looked up once."""

    completion_tokens: Counter
    gap: Histogram


class Metrics:
    """The daemon's own collectors in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "infer_requests_total",
            "Requests by how they ended",
            ("model", "engine", "tenant", "outcome", "code"),
            registry=registry,
        )
        self._door_refusals = Counter(
            "infer_door_refusals_total",
            "Refusals before there was a request",
            ("reason",),
            registry=registry,
        )
        self._objective = Counter(
            "infer_ttft_objective_total",
            "Requests of tenants with a TTFT objective, by whether their first token came in time",
            ("model", "tenant", "kept"),
            registry=registry,
        )
        self._prompt_tokens = Counter(
            "infer_prompt_tokens_total", "Prompt tokens", _LABELS, registry=registry
        )
        self._cached_tokens = Counter(
            "infer_cached_tokens_total",
            "Prompt tokens found in the prefix cache",
            _LABELS,
            registry=registry,
        )
        self._completion_tokens = Counter(
            "infer_completion_tokens_total", "Generated tokens", _LABELS, registry=registry
        )
        self._compute_cost = Counter(
            "infer_compute_cost_dollars_total",
            "What the devices cost while they worked for these requests",
            ("tenant", "model"),
            registry=registry,
        )
        self._price = Counter(
            "infer_price_dollars_total",
            "What tenants are charged for these requests",
            ("tenant", "model"),
            registry=registry,
        )
        self._preemptions = Counter(
            "infer_preemptions_total",
            "Batch generations that gave their places up, by the class of who got them",
            ("tier",),
            registry=registry,
        )
        self._ttft = self._histogram("infer_ttft_seconds", "Accepted to first token", _LATENCY_S)
        self._gap = self._histogram("infer_itl_seconds", "Between outputs, one sequence", _GAP_S)
        self._tpot = self._histogram(
            "infer_tpot_seconds", "Time per output token, one sequence", _GAP_S
        )
        self._e2e = self._histogram("infer_e2e_seconds", "Accepted to settled", _LATENCY_S)
        self._queue = self._histogram(
            "infer_queue_seconds", "Rendered to granted or given up", _STAGE_S
        )
        self._stage = Histogram(
            "infer_stage_seconds",
            "Time in each stage of a request",
            ("stage",),
            buckets=_STAGE_S,
            registry=registry,
        )
        self.loop_lag = Histogram(
            "infer_event_loop_lag_seconds",
            "How late the event loop runs what is due",
            buckets=_STAGE_S,
            registry=registry,
        )
        self._commit = Histogram(
            "infer_ledger_commit_seconds", "One commit", buckets=_STAGE_S, registry=registry
        )
        self._rows = Counter("infer_ledger_rows_total", "Rows written down", registry=registry)
        self._feedback = Counter(
            "infer_feedback_total",
            "What tenants said of their answers first, each answer once",
            ("model", "tenant", "accepted"),
            registry=registry,
        )
        self._feedback_changed = Counter(
            "infer_feedback_changed_total",
            "Answers of which a tenant said the opposite later; by what it says now",
            ("model", "tenant", "accepted"),
            registry=registry,
        )
        self._breaker_changes = Counter(
            "infer_breaker_changes_total",
            "Changes of an engine's circuit breaker, by the state that it has then and why",
            ("engine", "to", "cause"),
            registry=registry,
        )
        self._retries = Counter(
            "infer_retries_total",
            "Calls that their engine had failed, by whether they were given to another",
            ("engine", "granted"),
            registry=registry,
        )
        self._fallbacks = Counter(
            "infer_fallbacks_total",
            "Requests that another model answered, or a static text",
            ("model", "to", "why"),
            registry=registry,
        )
        self._anomalies = Counter(
            "infer_output_anomalies_total",
            "Answers that look wrong, by what is wrong with them",
            ("model", "kind"),
            registry=registry,
        )
        self._flagged = Gauge(
            "infer_output_anomaly_flagged",
            "1 while too many of a model's last answers look wrong like that",
            ("model", "kind"),
            registry=registry,
        )
        self._ledger_ok = Gauge(
            "infer_ledger_ok", "1 while rows reach the database", registry=registry
        )
        self._ledger_waiting = Gauge(
            "infer_ledger_rows_waiting", "Rows not in the database yet", registry=registry
        )
        self._hot: dict[tuple[str, str], _Hot] = {}

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, _LABELS, buckets=buckets, registry=self.registry)

    def on_tokens(
        self, record: RequestRecord, *, new_tokens: int, gap_s: float | None, now_s: float
    ) -> None:
        """See `engines.contract.Meter`. The hot path: a few microseconds."""
        key = (record.model, record.engine)
        hot = self._hot.get(key)
        if hot is None:
            hot = self._hot[key] = _Hot(
                self._completion_tokens.labels(*key), self._gap.labels(*key)
            )
        hot.completion_tokens.inc(new_tokens)
        if gap_s is not None:
            hot.gap.observe(gap_s)

    def on_preempted(self, tier: Tier) -> None:
        """See `engines.contract.Meter`."""
        self._preemptions.labels(tier).inc()

    def watch_ledger(self, is_ok: Callable[[], bool], waiting: Callable[[], int]) -> None:
        """Ask these at each scrape."""
        self._ledger_ok.set_function(lambda: float(is_ok()))
        self._ledger_waiting.set_function(lambda: float(waiting()))

    def on_commit(self, rows: int, seconds: float) -> None:
        """So many rows were written down. Told by the ledger's own thread."""
        self._rows.inc(rows)
        self._commit.observe(seconds)

    def on_feedback(self, model: str, tenant: str, *, accepted: bool, before: bool | None) -> None:
        """A tenant said this of an answer.

        Args: before: what it had said of the same one; None if nothing.
        """
        if accepted is before:
            return
        counter = self._feedback if before is None else self._feedback_changed
        counter.labels(model, tenant, str(accepted).lower()).inc()

    def on_breaker(self, engine: str, to: str, cause: str) -> None:
        """See `engines.health.Witness`."""
        self._breaker_changes.labels(engine, to, cause).inc()

    def on_retry(self, engine: str, *, granted: bool) -> None:
        """See `engines.health.Witness`."""
        self._retries.labels(engine, str(granted).lower()).inc()

    def on_anomalies(self, model: str, kinds: Iterable[str]) -> None:
        """An answer of this model was all of that."""
        for kind in kinds:
            self._anomalies.labels(model, kind).inc()

    def on_flag(self, model: str, kind: str, *, is_flagged: bool) -> None:
        """The model has begun, or ceased, to have too many such answers."""
        self._flagged.labels(model, kind).set(is_flagged)

    def on_door_refused(self, reason: str) -> None:
        """Somebody was refused before there was a request."""
        self._door_refusals.labels(reason).inc()

    def on_settled(self, record: RequestRecord, stages_s: dict[str, float]) -> None:
        """A request has ended; `stages_s` as `recorder.stages` gives them."""
        labels = (record.model, record.engine)
        assert record.outcome is not None, "only settled requests are counted"
        self._requests.labels(*labels, record.tenant, record.outcome, record.code).inc()
        if record.fallback_why:
            to = "static" if record.is_static else record.answered_by
            self._fallbacks.labels(record.model, to, record.fallback_why).inc()
        for stage, seconds in stages_s.items():
            self._stage.labels(stage).observe(seconds)
        if "wait" in stages_s:
            self._queue.labels(*labels).observe(stages_s["wait"])
        self._count_objective(record)
        if record.granted_s is None:
            return
        cost = self._compute_cost.labels(record.tenant, record.model)
        cost.inc(record.compute_nano_usd / 1e9)
        self._price.labels(record.tenant, record.model).inc(record.price_nano_usd / 1e9)
        self._prompt_tokens.labels(*labels).inc(record.prompt_tokens)
        self._cached_tokens.labels(*labels).inc(record.cached_tokens)
        if record.first_token_s is not None and record.completion_tokens:
            self._ttft.labels(*labels).observe(record.first_token_s - record.accepted_s)
        if record.settled_s is not None:
            self._e2e.labels(*labels).observe(record.settled_s - record.accepted_s)
        if record.completion_tokens > 1 and record.seqs == 1 and "stream" in stages_s:
            per_token_s = stages_s["stream"] / (record.completion_tokens - 1)
            self._tpot.labels(*labels).observe(per_token_s)

    def _count_objective(self, record: RequestRecord) -> None:
        """Whoever was refused, or went away, before the objective had passed says nothing of it."""
        objective_s, settled_s = record.ttft_objective_s, record.settled_s
        if objective_s is None or settled_s is None:
            return
        begun_s = settled_s if record.first_token_s is None else record.first_token_s
        kept = begun_s - record.accepted_s <= objective_s
        if record.first_token_s is not None or not kept:
            self._objective.labels(record.model, record.tenant, str(kept).lower()).inc()
