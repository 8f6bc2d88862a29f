"""The daemon is killed at any moment: whatever was confirmed is there, once, and exact."""

import random
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

from infer_daemon.ledger.store import Store
from tests.unit.ledger.sample import ask

ROUNDS = 20
LINES_MAX = 1500
"""A victim lives until it has told of so many requests, or of fewer."""


def life(folder: Path, name: str, dice: random.Random) -> dict[str, int]:
    """Start a victim and kill it at some moment, with the database locked for a while in every
    other life. Returns what it was told: the tokens of each request."""
    victim = subprocess.Popen(
        [sys.executable, "-m", "tests.unit.ledger.victim", str(folder), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
    )
    assert victim.stdout is not None
    told: dict[str, int] = {}
    kill_at = dice.randrange(1, LINES_MAX)
    lock_at = dice.randrange(kill_at) if dice.random() < 0.5 else None
    free_at = dice.randrange(kill_at, 2 * kill_at) if lock_at is None else lock_at + kill_at // 3
    with closing(_other(folder)) as other:
        for number, line in enumerate(victim.stdout):
            _note(line, told)
            if number == lock_at:
                other.execute("BEGIN IMMEDIATE")
            if number == free_at and other.in_transaction:
                other.execute("ROLLBACK")
            if number == kill_at:
                threading.Timer(dice.random() / 100, victim.kill).start()
    victim.wait()
    victim.stdout.close()
    return told


def _other(folder: Path) -> sqlite3.Connection:
    path = folder / "ledger.sqlite3"
    return sqlite3.connect(path, isolation_level=None, timeout=5.0)


def _note(line: bytes, told: dict[str, int]) -> None:
    request_id, tokens = line.split()
    assert request_id.decode() not in told, "told twice"
    told[request_id.decode()] = int(tokens)


def test_nothing_that_was_confirmed_is_missing_double_or_off_by_one(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    dice = random.Random(seed)
    told: dict[str, int] = {}
    for number in range(ROUNDS):
        told |= life(tmp_path, f"{seed}-{number}", dice)

    store = Store(tmp_path, durability="process", clock=lambda: 0.0)
    store.open()
    store.close()

    path = tmp_path / "ledger.sqlite3"
    sql = "SELECT id, completion_tokens FROM requests WHERE outcome = 'ok'"
    settled = dict(ask(path, sql))
    assert len(told) > ROUNDS
    assert {id: settled.get(id) for id in told} == told
    ((lost,),) = ask(path, "SELECT count(*) FROM requests WHERE outcome = 'lost'")
    assert lost > 0
    assert ask(path, "SELECT count(*) FROM requests WHERE outcome = 'open'") == [(0,)]
    ((hours, tokens),) = ask(path, "SELECT sum(requests), sum(completion_tokens) FROM hours")
    assert (hours, tokens) == (len(settled) + lost, sum(settled.values()))
    assert ask(path, "SELECT sum(tokens) FROM spend WHERE period = 'day'") == [
        (sum(settled.values()) + 7 * len(settled),)
    ]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]
