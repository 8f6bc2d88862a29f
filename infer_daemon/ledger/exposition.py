"""The page behind /metrics: the daemon's series, the engines' state, and vLLM's own series."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from infer_daemon.domain.jobs import EngineName
from infer_daemon.domain.states import EngineState
from infer_daemon.ledger.accounts import Unit
from infer_daemon.ledger.budgets import Standing
from infer_daemon.ledger.devices import Device, Line

_BREAKER_STATES = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


class EngineReport:
    """One engine at the moment of a scrape."""

    def __init__(
        self,
        *,
        name: str,
        model: str,
        state: EngineState,
        stats: dict[str, float],
        restarts: int = 0,
        breaker: str = "closed",
    ) -> None:
        """
        Args:
            stats: kv_usage, prefix_queries, prefix_hits, running, waiting.
            restarts: how often it was started again since the daemon began.
            breaker: the state of its circuit breaker.
        """
        self.name = name
        self.model = model
        self.state = state
        self.stats = stats
        self.restarts = restarts
        self.breaker = breaker


class LiveCollector(Collector):
    """Gauges that are read where they live instead of being kept up to date."""

    def __init__(
        self,
        engines: Callable[[], Iterable[EngineReport]],
        queues: Callable[[], Iterable[tuple[str, int, int]]],
    ) -> None:
        """Args: queues: (pool, waiting, running) of each pool's scheduler."""
        self._engines = engines
        self._queues = queues

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`."""
        waiting = GaugeMetricFamily(
            "infer_requests_waiting", "Engine calls waiting for a turn", labels=["model"]
        )
        running = GaugeMetricFamily(
            "infer_requests_running", "Engine calls in engines", labels=["model"]
        )
        for pool, pool_waiting, pool_running in self._queues():
            waiting.add_metric([pool], pool_waiting)
            running.add_metric([pool], pool_running)
        yield waiting
        yield running
        yield from self._of_engines(list(self._engines()))

    def _of_engines(self, reports: list[EngineReport]) -> Iterator[Metric]:
        labels = ["model", "engine"]
        state = GaugeMetricFamily(
            "infer_engine_state", "1 for the state the engine is in", labels=[*labels, "state"]
        )
        restarts = CounterMetricFamily(
            "infer_engine_restarts", "How often an engine was started again", labels=labels
        )
        breaker = GaugeMetricFamily(
            "infer_breaker_state",
            "Of an engine's circuit breaker: 0 closed, 1 half open, 2 open",
            labels=["engine"],
        )
        families: dict[str, Metric] = {
            "kv_usage": GaugeMetricFamily(
                "infer_kv_cache_usage_ratio", "Share of the KV cache in use", labels=labels
            ),
            "running": GaugeMetricFamily(
                "infer_engine_running", "Sequences that the engine runs", labels=labels
            ),
            "waiting": GaugeMetricFamily(
                "infer_engine_waiting", "Sequences that wait inside the engine", labels=labels
            ),
            "prefix_queries": CounterMetricFamily(
                "infer_prefix_cache_queries", "Prompt tokens looked up", labels=labels
            ),
            "prefix_hits": CounterMetricFamily(
                "infer_prefix_cache_hits", "Prompt tokens found", labels=labels
            ),
        }
        for report in reports:
            where = [report.model, report.name]
            for one in EngineState:
                state.add_metric([*where, one], float(one == report.state))
            restarts.add_metric(where, report.restarts)
            breaker.add_metric([report.name], _BREAKER_STATES[report.breaker])
            for key, family in families.items():
                family.add_metric(where, report.stats.get(key, 0.0))  # type: ignore[attr-defined]
        yield state
        yield restarts
        yield breaker
        yield from families.values()


class BudgetCollector(Collector):
    """Where tenants stand with their budgets."""

    def __init__(self, standings: Callable[[], Iterable[tuple[str, Standing]]]) -> None:
        """Args: standings: each tenant's, of budgets that have a limit."""
        self._standings = standings

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`."""
        labels = ["tenant", "period", "unit", "kind"]
        used = GaugeMetricFamily(
            "infer_budget_used_ratio", "Share of a budget that is used up", labels=labels
        )
        reserved = GaugeMetricFamily(
            "infer_budget_reserved_ratio",
            "Share of a budget that running requests may use",
            labels=labels,
        )
        for tenant, one in self._standings():
            unit = "usd" if one.unit is Unit.NANO_USD else "tokens"
            where = [tenant, one.period, unit, one.kind]
            if one.limit:
                used.add_metric(where, one.used / one.limit)
                reserved.add_metric(where, one.reserved / one.limit)
        yield used
        yield reserved


class DeviceCollector(Collector):
    """What the time of each device went into since the daemon started."""

    def __init__(self, totals: Mapping[tuple[Device, EngineName], Mapping[Line, int]]) -> None:
        """Args: totals: nanoseconds on each line, kept up to date by their owner."""
        self._totals = totals
        self._attributed_ns: dict[tuple[Device, EngineName], int] = {}

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`. Time that turns out to be waste leaves the line it was on, and a
        counter must not go back: that line stands still until it is where it was."""
        family = CounterMetricFamily(
            "infer_device_seconds",
            "What the time of each device went into",
            labels=["device", "engine", "line"],
        )
        for key, totals in self._totals.items():
            device, engine = key
            highest_ns = max(self._attributed_ns.get(key, 0), totals[Line.ATTRIBUTED])
            self._attributed_ns[key] = highest_ns
            for line in Line:
                ns = highest_ns if line is Line.ATTRIBUTED else totals[line]
                family.add_metric([device.name, engine, line], ns / 1e9)
        yield family


class VendorCollector(Collector):
    """The series of several engines' registries as one.

    The exposition format wants all samples of a name together, and vLLM labels each engine "0":
    samples of the same family are joined and their `engine` label becomes the engine's name.
    """

    def __init__(self, is_live: Callable[[str], bool]) -> None:
        """Args: is_live: whether to show an engine; a dead one's gauges would stand still."""
        self._is_live = is_live
        self._registries: dict[str, CollectorRegistry] = {}

    def add(self, engine: str, registry: CollectorRegistry) -> None:
        """From now on show this registry's series, labelled with this engine."""
        self._registries[engine] = registry

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client`."""
        families: dict[str, Metric] = {}
        live = [item for item in self._registries.items() if self._is_live(item[0])]
        for engine, registry in live:
            for family in registry.collect():
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                merged.samples.extend(_relabelled(sample, engine) for sample in family.samples)
        yield from families.values()


def _relabelled(sample: Sample, engine: str) -> Sample:
    return sample._replace(labels={**sample.labels, "engine": engine})


def page(registry: CollectorRegistry) -> bytes:
    """The text of a scrape."""
    return generate_latest(registry)
