"""Processes of an earlier run are known by the folder that they belong to."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infer_daemon.engines import leftovers

Sleeper = subprocess.Popen[bytes]


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[dict[str, Sleeper]]:
    """A process of this folder, one of another whose name begins like it, and one of nobody."""
    folders = {"ours": str(tmp_path), "another": f"{tmp_path}2", "nobody": None}
    started = {
        name: subprocess.Popen(
            [sys.executable, "-S", "-c", "print(flush=True); input()"],
            env={**os.environ, **({leftovers.STATE_DIR_ENV: folder} if folder else {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for name, folder in folders.items()
    }
    for process in started.values():
        assert process.stdout is not None
        process.stdout.readline()
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


def test_only_the_folders_own_processes_are_ended(
    tmp_path: Path, sleepers: dict[str, Sleeper]
) -> None:
    assert leftovers.end(tmp_path) == [sleepers["ours"].pid]
    assert sleepers["ours"].wait(5) == -9
    assert sleepers["another"].poll() is None
    assert sleepers["nobody"].poll() is None


def test_with_nothing_left_nothing_is_ended(tmp_path: Path) -> None:
    assert leftovers.end(tmp_path) == []
