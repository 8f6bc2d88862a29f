"""What becomes of rows while the database, or the journal too, is in trouble: real trouble."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.types import EventDict

from infer_daemon.ledger.journal import Journal, line_of
from infer_daemon.ledger.problems import LedgerProblem, SettledTwice
from infer_daemon.ledger.rows import Row
from infer_daemon.ledger.store import Store, Told
from tests.unit.ledger.sample import assert_sums, opening, outcomes, settlement


class Crowd:
    """Clients that wait until their request is settled."""

    def __init__(self) -> None:
        self.told: list[tuple[str, LedgerProblem | None]] = []

    def entry(self, row: Row) -> tuple[Row, "object"]:
        return row, lambda problem: self.told.append((row.id, problem))

    def hear(self, told: Told) -> None:
        for done, problem in told:
            done(problem)


@pytest.fixture
def crowd() -> Crowd:
    return Crowd()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path, durability="process", clock=lambda: 5.0)
    store.open()
    yield store
    store.close()


def settle(store: Store, crowd: Crowd, *rows: Row) -> None:
    crowd.hear(store.write([crowd.entry(row) for row in rows]))  # type: ignore[misc]


def restarted(store: Store) -> Store:
    """The daemon after a kill: nothing was closed."""
    again = Store(store.path.parent, durability="process", clock=lambda: 6.0)
    again.open()
    return again


@pytest.fixture
def locker(store: Store) -> Iterator[sqlite3.Connection]:
    """Somebody else, who holds the database's lock."""
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


def test_rows_are_told_once_they_are_committed(store: Store, crowd: Crowd) -> None:
    settle(store, crowd, opening("a"), settlement("b"))

    assert outcomes(store.path) == {"a": "open", "b": "ok"}
    assert [id for id, _ in crowd.told] == ["a", "b"]
    assert store.health.state == "ok"
    assert store.waiting == 0


def test_a_second_settlement_is_told_counted_and_logged(
    store: Store, crowd: Crowd, log_lines: list[EventDict]
) -> None:
    settle(store, crowd, settlement("a"), settlement("a"))
    settle(store, crowd, settlement("b"), settlement("a", outcome="cancelled"))

    assert [id for id, problem in crowd.told if problem is None] == ["a", "b"]
    assert [type(p) for _, p in crowd.told if p is not None] == [SettledTwice] * 2
    assert store.settled_twice == 2
    assert [line["id"] for line in log_lines if line["event"] == "ledger_settled_twice"] == [
        "a"
    ] * 2
    assert_sums(store.path)


@pytest.mark.parametrize(
    "bad", [{"prompt_tokens": None}, {"compute_ns": 2**70}, {"code": "\ud800"}]
)
def test_a_row_that_no_table_takes_spoils_no_other(
    store: Store, crowd: Crowd, bad: dict[str, object]
) -> None:
    settle(store, crowd, settlement("a"), settlement("b", **bad), settlement("c"))

    assert outcomes(store.path) == {"a": "ok", "c": "ok"}
    assert [id for id, problem in crowd.told if problem is not None] == ["b"]
    assert store.refused == 1
    assert store.health.state == "ok"


def test_while_the_database_is_locked_rows_go_to_the_journal(
    store: Store, crowd: Crowd, locker: sqlite3.Connection
) -> None:
    settle(store, crowd, opening("a"), settlement("b"))
    settle(store, crowd, settlement("a"))

    assert crowd.told == [("a", None), ("b", None), ("a", None)]
    assert outcomes(store.path) == {}
    assert (store.health.state, store.health.since_s) == ("spilling", 5.0)
    assert "another program holds a lock" in store.health.why
    assert (store.waiting, store.held) == (3, 0)

    assert store.retry() == []
    assert store.health.state == "spilling"
    locker.execute("ROLLBACK")
    assert store.retry() == []

    assert store.health.state == "ok"
    assert store.waiting == 0
    assert outcomes(store.path) == {"a": "ok", "b": "ok"}
    assert_sums(store.path)


def test_a_full_disk_loses_nothing(store: Store, crowd: Crowd) -> None:
    def fill(number: int) -> list[Row]:
        return [settlement(f"{number}-{one}", metadata="x" * 300) for one in range(50)]

    store.run(lambda it: it.connection.execute("PRAGMA max_page_count = 80").fetchall())
    for number in range(20):
        settle(store, crowd, *fill(number))

    assert "the disk is full" in store.health.why
    assert [id for id, problem in crowd.told if problem is None] == [
        row.id for number in range(20) for row in fill(number)
    ]
    store.retry()  # opens it anew, without that limit
    assert store.health.state == "ok"
    assert len(outcomes(store.path)) == 1000
    assert_sums(store.path)


def test_a_database_that_may_only_be_read_spills(store: Store, crowd: Crowd) -> None:
    store.run(lambda it: it.connection.execute("PRAGMA query_only = ON").fetchall())

    settle(store, crowd, settlement("a"))

    assert "it cannot be written, only read" in store.health.why
    assert crowd.told == [("a", None)]


def test_a_database_that_is_written_over_spills_until_it_is_moved_away(
    store: Store, crowd: Crowd
) -> None:
    settle(store, crowd, settlement("before"))
    store.close()
    store.open()
    with store.path.open("r+b") as file:
        file.write(b"garbage" * 20_000)
        file.flush()
        os.fsync(file.fileno())
    store.run(lambda it: it.connection.execute("PRAGMA cache_size = 0").fetchall())

    settle(store, crowd, settlement("a"))
    store.retry()

    assert crowd.told[1:] == [("a", None)]
    assert store.health.state == "spilling"
    assert "move it away" in store.health.why
    for file_name in ("ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm"):
        store.path.with_name(file_name).unlink(missing_ok=True)
    store.retry()
    assert outcomes(store.path) == {"a": "ok"}


