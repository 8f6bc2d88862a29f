"""Openings, settlements, locks, broken journals and kills in any order: nothing lost or double."""

import sqlite3
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from infer_daemon.ledger.problems import LedgerProblem, SettledTwice
from infer_daemon.ledger.rows import Opening, Settlement
from infer_daemon.ledger.sql import database
from infer_daemon.ledger.store import Store, Told
from tests.unit.ledger.sample import ask, assert_sums, opening, outcomes, settlement

IDS = st.sampled_from([f"request-{number}" for number in range(12)])


class LedgerMachine(RuleBasedStateMachine):
    """A store, what its clients know, and somebody who breaks things."""

    def __init__(self) -> None:
        super().__init__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(database, "BUSY_S", 0.001)
        self._folder = tempfile.TemporaryDirectory()
        self.root = Path(self._folder.name)
        self.store = self._start()
        self.other = sqlite3.connect(self.store.path, isolation_level=None)
        self.told: dict[str, int] = {}
        """Prompt tokens of each request whose client was told that it is durable."""
        self.sent: dict[str, set[int]] = {}
        """What was ever said of a request."""
        self.number = 0
        self.lives = 1
        """No request outlives the daemon that took it."""

    def _start(self) -> Store:
        store = Store(self.root, durability="process", clock=lambda: 0.0)
        store.open()
        return store

    @property
    def is_locked(self) -> bool:
        return self.other.in_transaction

    @property
    def journal(self) -> Path:
        return self.root / "ledger.journal"

    def hear(self, told: Told) -> None:
        for done, problem in told:
            done(problem)

    @rule(ids=st.lists(IDS, min_size=1, max_size=5), settles=st.lists(st.booleans(), min_size=5))
    def write(self, ids: list[str], settles: list[bool]) -> None:
        rows: list[Opening | Settlement] = []
        for name, is_settled in zip(ids, settles, strict=False):
            request = f"{name}-{self.lives}"
            self.number += 1
            fields = {"prompt_tokens": self.number, "spent_tokens": self.number + 5}
            rows.append(settlement(request, **fields) if is_settled else opening(request))
            if is_settled:
                self.sent.setdefault(request, set()).add(self.number)
        self.hear(self.store.write([(row, self._done(row)) for row in rows]))

    def _done(self, row: Opening | Settlement):  # type: ignore[no-untyped-def]
        def done(problem: LedgerProblem | None) -> None:
            assert problem is None or isinstance(problem, SettledTwice)
            if isinstance(row, Settlement) and problem is None:
                self.told.setdefault(row.id, row.prompt_tokens)

        return done

    @precondition(lambda self: not self.is_locked)
    @rule()
    def lock(self) -> None:
        self.other.execute("BEGIN IMMEDIATE")

    @precondition(lambda self: self.is_locked)
    @rule()
    def free(self) -> None:
        self.other.execute("ROLLBACK")

    @precondition(lambda self: not self.journal.exists())
    @rule()
    def break_journal(self) -> None:
        self.journal.mkdir()

    @precondition(lambda self: self.journal.is_dir())
    @rule()
    def mend_journal(self) -> None:
        self.journal.rmdir()

    @rule()
    def retry(self) -> None:
        self.hear(self.store.retry())
        assert (self.store.health.state == "ok") or self.is_locked

    @precondition(lambda self: not self.is_locked and not self.journal.is_dir())
    @rule()
    def kill_and_start(self) -> None:
        self.store = self._start()
        self.lives += 1
        found = outcomes(self.store.path)
        assert "open" not in found.values()
        self.check()
        for request, outcome in found.items():  # what nobody was told of may be there all the same
            if outcome == "ok":
                ((tokens,),) = ask(
                    self.store.path, "SELECT prompt_tokens FROM requests WHERE id = ?", request
                )
                assert tokens in self.sent[request]
                self.told[request] = tokens

    def check(self) -> None:
        sql = "SELECT id, prompt_tokens FROM requests WHERE outcome = 'ok'"
        settled = dict(ask(self.store.path, sql))
        assert {request: settled.get(request) for request in self.told} == self.told
        assert_sums(self.store.path)

    def teardown(self) -> None:
        if self.is_locked:
            self.other.execute("ROLLBACK")
        if self.journal.is_dir():
            self.journal.rmdir()
        self.hear(self.store.retry())
        self.check()
        self.other.close()
        self.store.close()
        self._folder.cleanup()
        self._patch.undo()


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
