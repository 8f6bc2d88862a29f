"""The short form of `scripts/chaos` on simulated engines: what needs no process of an engine to be
hurt. Real engines are in `tests/engine/test_chaos.py`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TIMEOUT_S = 120.0
SHORT = ("--kind", "sim", "--seconds", "0.3", "--clients", "2")


def chaos(root: Path, folder: Path, *words: str) -> dict[str, Any]:
    """Run a fault; what it found. All of it must hold, and nothing of it be left."""
    file = folder / "found.json"
    done = subprocess.run(
        [sys.executable, "-m", "infer_daemon.chaos", *words, *SHORT, "--json", file],
        cwd=root,
        env={"TMPDIR": str(folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in folder.iterdir()] == ["found.json"]
    (found,) = json.loads(file.read_text())["faults"].values()
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("fault", ["vanish", "drain", "kill-daemon", "clock"])
def test_a_daemon_bears_it(root: Path, short_dir: Path, fault: str) -> None:
    found = chaos(root, short_dir, fault)

    assert found["requests"] > 0
    assert found["failed"] == 0
