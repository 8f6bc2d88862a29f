"""What each bench makes of its figures."""

from infer_daemon.bench import demo, fairness, overload, priority
from infer_daemon.bench.crowd import Request
from infer_daemon.bench.fairness import Fairness
from infer_daemon.bench.figures import Latency, latency
from infer_daemon.bench.overload import Load, Overload
from infer_daemon.bench.priority import Priority
from infer_daemon.bench.report import Target


def verdicts(targets: list[Target]) -> list[str]:
    return [target.verdict for target in targets]


def request(begun_s: float, ttft_s: float, status: int = 200) -> Request:
    first_s = begun_s + ttft_s if status == 200 else -1
    return Request(
        begun_s, first_s, begun_s + ttft_s + 1, status, prompt_tokens=8, output_tokens=16
    )


def test_an_answer_is_good_within_both_limits_of_the_objective() -> None:
    assert overload.is_good(request(0, 1.0))
    assert not overload.is_good(request(0, 1.01))
    assert not overload.is_good(request(0, 0.1, status=503))
    assert not overload.is_good(Request(0, 0.5, 5.1, 200, prompt_tokens=8, output_tokens=16))


def test_recovery_is_when_ten_probes_in_a_row_are_normal() -> None:
    slow = [request(100 + number, 0.5) for number in range(3)]
    lucky = [request(103, 0.01)]
    slow_again = [request(104, 0.5)]
    normal = [request(105 + number, 0.04) for number in range(10)]
    probes = [*slow, *lucky, *slow_again, *normal]

    assert overload.recovery(probes, ended_s=99, limit_ms=50) == 6
    assert overload.recovery(probes[:-1], ended_s=99, limit_ms=50) is None
    assert overload.recovery(normal, ended_s=106, limit_ms=50) == 0


def load(multiple: float, good_per_s: float, refused_per_s: float = 0.0, **more: float) -> Load:
    fields = {
        "late_per_s": 0.0,
        "given_up_per_s": 0.0,
        "ttft_p50_ms": 20.0,
        "refusal_p99_ms": 8.0 if refused_per_s else 0.0,
        "generator_lag_max_ms": 1.0,
        **more,
    }
    return Load(
        multiple=multiple,
        offered_per_s=40 * multiple,
        good_per_s=good_per_s,
        refused_per_s=refused_per_s,
        unsent=0,
        refusals_without_retry_after=0,
        **fields,
    )


def overloaded(*loads: Load, recovery_s: float | None = 1.0) -> Overload:
    round_ = overload.Round(
        idle_p50_ms=10,
        idle_p99_ms=20,
        capacity_per_s=40,
        loads=list(loads),
        recovery_s=recovery_s,
        memory_before_bytes=1000,
        memory_after_bytes=1050,
    )
    return Overload(servers={"daemon": [round_]})


def test_overload_is_judged_against_the_best_of_any_load() -> None:
    targets = overload.targets(overloaded(load(1, 40), load(3, 36, 80), load(10, 23, 370)))

    assert [target.value for target in targets] == [0.9, 0.575, 8, 0, 1.05, 1]
    assert verdicts(targets) == ["met", "missed", "met", "met", "met", "met"]


def test_without_refusals_nothing_is_said_of_them() -> None:
    targets = overload.targets(overloaded(load(1, 40), load(3, 40), load(10, 40)))

    assert verdicts(targets)[2:4] == ["not seen", "not seen"]


def test_a_server_that_answers_nothing_in_time_misses() -> None:
    found = overloaded(load(1, 0), load(3, 0), load(10, 0), recovery_s=None)

    assert verdicts(overload.targets(found)) == [
        *["missed", "missed", "not seen", "not seen", "met", "missed"]
    ]


def fair(**services: object) -> Fairness:
    fields: dict[str, object] = {
        "equal": [100.0, 102.0],
        "equal_difference_max": 700.0,
        "weighted": [300.0, 100.0],
        "ten": [10.0] * 10,
        "returning": [100.0, 100.0, 104.0],
        **services,
    }
    return Fairness(difference_bound=1000, rounds=[fairness.Round(**fields)])  # type: ignore[arg-type]


def test_fairness_is_met_within_its_tolerances() -> None:
    assert set(verdicts(fairness.targets(fair()))) == {"met"}


def test_each_unfairness_misses_its_own_target() -> None:
    cases: list[dict[str, object]] = [
        {"equal": [100.0, 104.0]},
        {"weighted": [100.0, 100.0]},
        {"ten": [10.0] * 9 + [20.0]},
        {"equal_difference_max": 1001.0},
        {"returning": [100.0, 100.0, 106.0]},
    ]
    for place, services in enumerate(cases):
        missed = [verdict == "missed" for verdict in verdicts(fairness.targets(fair(**services)))]
        assert missed == [number == place for number in range(5)]


def test_the_bound_is_that_of_a_full_window_or_of_its_cache_if_that_is_smaller() -> None:
    shapes = [(256, 32), (64, 64)]

    assert fairness.difference_bound(0, shapes) == 2 * 2 * demo.WINDOW_SEQS * 288
    assert fairness.difference_bound(1_000_000, shapes) == 2 * 2 * demo.WINDOW_SEQS * 288
    assert fairness.difference_bound(1000, shapes) == 2 * 2 * 1000
    assert fairness.difference_bound(100, shapes) == 2 * 256


def short(mean_ms: float, p99_ms: float) -> Latency:
    return Latency(
        requests=100,
        failed=0,
        mean_ms=mean_ms,
        p50_ms=mean_ms,
        p95_ms=p99_ms,
        p99_ms=p99_ms,
        max_ms=p99_ms,
    )


def test_priority_is_judged_by_the_idle_engine_or_50_ms() -> None:
    round_ = priority.Round(
        idle=short(10, 30),
        interactive=short(20, 59),
        critical=short(20, 61),
        full_interactive=short(900, 2000),
        full_critical=short(30, 80),
        batch_share=0.044,
        batch_alone_per_s=1000,
        batch_beside_per_s=50,
    )

    targets = priority.targets(Priority(rounds=[round_]))

    assert targets[0].limit == "<= 60"
    assert verdicts(targets) == ["met", "missed", "met", "missed", "met"]


def test_only_requests_that_came_among_the_others_are_compared() -> None:
    others = [request(10, 0.1), request(20, 0.1)]
    early, among, late = request(9, 1), request(15, 1), request(22, 1)

    assert priority.begun_among([early, among, late], others) == [among]


def test_latency_of_cut_requests_is_a_lower_bound() -> None:
    cut = Request(0, -1, 7, 0, prompt_tokens=1, output_tokens=0, is_cut=True)

    assert latency([cut, request(0, 0.1)]).max_ms == 7000
