"""A disk that is really full: what runs is written down all the same, and nobody else comes in."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infer_daemon.ledger.reserve import RESERVE_BYTES, Reserve
from infer_daemon.ledger.store import RESERVE, Store
from tests.unit.ledger.sample import assert_sums, outcomes, settlement

DISK_BYTES = RESERVE_BYTES + 4 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small one of its own."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "small", str(tmp_path)]
    mounted = subprocess.run(command, check=False, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.fixture
def store(disk: Path) -> Iterator[Store]:
    store = Store(disk, durability="process", clock=lambda: 5.0)
    store.open()
    yield store
    store.close()


def fill(disk: Path) -> Path:
    """Somebody takes all that is left."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def settle(store: Store, number: int) -> list[str]:
    """Fifty requests end. Returns whose clients may be told."""
    told: list[str] = []
    rows = [settlement(f"{number}-{one}", metadata="x" * 300) for one in range(50)]
    entries = [(row, lambda _, id=row.id: told.append(id)) for row in rows]
    for done, problem in store.write(entries):
        done(problem)
    return told


def settle_until_it_is_full(store: Store) -> int:
    """Returns of how many requests the clients were told."""
    told = 0
    for number in range(100):
        told += len(settle(store, number))
        if store.health.state == "failing":
            return told
    raise AssertionError("the disk is not full")


def test_on_a_full_disk_the_rows_of_those_who_run_are_safe(store: Store, disk: Path) -> None:
    fill(disk)

    told = settle_until_it_is_full(store)
    told += len(settle(store, 100))

    assert told == len(outcomes(store.path)) + store.waiting
    assert told % 50 == 0
    assert (store.held, store.health.state) == (0, "failing")
    again = Store(disk, durability="process", clock=lambda: 6.0)  # after a kill
    (disk / "filler").unlink()
    assert again.open().replayed > 0
    assert len(outcomes(again.path)) == told
    assert_sums(again.path)
    again.close()


def test_it_is_not_back_before_there_is_room_for_the_next_time(store: Store, disk: Path) -> None:
    filler = fill(disk)
    told = settle_until_it_is_full(store)

    store.retry()
    assert store.health.state == "failing"
    filler.unlink()
    store.retry()

    assert store.health.state == "ok"
    assert (disk / RESERVE).stat().st_size == RESERVE_BYTES
    assert len(outcomes(store.path)) == told


def test_a_disk_that_has_no_such_room_goes_without(disk: Path) -> None:
    (disk / "filler").write_bytes(bytes(DISK_BYTES // 2))
    reserve = Reserve(disk / RESERVE)

    assert not reserve.hold()
    assert not reserve.give()
    assert (reserve.is_held, reserve.is_given) == (False, False)
    assert not (disk / RESERVE).exists()


def test_an_end_leaves_no_reserve(store: Store, disk: Path) -> None:
    assert (disk / RESERVE).exists()

    store.close()

    assert not (disk / RESERVE).exists()
