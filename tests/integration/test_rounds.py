"""Started and killed, again and again: nothing piles up."""

import signal
import subprocess
import sys
from pathlib import Path

from infer_daemon.settings.state_folder import StateFolder

ROUNDS = 20


def test_twenty_rounds_of_start_and_kill_leave_nothing(root: Path, folder: StateFolder) -> None:
    command = [
        sys.executable, "-m", "infer_daemon", "serve", "--port", "0",
        "--config", str(root / "config/sim.toml"), "--state-dir", str(folder.root),
    ]  # fmt: skip
    for number in range(ROUNDS):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert any("door_open" in line for line in process.stdout)
            process.send_signal(signal.SIGKILL if number < ROUNDS - 1 else signal.SIGTERM)
            process.stdout.read()

    assert process.returncode == 0
    assert sorted(file.name for file in folder.root.iterdir()) == ["daemon.lock", "ledger.sqlite3"]
