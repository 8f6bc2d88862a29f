"""Under a service manager: what it is told, and sockets that it hands over."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from infer_daemon.settings.state_folder import StateFolder

UNITS = Path(__file__).parents[2] / "systemd"
COMMAND = [sys.executable, "-m", "infer_daemon", "serve"]


def command(root: Path, folder: StateFolder) -> list[str]:
    return [*COMMAND, "--config", str(root / "config/sim.toml"), "--state-dir", str(folder.root)]


def test_the_manager_hears_ready_then_the_watchdog_then_stopping(
    root: Path, folder: StateFolder, short_dir: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(short_dir / "notify"))
        manager.settimeout(30)
        environ = {"NOTIFY_SOCKET": str(short_dir / "notify"), "WATCHDOG_USEC": "100000"}
        process = subprocess.Popen(
            [*command(root, folder), "--port", "0"],
            env={**os.environ, **environ},
            stdout=subprocess.DEVNULL,
        )
        heard = []
        while heard.count("WATCHDOG=1") < 3:
            heard += manager.recv(1000).decode().split("\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        while "STOPPING=1" not in heard:
            heard += manager.recv(1000).decode().split("\n")

    order = [word for word in heard if "STATUS" not in word]
    assert order[0] == "READY=1"
    assert set(order[1 : order.index("STOPPING=1")]) == {"WATCHDOG=1"}


def test_sockets_that_the_manager_opened_are_the_doors(
    root: Path, folder: StateFolder, short_dir: Path
) -> None:
    """As systemd does it: from descriptor 3 on, with our pid in the environment."""
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        unix = stack.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(short_dir / "door"))
        unix.listen()
        start = (
            "import os, sys\n"
            f"os.dup2({tcp.fileno()}, 100); os.dup2({unix.fileno()}, 101)\n"
            "os.dup2(100, 3); os.dup2(101, 4)\n"
            "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '2'}\n"
            "os.execv(sys.argv[1], sys.argv[1:])\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", start, *command(root, folder)],
            pass_fds=[tcp.fileno(), unix.fileno()],
            stdout=subprocess.DEVNULL,
        )
        # The kernel keeps those who come before the daemon accepts.
        url = f"http://127.0.0.1:{tcp.getsockname()[1]}/health"
        assert httpx2.get(url, timeout=30).text == "ok\n"
        transport = httpx2.HTTPTransport(uds=str(short_dir / "door"))
        with httpx2.Client(transport=transport, timeout=30) as client:
            assert client.get("http://daemon/health").text == "ok\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert (short_dir / "door").exists(), "the manager's socket is not ours to remove"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_the_units_are_valid_and_well_locked(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/infer-daemon/.venv/bin/infer-daemon", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    service = tmp_path / "infer-daemon.service"

    verified = subprocess.run(
        ["systemd-analyze", "verify", service, tmp_path / "infer-daemon.socket"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", service],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (verified.returncode, verified.stderr) == (0, "")
    (line,) = (line for line in rated.stdout.splitlines() if "Overall exposure" in line)
    assert float(line.split(":")[1].split()[0]) <= 3.0
