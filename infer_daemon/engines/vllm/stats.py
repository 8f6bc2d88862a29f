"""vLLM's own metrics, one registry per engine.

vLLM registers its collectors in the process-wide registry and, to be able to do so twice, removes
every `vllm:*` collector first: of two engines in one process only the last would be seen. Here each
engine's logger makes the same collectors in a registry of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats, SchedulerStats


def stat_logger(
    registry: CollectorRegistry, on_stats: Callable[[SchedulerStats], None]
) -> type[PrometheusStatLogger]:
    """A logger class for `AsyncLLM(stat_loggers=[...])`.

    Args:
        registry: where this engine's `vllm:*` series go.
        on_stats: told the scheduler's figures after every step that has some, on the event loop;
            must be cheap.
    """
    ours = {
        "_gauge_cls": staticmethod(partial(Gauge, registry=registry)),
        "_counter_cls": staticmethod(partial(Counter, registry=registry)),
        "_histogram_cls": staticmethod(partial(Histogram, registry=registry)),
    }

    class StatLogger(PrometheusStatLogger):
        _gauge_cls = ours["_gauge_cls"]
        _counter_cls = ours["_counter_cls"]
        _histogram_cls = ours["_histogram_cls"]
        _spec_decoding_cls = _rehomed(PrometheusStatLogger._spec_decoding_cls, ours)
        _kv_connector_cls = _rehomed(PrometheusStatLogger._kv_connector_cls, ours)
        _ec_connector_cls = _rehomed(PrometheusStatLogger._ec_connector_cls, ours)
        _perf_metrics_cls = _rehomed(PrometheusStatLogger._perf_metrics_cls, ours)

        def record(
            self,
            scheduler_stats: SchedulerStats | None,
            iteration_stats: IterationStats | None,
            **kwargs: Any,
        ) -> None:
            super().record(scheduler_stats, iteration_stats, **kwargs)
            if scheduler_stats is not None:
                on_stats(scheduler_stats)

    return StatLogger


def _rehomed(base: type, classes: dict[str, Any]) -> type:
    """`base` with those of its metric classes replaced that it has."""
    return type(
        base.__name__, (base,), {name: cls for name, cls in classes.items() if hasattr(base, name)}
    )
