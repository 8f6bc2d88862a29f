"""What writing down costs: not how much, which is the machine's affair, but what is in groups."""

from pathlib import Path

from infer_daemon.bench.ledger import LOADS, ledger_cost


def test_the_more_come_the_more_go_into_one_commit(tmp_path: Path) -> None:
    costs = {}
    for load in LOADS:
        (tmp_path / load).mkdir()
        costs[load] = ledger_cost(load, tmp_path / load, 0.3)
        print(costs[load])

    assert costs["idle"].commit_rows <= 2
    assert costs["full"].commit_rows > 4 * costs["idle"].commit_rows
    assert costs["full"].settles_s > costs["idle"].settles_s
    assert all(0 < cost.loop_us < 1000 for cost in costs.values())
