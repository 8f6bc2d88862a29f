"""The benches' arithmetic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infer_daemon.bench import figures
from infer_daemon.bench.crowd import Request, Sample, Told


def request(begun_s: float, first_s: float, ended_s: float, status: int = 200) -> Request:
    return Request(begun_s, first_s, ended_s, status, prompt_tokens=8, output_tokens=16)


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 2), (0.51, 3), (0.75, 3), (0.99, 4), (1.0, 4), (0.0, 1)]
)
def test_a_percentile_is_the_smallest_value_with_that_share_at_or_below(
    share: float, expected: float
) -> None:
    assert figures.percentile([3, 1, 4, 2], share) == expected


def test_the_99th_percentile_of_few_values_is_the_worst() -> None:
    assert figures.percentile(range(50), 0.99) == 49


def test_a_request_without_text_counts_with_as_long_as_it_waited() -> None:
    found = figures.latency([request(0, 1, 2), request(0, -1, 9, status=503)])

    assert (found.p50_ms, found.max_ms, found.failed) == (1000, 9000, 1)


def test_a_request_cut_short_by_the_bench_has_not_failed() -> None:
    cut = Request(0, -1, 9, 0, prompt_tokens=8, output_tokens=0, is_cut=True)

    assert figures.latency([cut]).failed == 0
    assert figures.latency([cut]).p50_ms == 9000


def test_of_no_requests_all_times_are_zero() -> None:
    assert figures.latency([]).p99_ms == 0


@pytest.mark.parametrize(
    ("when_s", "expected"), [(0, 0), (1, 0), (1.5, 5), (2, 10), (2.25, 15), (3, 30), (9, 30)]
)
def test_between_two_samples_is_what_lies_in_proportion(when_s: float, expected: float) -> None:
    assert figures.at([(1, 0), (2, 10), (3, 30)], when_s) == expected


def test_a_rate_is_taken_over_the_given_time_alone() -> None:
    assert figures.rate([(0, 0), (10, 1000), (20, 1000)], 5, 15) == 50


def test_service_weighs_output_twice() -> None:
    samples = [Sample(1.0, {"a": Told(0, 0, 0, 1)}), Sample(2.0, {"a": Told(10, 3, 1, 0)})]

    assert figures.service(samples, "a") == [(1.0, 0), (2.0, 16)]
    assert figures.output(samples, "a") == [(1.0, 0), (2.0, 3)]


def test_jains_index_is_one_for_equals_and_a_share_for_one_that_has_all() -> None:
    assert figures.jain([7.0] * 10) == pytest.approx(1)
    assert figures.jain([7.0, 0, 0, 0]) == pytest.approx(0.25)
    assert figures.jain([0.0, 0.0]) == 1


def test_the_windowed_difference_finds_the_worst_window_and_not_the_end() -> None:
    one = [(0, 0.0), (1, 10.0), (2, 10.0), (3, 20.0)]
    other = [(0, 0.0), (1, 0.0), (2, 15.0), (3, 20.0)]

    # From 1 to 2, one had nothing and the other 15, though they end level.
    assert figures.difference_max(one, other) == 15


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50)),
        min_size=1,
        max_size=12,
    )
)
def test_the_windowed_difference_is_that_of_all_windows_tried(steps: list[tuple[int, int]]) -> None:
    one, other = [(0.0, 0.0)], [(0.0, 0.0)]
    for number, (mine, theirs) in enumerate(steps, 1):
        one.append((number, one[-1][1] + mine))
        other.append((number, other[-1][1] + theirs))

    tried = max(
        abs((one[j][1] - one[i][1]) - (other[j][1] - other[i][1]))
        for i in range(len(one))
        for j in range(i, len(one))
    )

    assert figures.difference_max(one, other) == tried
