"""The command line of the benches; what they measure is in `integration/test_bench.py`."""

import subprocess
import sys

import pytest

from infer_daemon.bench.cli import BENCHES
from infer_daemon.cli import main

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nonsense"],
        ["isolation", "--runs", "0"],
        ["isolation", "--seconds", "0"],
        ["isolation", "--seconds", "nan"],
        ["isolation", "--seconds", "7200"],
        ["isolation", "--victim-requests", "-1"],
    ],
)
def test_a_bench_that_cannot_be_run_is_refused(argv: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", *argv])
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHES)
def test_every_bench_says_how_it_is_called(name: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["bench", name, "--help"])
    assert caught.value.code == 0
    assert "--runs" in capsys.readouterr().out


def test_the_command_line_loads_nothing_of_the_benches() -> None:
    program = (
        "import sys; from infer_daemon.cli import main; main(['version']);"
        "print(sorted(m for m in sys.modules if m.startswith('infer_daemon.bench')), "
        "'rich' in sys.modules)"
    )

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert shown.stdout.splitlines()[1:] == [
        "['infer_daemon.bench', 'infer_daemon.bench.cli'] False"
    ]
