"""The writer's thread: in order, in groups, and to the end."""

import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import count
from pathlib import Path
from threading import Event

import pytest

from infer_daemon.ledger.periods import HOUR_US
from infer_daemon.ledger.problems import LedgerFull, LedgerProblem
from infer_daemon.ledger.rows import Settlement
from infer_daemon.ledger.writer import BUSY_ROWS, GATHER_S, Writer
from tests.unit.ledger.sample import NOON_US, ask, assert_sums, opening, outcomes, settlement

WAIT_S = 20.0


def now(run: Callable[[], None]) -> None:
    """Tell on the writer's own thread."""
    run()


class Commits:
    """How many rows each commit had."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, rows: int, seconds: float) -> None:
        self.rows.append(rows)


@pytest.fixture
def commits() -> Commits:
    return Commits()


@pytest.fixture
def writer(tmp_path: Path, commits: Commits) -> Iterator[Writer]:
    writer = Writer(tmp_path, tell=now, on_commit=commits, retry_s=0.001)
    writer.start()
    yield writer
    writer.close(WAIT_S)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite3"


def settle(writer: Writer, row: Settlement) -> "Future[LedgerProblem | None]":
    future: Future[LedgerProblem | None] = Future()
    writer.settled(lambda: row, future.set_result)
    return future


def test_who_was_told_finds_the_row(writer: Writer, path: Path) -> None:
    for number in range(50):
        writer.opened(partial(opening, f"{number}"))
        assert settle(writer, settlement(f"{number}")).result(WAIT_S) is None
        assert outcomes(path)[f"{number}"] == "ok"
    assert_sums(path)


def test_what_comes_in_during_a_commit_goes_into_the_next_one(
    writer: Writer, commits: Commits, path: Path
) -> None:
    begun, goes_on = Event(), Event()
    writer.run(lambda _: (begun.set(), goes_on.wait(WAIT_S)))
    begun.wait(WAIT_S)
    futures = [settle(writer, settlement(f"{number}")) for number in range(100)]
    goes_on.set()

    assert [future.result(WAIT_S) for future in futures] == [None] * 100
    assert commits.rows == [100]


def test_everybody_is_told_in_one_go(tmp_path: Path) -> None:
    told: list[Callable[[], None]] = []
    writer = Writer(tmp_path, tell=told.append)
    writer.start()
    begun, goes_on = Event(), Event()
    writer.run(lambda _: (begun.set(), goes_on.wait(WAIT_S)))
    begun.wait(WAIT_S)
    futures = [settle(writer, settlement(name)) for name in "abc"]
    goes_on.set()
    writer.close(WAIT_S)

    assert len(told) == 1
    told[0]()
    assert [future.result(0) for future in futures] == [None] * 3


def test_what_is_handed_over_in_one_turn_goes_into_one_commit(
    tmp_path: Path, commits: Commits
) -> None:
    turn: list[Callable[[], None]] = []
    writer = Writer(tmp_path, tell=now, soon=turn.append, on_commit=commits)
    writer.start()
    futures = [settle(writer, settlement(name)) for name in "abc"]
    assert len(turn) == 1
    turn[0]()
    assert [future.result(WAIT_S) for future in futures] == [None] * 3
    writer.close(WAIT_S)

    assert commits.rows == [3]


def test_while_many_come_they_are_gathered_for_a_moment(tmp_path: Path, commits: Commits) -> None:
    turn: list[Callable[[], None]] = []
    begun, goes_on = Future[float](), Event()

    def sleep(seconds: float) -> None:
        begun.set_result(seconds)
        goes_on.wait(WAIT_S)

    writer = Writer(tmp_path, tell=now, soon=turn.append, on_commit=commits, sleep=sleep)
    writer.start()
    first = [settle(writer, settlement(f"{number}")) for number in range(BUSY_ROWS)]
    turn.pop()()
    assert [future.result(WAIT_S) for future in first] == [None] * BUSY_ROWS
    assert begun.result(WAIT_S) == GATHER_S
    for name in "abc":
        settle(writer, settlement(name))
        turn.pop()()
    writer.seal()
    goes_on.set()
    writer.close(WAIT_S)

    assert commits.rows == [BUSY_ROWS, 3]


def test_nobody_waits_for_others_where_few_come(tmp_path: Path, commits: Commits) -> None:
    slept: list[float] = []
    writer = Writer(tmp_path, tell=now, on_commit=commits, sleep=slept.append)
    writer.start()
    for number in range(2 * BUSY_ROWS):
        assert settle(writer, settlement(f"{number}")).result(WAIT_S) is None
    writer.close(WAIT_S)

    assert commits.rows == [1] * 2 * BUSY_ROWS
    assert slept == []


def test_other_work_and_the_end_come_after_what_was_handed_over_before_in_the_same_turn(
    tmp_path: Path, path: Path
) -> None:
    writer = Writer(tmp_path, tell=now, soon=lambda send: None)
    writer.start()
    settle(writer, settlement("a"))
    assert writer.run(lambda _: outcomes(path)).result(WAIT_S) == {"a": "ok"}
    settle(writer, settlement("b"))
    writer.close(WAIT_S)

    assert outcomes(path) == {"a": "ok", "b": "ok"}


def test_a_row_that_cannot_be_made_is_no_harm_to_others(tmp_path: Path, path: Path) -> None:
    turn: list[Callable[[], None]] = []
    writer = Writer(tmp_path, tell=now, soon=turn.append)
    writer.start()
    told: Future[LedgerProblem | None] = Future()
    writer.settled(lambda: settlement(str(1 // 0)), told.set_result)
    other = settle(writer, settlement("b"))
    turn[0]()

    assert "by zero" in str(told.result(WAIT_S))
    assert other.result(WAIT_S) is None
    writer.close(WAIT_S)
    assert outcomes(path) == {"b": "ok"}


def test_one_callback_that_fails_is_no_harm_to_others(writer: Writer) -> None:
    def fail(problem: LedgerProblem | None) -> None:
        raise RuntimeError("the client is gone")

    writer.settled(partial(settlement, "a"), fail)

    assert settle(writer, settlement("b")).result(WAIT_S) is None


def test_closing_writes_down_everything_that_was_handed_over(writer: Writer, path: Path) -> None:
    for number in range(1000):
        writer.opened(partial(opening, f"{number}"))
        writer.settled(partial(settlement, f"{number}"), lambda problem: None)

    assert writer.close(WAIT_S) == 0
    assert writer.close(WAIT_S) == 0

    assert list(outcomes(path).values()) == ["ok"] * 1000
    assert_sums(path)


def test_a_ledger_that_cannot_be_opened_says_so_and_closes(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "nowhere", tell=now)

    with pytest.raises(LedgerProblem):
        writer.start()
    writer.close(WAIT_S)


def test_a_start_tells_how_many_requests_were_lost(writer: Writer, tmp_path: Path) -> None:
    writer.opened(partial(opening, "a"))
    writer.close(WAIT_S)

    again = Writer(tmp_path, tell=now)

    assert again.start().lost == 1
    again.close(WAIT_S)


def test_a_lock_that_is_let_go_is_found_out_by_itself(writer: Writer, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert settle(writer, settlement("a")).result(WAIT_S) is None
    assert writer.health.state == "spilling"
    assert writer.health.waiting == 1
    assert outcomes(path) == {}

    other.execute("ROLLBACK")
    other.close()
    for number in count():
        settle(writer, settlement(f"later-{number}")).result(WAIT_S)
        if writer.health.state == "ok":
            break

    assert outcomes(path)["a"] == "ok"


def test_closing_while_the_database_is_locked_leaves_rows_in_the_journal(
    writer: Writer, tmp_path: Path, path: Path
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer.settled(partial(settlement, "a"), lambda problem: None)

    assert writer.close(WAIT_S) == 0

    other.close()
    again = Writer(tmp_path, tell=now)
    assert again.start().replayed == 1
    again.close(WAIT_S)
    assert outcomes(path) == {"a": "ok"}


def test_when_too_many_rows_wait_no_request_may_open_but_all_may_settle(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infer_daemon.ledger.writer.WAITING_MAX", 3)
    goes_on = Event()
    writer.run(lambda _: goes_on.wait(WAIT_S))
    for number in range(3):
        writer.settled(partial(settlement, f"{number}"), lambda problem: None)

    with pytest.raises(LedgerFull):
        writer.opened(partial(opening, "a"))
    last = settle(writer, settlement("b"))
    goes_on.set()

    assert last.result(WAIT_S) is None


def test_pruning_goes_on_between_commits(writer: Writer, path: Path) -> None:
    for number in range(10):
        row = partial(settlement, f"{number}", accepted_at_us=NOON_US - number * HOUR_US)
        writer.settled(row, lambda problem: None)

    assert writer.prune(NOON_US - 4 * HOUR_US, 3).result(WAIT_S) == 3
    assert writer.prune(NOON_US - 4 * HOUR_US).result(WAIT_S) == 2
    assert len(outcomes(path)) == 5
    assert ask(path, "SELECT sum(requests) FROM hours") == [(10,)]


def test_work_that_fails_is_the_affair_of_whoever_wanted_it(writer: Writer) -> None:
    with pytest.raises(LedgerProblem, match="no such table"):
        writer.run(lambda it: it.connection.execute("SELECT * FROM nowhere")).result(WAIT_S)

    assert settle(writer, settlement("a")).result(WAIT_S) is None
    assert writer.health.state == "ok"
