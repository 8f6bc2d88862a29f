"""Commands that need no running daemon; the others are in `integration/test_cli.py`."""

import errno
import io
import sys
from pathlib import Path

import pytest

from infer_daemon import __version__
from infer_daemon.cli import main
from infer_daemon.settings.state_folder import StateFolder

Capture = pytest.CaptureFixture[str]


def test_version_prints_the_version(capsys: Capture) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["serve"], ["keys"]])
def test_a_command_that_is_not_whole_is_refused(argv: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "a b", "-x", "a" * 101, "\x1b[31m"])
def test_a_key_is_made_only_for_a_name_that_a_configuration_takes(
    name: str, capsys: Capture
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["keys", "new", "--", name])
    told = capsys.readouterr()

    assert caught.value.code == 2
    assert f"{name!r} is no name" in told.err
    assert told.out == ""


def test_check_shows_what_a_configuration_means(root: Path, capsys: Capture) -> None:
    assert main(["check", str(root / "config/sim.toml")]) == 0

    shown = capsys.readouterr().out
    for words in ("sim-a", "sim-b", "64 sequences", "acme", "api.sock", "is valid"):
        assert words in shown


def test_check_shows_the_window_and_not_what_the_engine_could_hold(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    path = tmp_path / "windows.toml"
    engine = '[engines.{0}]\nkind = "sim"\nmodel = "echo"\nmax_num_seqs = 64\nwindow.seqs = {1}\n'
    models = '[models.m]\nengines = ["small"]\n[models.n]\nengines = ["large"]\n'
    path.write_text(engine.format("small", 16) + engine.format("large", 64) + models)

    assert main(["check", str(path)]) == 0
    small, large = capsys.readouterr().out.splitlines()[-3:-1]
    assert "16 of 64 sequences" in small
    assert "64 sequences" in large
    assert "of" not in large


def test_check_lists_every_error_and_fails(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        'daemon.stat_dir = "x"\nlisten.port = "x"\n[engines.a]\nkind = "sim"\nmodel = "echo"\n'
        'devices = ["x"]\n[models.m]\nengines = ["a", "b"]'
    )

    assert main(["check", str(path)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"{path}: 4 problems",
        "  $.engines.a.devices[0]: expected int, got str",
        "  $.daemon.stat_dir: unknown key (did you mean state_dir?)",
        "  $.listen.port: expected int, got str (is 'x')",
        "  $.models.m.engines[1]: no engine 'b' (there is: a)",
    ]


def test_without_vllm_serve_says_how_to_get_it(
    root: Path, folder: StateFolder, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infer_daemon.plan.find_spec", lambda name: None)
    config = str(root / "config/demo.toml")

    assert main(["serve", "--config", config, "--state-dir", str(folder.root)]) == 2
    assert "vLLM is not installed (pip install" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["-1", "65536", "70000", "x"])
def test_serve_refuses_a_port_that_is_none(
    root: Path, folder: StateFolder, capsys: Capture, port: str
) -> None:
    """uvloop would take 70000 for 4464."""
    config = str(root / "config/sim.toml")
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--config", config, "--state-dir", str(folder.root), f"--port={port}"])
    assert caught.value.code == 2
    assert "--port" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["state", "models"])
def test_without_a_daemon_the_socket_that_was_tried_is_named(
    command: str, folder: StateFolder, capsys: Capture
) -> None:
    assert main([command, "--state-dir", str(folder.root)]) == 1
    assert f"no daemon answers at {folder.admin_socket}" in capsys.readouterr().err


class Full(io.StringIO):
    """A file on a disk with no room."""

    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_one_line_and_exit_1(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())

    assert main(["version"]) == 1
    assert capsys.readouterr().err == "cannot write: No space left on device\n"
