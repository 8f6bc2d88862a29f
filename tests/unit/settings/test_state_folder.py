"""One daemon for each state folder, and nothing of an earlier run in its way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infer_daemon.settings.state_folder import (
    SOCKET_PATH_BYTES_MAX,
    StateFolder,
    StateFolderError,
)
from tests.conftest import MakeSettings

SIM = '[engines.a]\nkind = "sim"\nmodel = "echo"\n[models.m]\nengines = ["a"]\n'


def mode(path: Path) -> int:
    """Permission bits."""
    return path.stat().st_mode & 0o777


def test_the_folder_is_made_for_its_owner_alone(folder: StateFolder) -> None:
    with folder.locked():
        assert mode(folder.root) == 0o700
        assert mode(folder.runtime) == 0o700
        assert mode(folder.root / "daemon.lock") == 0o600


def test_a_second_holder_is_refused_and_told_who_holds_it(folder: StateFolder) -> None:
    with folder.locked():
        keep = folder.runtime / "socket"
        keep.touch()
        why = rf"another daemon \(pid {os.getpid()}\)"
        with pytest.raises(StateFolderError, match=why), folder.locked():
            pass

        assert keep.exists()


def test_another_process_is_refused_too(folder: StateFolder, root: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from infer_daemon.settings.state_folder import StateFolder, StateFolderError\n"
        "try:\n"
        "    with StateFolder(pathlib.Path(sys.argv[1])).locked(): sys.exit(0)\n"
        "except StateFolderError: sys.exit(7)\n"
    )

    def attempt() -> int:
        command = [sys.executable, "-c", script, str(folder.root)]
        return subprocess.run(command, cwd=root, timeout=60, check=False).returncode

    with folder.locked():
        assert attempt() == 7
    assert attempt() == 0


def test_the_lock_is_free_again_after_a_failure(folder: StateFolder) -> None:
    with pytest.raises(RuntimeError, match="boom"), folder.locked():
        raise RuntimeError("boom")

    with folder.locked():
        pass


def test_what_an_earlier_run_left_is_removed_and_the_rest_is_kept(folder: StateFolder) -> None:
    (folder.runtime / "deep").mkdir(parents=True)
    (folder.runtime / "deep" / "socket").touch()
    (folder.root / "ledger.db").touch()

    with folder.locked():
        assert list(folder.runtime.iterdir()) == []
        assert (folder.root / "ledger.db").exists()
    assert not folder.runtime.exists()


@pytest.mark.parametrize(("extra", "is_fine"), [(0, True), (1, False)])
def test_a_path_too_long_for_the_sockets_in_it_is_refused(
    short_dir: Path, extra: int, is_fine: bool
) -> None:
    longest = SOCKET_PATH_BYTES_MAX - len("/run/") - 36
    name = "x" * (longest + extra - len(os.fsencode(short_dir)) - 1)
    folder = StateFolder(short_dir / name)
    if is_fine:
        with folder.locked():
            return
    with pytest.raises(StateFolderError, match=f"at most {longest} bytes"), folder.locked():
        pass


def test_a_folder_that_is_a_file_is_refused(short_dir: Path) -> None:
    (short_dir / "s").touch()

    folder = StateFolder(short_dir / "s")
    with pytest.raises(StateFolderError, match="File exists"), folder.locked():
        pass


def test_a_runtime_folder_that_cannot_be_made_is_told_like_any_other_problem(
    folder: StateFolder,
) -> None:
    folder.root.mkdir()
    folder.runtime.touch()

    with pytest.raises(StateFolderError, match="run: File exists"), folder.locked():
        pass


@pytest.mark.parametrize(
    ("unix_socket", "path"),
    [("api.sock", "/srv/id/api.sock"), ("/run/x.sock", "/run/x.sock"), ("", None)],
)
def test_the_api_socket_is_relative_to_the_folder(
    settings_of: MakeSettings, unix_socket: str, path: str | None
) -> None:
    text = f'daemon.state_dir = "/srv/id"\nlisten.unix_socket = "{unix_socket}"\n{SIM}'
    settings = settings_of(text)

    assert StateFolder.of(settings).api_socket(settings) == (Path(path) if path else None)


def test_a_home_directory_is_expanded(
    settings_of: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/op")

    assert StateFolder.of(settings_of(f'daemon.state_dir = "~/id"\n{SIM}')).root == Path(
        "/home/op/id"
    )
