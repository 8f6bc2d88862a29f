"""Verdicts."""

from infer_daemon.bench import isolation, report
from infer_daemon.bench.figures import Latency
from infer_daemon.bench.isolation import Isolation, Round


def test_a_limit_itself_is_met() -> None:
    assert report.at_most("x", 50, 50) == report.Target("x", 50, "<= 50", "met")
    assert report.at_least("x", 0.9, 0.9).verdict == "met"


def test_beyond_a_limit_is_missed_and_the_number_stays() -> None:
    assert report.at_most("x", 50.0004, 50) == report.Target("x", 50.0, "<= 50", "missed")
    assert report.at_least("x", 0.8996, 0.9).verdict == "missed"


def test_a_busy_machine_is_told() -> None:
    assert report.busy({"load_average_before": 0.5, "cores": 2}) == ""
    assert "load 0.6" in report.busy({"load_average_before": 0.6, "cores": 2})


def latency(p50_ms: float, p99_ms: float = 60.0, failed: int = 0) -> Latency:
    return Latency(
        requests=300,
        failed=failed,
        mean_ms=p50_ms,
        p50_ms=p50_ms,
        p95_ms=45.0,
        p99_ms=p99_ms,
        max_ms=500.0,
    )


def isolated(*beside: Latency) -> Isolation:
    rounds = [
        Round(
            alone=latency(10),
            beside=each,
            flood_tokens_per_s=950,
            flood_refused=0,
            generator_lag_max_ms=1,
        )
        for each in beside
    ]
    return Isolation(
        victim_requests=300,
        unthrottled_tokens_per_s=[1000, 900, 1100],
        servers={"daemon": rounds},
    )


def test_isolation_is_judged_by_the_median_of_its_runs() -> None:
    found = isolated(latency(30), latency(39), latency(90, p99_ms=900))

    targets = isolation.targets(found)

    assert [target.value for target in targets] == [3.9, 45, 60, 0.95, 300, 0]
    assert {target.verdict for target in targets} == {"met"}


def test_isolation_with_a_failed_request_is_missed() -> None:
    targets = isolation.targets(isolated(latency(30, failed=1)))

    assert [target.verdict for target in targets] == ["met"] * 5 + ["missed"]
