"""What a settled request adds to the daemon's own series."""

import pytest
from prometheus_client import CollectorRegistry

from infer_daemon.domain.endpoints import Endpoint
from infer_daemon.domain.outcomes import Outcome
from infer_daemon.domain.record import RequestRecord
from infer_daemon.ledger.metrics import Metrics
from infer_daemon.ledger.recorder import stages

LABELS = {"model": "chat", "engine": "a"}


def settled(**fields: object) -> RequestRecord:
    """A request of five seconds that was granted after two, unless the fields say otherwise."""
    given = {
        "model": "chat",
        "engine": "a",
        "tenant": "acme",
        "rendered_s": 0.5,
        "granted_s": 2.0,
        "first_token_s": 3.0,
        "last_token_s": 4.5,
        "settled_s": 5.0,
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 4,
        "seqs": 1,
        "outcome": Outcome.OK,
        **fields,
    }
    return RequestRecord(
        id="r",
        endpoint=Endpoint.CHAT,
        accepted_s=0.0,
        clock=lambda: 0.0,
        **given,  # type: ignore[arg-type]
    )


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """A sample; None where there is none."""
    return registry.get_sample_value(name, {**LABELS, **labels})


def settle(metrics: Metrics, record: RequestRecord) -> None:
    """As the recorder does it."""
    metrics.on_settled(record, stages(record))


def test_a_request_is_counted_by_tenant_and_ending(metrics: Metrics) -> None:
    settle(metrics, settled())
    settle(metrics, settled())

    labels = {"tenant": "acme", "outcome": "ok", "code": ""}
    assert value(metrics.registry, "infer_requests_total", **labels) == 2


def test_prompt_tokens_are_counted_when_the_request_settles(metrics: Metrics) -> None:
    settle(metrics, settled())

    assert value(metrics.registry, "infer_prompt_tokens_total") == 10
    assert value(metrics.registry, "infer_cached_tokens_total") == 4
    assert value(metrics.registry, "infer_completion_tokens_total") is None


def test_dollars_are_counted_beside_each_other_by_tenant_and_model(metrics: Metrics) -> None:
    settle(metrics, settled(price_nano_usd=3_000_000_000, compute_nano_usd=500_000_000))

    labels = {"tenant": "acme", "model": "chat"}
    names = ("infer_price_dollars_total", "infer_compute_cost_dollars_total")
    assert [metrics.registry.get_sample_value(name, labels) for name in names] == [3, 0.5]


def test_generated_tokens_are_counted_as_they_come(metrics: Metrics) -> None:
    record = settled()
    metrics.on_tokens(record, new_tokens=3, gap_s=None, now_s=1.0)
    metrics.on_tokens(record, new_tokens=2, gap_s=0.25, now_s=1.25)

    assert value(metrics.registry, "infer_completion_tokens_total") == 5
    assert value(metrics.registry, "infer_itl_seconds_count") == 1
    assert value(metrics.registry, "infer_itl_seconds_sum") == 0.25


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("infer_ttft_seconds", 3.0),
        ("infer_queue_seconds", 1.5),
        ("infer_e2e_seconds", 5.0),
        ("infer_tpot_seconds", 0.5),
    ],
)
def test_times_are_as_the_client_feels_them(metrics: Metrics, name: str, seconds: float) -> None:
    settle(metrics, settled())

    assert value(metrics.registry, f"{name}_sum") == seconds
    assert value(metrics.registry, f"{name}_count") == 1


@pytest.mark.parametrize("tokens", [0, 1])
def test_without_a_second_token_there_is_no_time_per_token(metrics: Metrics, tokens: int) -> None:
    settle(metrics, settled(completion_tokens=tokens))

    assert value(metrics.registry, "infer_tpot_seconds_count") is None


def test_a_request_that_never_ran_is_counted_and_costs_nothing(metrics: Metrics) -> None:
    record = settled(
        engine="",
        granted_s=None,
        first_token_s=None,
        last_token_s=None,
        completion_tokens=0,
        calls_started=1,
        outcome=Outcome.EVICTED,
        code="waited_too_long",
    )
    settle(metrics, record)

    labels = {"engine": "", "tenant": "acme", "outcome": "evicted", "code": "waited_too_long"}
    assert value(metrics.registry, "infer_requests_total", **labels) == 1
    assert value(metrics.registry, "infer_prompt_tokens_total", engine="") is None
    assert value(metrics.registry, "infer_ttft_seconds_count", engine="") is None
    assert value(metrics.registry, "infer_queue_seconds_sum", engine="") == 4.5


def test_an_answer_without_tokens_has_no_first_token(metrics: Metrics) -> None:
    settle(metrics, settled(completion_tokens=0))

    assert value(metrics.registry, "infer_ttft_seconds_count") is None
    assert value(metrics.registry, "infer_e2e_seconds_count") == 1


def test_parallel_sequences_have_no_time_per_token(metrics: Metrics) -> None:
    settle(metrics, settled(seqs=2))

    assert value(metrics.registry, "infer_tpot_seconds_count") is None


def test_each_stage_has_its_own_series(metrics: Metrics) -> None:
    settle(metrics, settled())

    for stage, seconds in {"render": 0.5, "wait": 1.5, "generate": 1.0, "stream": 1.5}.items():
        name, labels = "infer_stage_seconds_sum", {"stage": stage}
        assert metrics.registry.get_sample_value(name, labels) == seconds


def test_two_daemons_in_a_process_do_not_share_their_figures() -> None:
    one, other = Metrics(), Metrics()
    settle(one, settled())

    assert value(other.registry, "infer_prompt_tokens_total") is None


@pytest.mark.parametrize(
    ("objective_s", "first_token_s", "kept"),
    [(3.0, 3.0, "true"), (2.9, 3.0, "false"), (4.9, None, "false"), (5.0, None, None)],
    ids=["in time", "late", "in vain", "gone before"],
)
def test_a_ttft_objective_is_counted_as_kept_or_not(
    metrics: Metrics, objective_s: float, first_token_s: float | None, kept: str | None
) -> None:
    settle(metrics, settled(ttft_objective_s=objective_s, first_token_s=first_token_s))

    for label in ("true", "false"):
        found = metrics.registry.get_sample_value(
            "infer_ttft_objective_total", {"model": "chat", "tenant": "acme", "kept": label}
        )
        assert found == (1 if label == kept else None)
