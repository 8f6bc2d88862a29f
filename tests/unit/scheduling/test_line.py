"""The jobs of one tenant in one class."""

from math import inf

import pytest

from infer_daemon.scheduling.line import Line
from tests.conftest import MakeJob


@pytest.fixture
def line() -> Line:
    """Nobody waits in it."""
    return Line()


def leave_in_order(line: Line) -> list[str]:
    order = []
    while line:
        order.append(str(line.first.job.id))
        line.leave(line.first)
    return order


def test_earliest_due_goes_first_and_then_in_order_of_arrival(line: Line, job: MakeJob) -> None:
    for name, due_s in {"c": 5.0, "b": 2.0, "a": 5.0, "d": 2.0}.items():
        line.join(job(name, due_s=due_s), 1, 1.0, 0.0)

    assert [each.id for each in line.jobs] == ["b", "d", "c", "a"]
    assert leave_in_order(line) == ["b", "d", "c", "a"]


def test_who_leaves_from_the_middle_is_not_met_again(line: Line, job: MakeJob) -> None:
    a, b, _ = (line.join(job(name), 1, 1.0, 0.0) for name in "abc")
    line.leave(b)
    line.leave(a)

    assert len(line) == 1
    assert leave_in_order(line) == ["c"]


def test_who_comes_again_under_its_old_name_has_its_new_place(line: Line, job: MakeJob) -> None:
    first = line.join(job("a", due_s=1), 1, 1.0, 0.0)
    line.join(job("b", due_s=2), 1, 1.0, 0.0)
    line.leave(first)
    line.join(job("a", due_s=3), 1, 1.0, 0.0)

    assert leave_in_order(line) == ["b", "a"]


def test_the_cost_of_a_line_is_that_of_its_jobs(line: Line, job: MakeJob) -> None:
    _, b, _ = (line.join(job(name), 1, 0.1, 0.0) for name in "abc")
    line.leave(b)
    assert line.service == pytest.approx(0.2)

    leave_in_order(line)
    assert line.service == 0


def test_a_position_counts_those_before(line: Line, job: MakeJob) -> None:
    waiting = [line.join(job(name), 1, 1.0, 0.0) for name in "abcd"]
    assert [line.position(each) for each in waiting] == [1, 2, 3, 4]

    line.leave(waiting[0])
    assert [line.position(each) for each in waiting[1:]] == [1, 2, 3]


def test_a_position_counts_those_who_have_overtaken(line: Line, job: MakeJob) -> None:
    first = line.join(job("first", due_s=9), 1, 1.0, 0.0)
    hasty = [line.join(job(f"j{n}"), 1, 1.0, 0.0) for n in range(5)]
    assert line.position(first) == 6

    for each in hasty:
        line.leave(each)
    assert line.position(first) == 1


def test_what_is_due_later_costs_nobody_who_comes_before(line: Line, job: MakeJob) -> None:
    assert line.service_before(inf) == 0
    gone, *_ = (line.join(job(f"j{n}", due_s=n), 1, 10.0, 0.0) for n in range(5))
    line.leave(gone)

    assert [line.service_before(due_s) for due_s in (0.5, 1.0, 2.5, inf)] == [0, 10, 20, 40]


def test_those_who_left_do_not_pile_up(line: Line, job: MakeJob) -> None:
    for n in range(1000):
        line.join(job(f"j{n}", due_s=n), 1, 1.0, 0.0)
        if n > 10:
            line.leave(line.first)

    assert len(line) == 11
    assert len(line._order) <= 22
    assert leave_in_order(line) == [f"j{n}" for n in range(989, 1000)]
