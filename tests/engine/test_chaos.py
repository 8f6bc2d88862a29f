"""The short form of `scripts/chaos` on real engines: two replicas that are killed in turn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT

pytestmark = pytest.mark.vllm

TIMEOUT_S = 500.0
MUST_HOLD = {
    "requests",
    "blows",
    "failed requests",
    "work and reservations left",
    "processes more than before",
    "descriptors more than before",
    "processes left",
    "breaches in the ledger",
}
"""Whatever else runs on the machine. Times and memory are for `scripts/chaos`, on a quiet one."""


def test_replicas_that_are_killed_in_turn_cost_no_answer(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    words = ["kill-core", "--blows", "2", "--requests", "200", "--seconds", "2", "--json", file]
    done = subprocess.run(
        [sys.executable, "-m", "infer_daemon.chaos", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    (found,) = json.loads(file.read_text())["faults"].values()

    verdicts = {target["name"]: target["verdict"] for target in found["targets"]}
    assert {verdicts[name] for name in MUST_HOLD} == {"met"}, done.stdout + done.stderr
