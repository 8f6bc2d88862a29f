"""What a decision costs: not how much, which is the machine's affair, but how it grows."""

from infer_daemon.bench.decision import decision_costs


def test_a_decision_costs_hardly_more_when_a_hundred_times_as_many_wait() -> None:
    few, many = decision_costs([100, 10_000], cycles=1000)

    assert (few.waiting, few.tenants) == (100, 100)
    assert (many.waiting, many.tenants) == (10_000, 1000)
    assert 0 < few.mean_us <= few.p99_us
    assert many.mean_us < 3 * few.mean_us
