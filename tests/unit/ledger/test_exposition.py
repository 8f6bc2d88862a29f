"""The page behind /metrics: live gauges, and the vendor's registries side by side."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from infer_daemon.domain.states import EngineState
from infer_daemon.ledger.accounts import Unit
from infer_daemon.ledger.budgets import Standing
from infer_daemon.ledger.exposition import (
    BudgetCollector,
    EngineReport,
    LiveCollector,
    VendorCollector,
    page,
)
from infer_daemon.ledger.periods import Period


def samples(registry: CollectorRegistry) -> list[Sample]:
    """What a scrape shows, read by Prometheus' own rules; no family may come twice."""
    families = list(text_string_to_metric_families(page(registry).decode()))
    names = [family.name for family in families]
    assert len(set(names)) == len(names)
    return [sample for family in families for sample in family.samples]


def by_engine(registry: CollectorRegistry, name: str) -> dict[str, float]:
    """Engine -> value of a series."""
    return {s.labels["engine"]: s.value for s in samples(registry) if s.name == name}


def vendor_registry(requests: int) -> CollectorRegistry:
    """As vLLM fills one; it calls every engine "0"."""
    registry = CollectorRegistry()
    labels = ("model_name", "engine")
    Gauge("vllm:running", "Running", labels, registry=registry).labels("m", "0").set(requests)
    Counter("vllm:done", "Done", labels, registry=registry).labels("m", "0").inc(requests)
    Histogram("vllm:ttft", "TTFT", labels, registry=registry).labels("m", "0").observe(requests)
    return registry


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def test_the_series_of_two_engines_are_shown_under_their_own_names(
    registry: CollectorRegistry,
) -> None:
    vendor = VendorCollector(lambda _: True)
    registry.register(vendor)
    vendor.add("chat-0", vendor_registry(3))
    vendor.add("chat-1", vendor_registry(5))

    for name in ("vllm:running", "vllm:done_total", "vllm:ttft_sum"):
        assert by_engine(registry, name) == {"chat-0": 3, "chat-1": 5}
    buckets = [sample for sample in samples(registry) if sample.name == "vllm:ttft_bucket"]
    assert {sample.labels["model_name"] for sample in buckets} == {"m"}


def test_an_engine_that_starts_again_replaces_its_series(registry: CollectorRegistry) -> None:
    vendor = VendorCollector(lambda _: True)
    registry.register(vendor)
    vendor.add("chat", vendor_registry(3))
    vendor.add("chat", vendor_registry(1))

    assert by_engine(registry, "vllm:running") == {"chat": 1}


def test_an_engine_that_is_gone_shows_no_series(registry: CollectorRegistry) -> None:
    live = {"chat"}
    vendor = VendorCollector(live.__contains__)
    registry.register(vendor)
    vendor.add("chat", vendor_registry(3))
    vendor.add("dead", vendor_registry(1))

    assert by_engine(registry, "vllm:running") == {"chat": 3}


def test_gauges_are_read_at_the_moment_of_the_scrape(registry: CollectorRegistry) -> None:
    reports: list[EngineReport] = []
    queues = {"chat": (0, 0)}
    registry.register(
        LiveCollector(lambda: reports, lambda: [(name, *both) for name, both in queues.items()])
    )
    before = {(s.name, s.labels["model"]): s.value for s in samples(registry)}
    queues["chat"] = (4, 2)
    after = {(s.name, s.labels["model"]): s.value for s in samples(registry)}

    waiting, running = ("infer_requests_waiting", "chat"), ("infer_requests_running", "chat")
    assert (before[waiting], before[running]) == (0, 0)
    assert (after[waiting], after[running]) == (4, 2)


def test_an_engine_is_in_exactly_one_state(registry: CollectorRegistry) -> None:
    report = EngineReport(name="a", model="chat", state=EngineState.FAILED, stats={})
    registry.register(LiveCollector(lambda: [report], list))
    states = {s.labels["state"]: s.value for s in samples(registry) if "state" in s.labels}

    assert states.keys() == {state.value for state in EngineState}
    assert [state for state, value in states.items() if value] == ["failed"]


def test_an_engines_figures_are_shown_and_zero_where_it_has_none(
    registry: CollectorRegistry,
) -> None:
    stats = {"kv_usage": 0.25, "running": 3, "waiting": 1, "prefix_queries": 90, "prefix_hits": 60}
    reports = [
        EngineReport(name="a", model="chat", state=EngineState.READY, stats=stats),
        EngineReport(name="b", model="chat", state=EngineState.DEAD, stats={}),
    ]
    registry.register(LiveCollector(lambda: reports, list))

    assert by_engine(registry, "infer_kv_cache_usage_ratio") == {"a": 0.25, "b": 0}
    assert by_engine(registry, "infer_engine_running") == {"a": 3, "b": 0}
    assert by_engine(registry, "infer_engine_waiting") == {"a": 1, "b": 0}
    assert by_engine(registry, "infer_prefix_cache_queries_total") == {"a": 90, "b": 0}
    assert by_engine(registry, "infer_prefix_cache_hits_total") == {"a": 60, "b": 0}


def test_budgets_are_shown_as_shares_of_their_limits(registry: CollectorRegistry) -> None:
    standing = Standing(Period.DAY, Unit.TOKENS, 0, 1, 120, 25, 100, is_hard=False)
    registry.register(BudgetCollector(lambda: [("acme", standing)]))
    found = {sample.name: sample for sample in samples(registry)}

    where = {"tenant": "acme", "period": "day", "unit": "tokens", "kind": "soft"}
    assert {name: sample.value for name, sample in found.items()} == {
        "infer_budget_used_ratio": 1.2,
        "infer_budget_reserved_ratio": 0.25,
    }
    assert all(sample.labels == where for sample in found.values())
