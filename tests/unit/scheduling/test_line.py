"""The jobs of one tenant in one class."""

import pytest

from infer_daemon.domain.jobs import JobId
from infer_daemon.scheduling.line import Line
from tests.conftest import MakeJob


@pytest.fixture
def line() -> Line:
    """Nobody waits in it."""
    return Line()


def leave_in_order(line: Line) -> list[str]:
    order = []
    while line:
        order.append(line.first.job.id)
        line.leave(line.first.job.id)
    return [str(job_id) for job_id in order]


def test_earliest_due_goes_first_and_then_in_order_of_arrival(line: Line, job: MakeJob) -> None:
    for name, due_s in {"c": 5.0, "b": 2.0, "a": 5.0, "d": 2.0}.items():
        line.join(job(name, due_s=due_s), 1, 1.0)

    assert leave_in_order(line) == ["b", "d", "c", "a"]


def test_who_leaves_from_the_middle_is_not_met_again(line: Line, job: MakeJob) -> None:
    for name in "abc":
        line.join(job(name), 1, 1.0)
    line.leave(JobId("a"))
    line.leave(JobId("b"))

    assert len(line) == 1
    assert leave_in_order(line) == ["c"]


def test_who_comes_again_under_its_old_name_has_its_new_place(line: Line, job: MakeJob) -> None:
    line.join(job("a", due_s=1), 1, 1.0)
    line.join(job("b", due_s=2), 1, 1.0)
    line.leave(JobId("a"))
    line.join(job("a", due_s=3), 1, 1.0)

    assert leave_in_order(line) == ["b", "a"]


def test_the_cost_of_a_line_is_that_of_its_jobs(line: Line, job: MakeJob) -> None:
    for name in "abc":
        line.join(job(name), 1, 0.1)
    line.leave(JobId("b"))
    assert line.service == pytest.approx(0.2)

    leave_in_order(line)
    assert line.service == 0


def test_a_position_counts_those_before(line: Line, job: MakeJob) -> None:
    waiting = [line.join(job(name), 1, 1.0) for name in "abcd"]
    assert [line.position(each) for each in waiting] == [1, 2, 3, 4]

    line.leave(JobId("a"))
    assert [line.position(each) for each in waiting[1:]] == [1, 2, 3]


def test_a_position_is_one_of_the_line_whoever_left(line: Line, job: MakeJob) -> None:
    first = line.join(job("first", due_s=9), 1, 1.0)
    for n in range(5):
        line.join(job(f"j{n}"), 1, 1.0)
        line.leave(JobId(f"j{n}"))

    assert line.position(first) == 1


def test_those_who_left_do_not_pile_up(line: Line, job: MakeJob) -> None:
    for name, due_s in {"b": 2.0, "a": 1.0}.items():
        line.join(job(name, due_s=due_s), 1, 1.0)
    for n in range(1000):
        line.join(job(f"j{n}", due_s=n), 1, 1.0)
        line.leave(JobId(f"j{n}"))

    assert len(line._heap) < 100
    assert [each.id for each in line.jobs] == ["b", "a"]
    assert leave_in_order(line) == ["a", "b"]
