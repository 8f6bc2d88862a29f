"""When the patience of those who wait ends."""

from infer_daemon.domain.jobs import JobId
from infer_daemon.scheduling.patience import Patience


def test_a_patience_ends_in_its_moment_and_not_before() -> None:
    patience = Patience()
    patience.begin(JobId("late"), 5.0)
    patience.begin(JobId("soon"), 2.0)

    patience.expire(1.9)
    assert (patience.over, patience.next_s) == (set(), 2.0)
    patience.expire(2.0)
    assert (patience.over, patience.next_s) == ({"soon"}, 5.0)


def test_whoever_waits_no_longer_is_forgotten() -> None:
    patience = Patience()
    for number in range(200):
        patience.begin(JobId(f"j{number}"), float(number))
        if number:
            patience.end(JobId(f"j{number - 1}"))
    patience.expire(199.0)

    assert patience.over == {"j199"}
    patience.end(JobId("j199"))
    patience.end(JobId("nobody"))
    assert (patience.over, patience.next_s) == (set(), None)
    patience.check(set())


def test_a_job_that_comes_again_begins_anew() -> None:
    patience = Patience()
    patience.begin(JobId("j"), 1.0)
    patience.end(JobId("j"))
    patience.begin(JobId("j"), 3.0)

    patience.expire(2.0)
    assert patience.over == set()
    assert patience.next_s == 3.0