def test_a_database_that_is_removed_is_made_again(store: Store, crowd: Crowd) -> None:
    store.path.unlink()

    settle(store, crowd, settlement("a"))
    assert "removed or replaced" in store.health.why
    store.retry()

    assert outcomes(store.path) == {"a": "ok"}


def test_nothing_else_is_done_with_a_database_that_is_removed(store: Store) -> None:
    store.path.unlink()

    with pytest.raises(LedgerProblem, match="removed or replaced"):
        store.run(lambda it: it.spent(0))
    store.retry()

    assert store.run(lambda it: it.spent(0)) == []


def test_without_journal_rows_wait_in_memory_and_so_do_clients(
    store: Store, crowd: Crowd, locker: sqlite3.Connection
) -> None:
    journal = store.path.with_name("ledger.journal")
    journal.symlink_to("/dev/full")

    settle(store, crowd, opening("a"), settlement("a"))
    settle(store, crowd, settlement("b"))

    assert crowd.told == []
    assert store.health.state == "failing"
    assert "No space left" in store.health.why
    assert store.held == store.waiting == 3
    locker.execute("ROLLBACK")
    crowd.hear(store.retry())
    assert crowd.told == [("a", None), ("a", None), ("b", None)]
    assert outcomes(store.path) == {"a": "ok", "b": "ok"}
    assert store.health.state == "ok"


def test_a_journal_that_can_be_written_again_takes_what_waited_first(
    store: Store, crowd: Crowd, locker: sqlite3.Connection
) -> None:
    journal = store.path.with_name("ledger.journal")
    journal.mkdir()
    settle(store, crowd, opening("a"))
    assert store.health.state == "failing"

    journal.rmdir()
    settle(store, crowd, settlement("a"))

    assert store.health.state == "spilling"
    assert crowd.told == [("a", None), ("a", None)]
    assert store.held == 0
    locker.execute("ROLLBACK")
    assert outcomes(restarted(store).path) == {"a": "ok"}


def test_a_row_that_no_journal_takes_spoils_no_other(
    store: Store, crowd: Crowd, locker: sqlite3.Connection
) -> None:
    settle(store, crowd, settlement("a"), settlement("b", code="\ud800"))

    assert [(id, problem is None) for id, problem in crowd.told] == [("b", False), ("a", True)]
    assert store.waiting == 1


def test_a_start_takes_in_the_journal_before_it_gives_up_what_is_open(
    store: Store, crowd: Crowd, locker: sqlite3.Connection
) -> None:
    locker.execute("ROLLBACK")
    settle(store, crowd, opening("a"), opening("b"))
    locker.execute("BEGIN IMMEDIATE")
    settle(store, crowd, settlement("a"))
    locker.execute("ROLLBACK")

    again = Store(store.path.parent, durability="power", clock=lambda: 6.0)
    started = again.open()

    assert (started.lost, started.replayed) == (1, 1)
    assert outcomes(store.path) == {"a": "ok", "b": "lost"}
    assert not store.path.with_name("ledger.journal").exists()
    assert_sums(store.path)


def test_a_replay_that_is_killed_in_the_middle_is_done_again(store: Store, crowd: Crowd) -> None:
    journal = Journal(store.path.with_name("ledger.journal"), is_synced=False)
    rows = [settlement(f"{number}") for number in range(300)]
    journal.append([line_of(row) for row in rows])
    settle(store, crowd, *rows[:100])  # as far as it came

    restarted(store)

    assert len(outcomes(store.path)) == 300
    assert_sums(store.path)


def test_a_damaged_journal_is_taken_as_far_as_possible_and_kept(
    store: Store, log_lines: list[EventDict]
) -> None:
    path = store.path.with_name("ledger.journal")
    journal = Journal(path, is_synced=False)
    journal.append([line_of(settlement(name)) for name in ("a", "b", "c")])
    path.write_bytes(path.read_bytes().replace(b'"id":"b"', b'"id":"x"'))

    restarted(store)

    assert outcomes(store.path) == {"a": "ok", "c": "ok"}
    assert [line["lines"] for line in log_lines if line["event"] == "ledger_journal_damaged"] == [1]
    assert b'"id":"x"' in path.with_name("ledger.journal.damaged").read_bytes()


def test_closing_writes_down_what_still_waits(
    store: Store, crowd: Crowd, locker: sqlite3.Connection
) -> None:
    store.path.with_name("ledger.journal").mkdir()
    settle(store, crowd, settlement("a"))
    locker.execute("ROLLBACK")

    crowd.hear(store.close())

    assert crowd.told == [("a", None)]
    assert store.held == 0
    assert outcomes(store.path) == {"a": "ok"}


def test_other_work_is_refused_with_the_reason_while_the_database_is_out_of_use(
    store: Store, crowd: Crowd, locker: sqlite3.Connection
) -> None:
    settle(store, crowd, settlement("a"))

    with pytest.raises(LedgerProblem, match="holds a lock"):
        store.run(lambda it: it.prune(0, 1))


def test_rows_in_memory_outlive_a_database_that_opens_and_fails_again(
    store: Store, crowd: Crowd
) -> None:
    store.path.with_name("ledger.journal").mkdir()
    other = sqlite3.connect(store.path)
    other.execute("ALTER TABLE spend RENAME TO elsewhere")
    settle(store, crowd, settlement("a"))
    crowd.hear(store.retry())
    assert (store.health.state, store.held, crowd.told) == ("failing", 1, [])

    other.execute("ALTER TABLE elsewhere RENAME TO spend")
    other.close()
    crowd.hear(store.retry())

    assert crowd.told == [("a", None)]
    assert outcomes(store.path) == {"a": "ok"}
