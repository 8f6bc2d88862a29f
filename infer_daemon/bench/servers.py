"""Starts a server in a session of its own and leaves nothing of it behind."""

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.1
LOG_LINES_SHOWN = 30
HOST = "127.0.0.1"
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ServerProblem(Exception):
    """A server did not start, or does not answer; the message holds the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start a server and how to see that it is ready."""

    name: str
    argv: list[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    port: int
    ready_path: str


@dataclass(slots=True)
class Server:
    """A running server."""

    launch: Launch
    process: subprocess.Popen[bytes]
    start_s: float = 0.0
    """From start to ready."""
    left_behind: list[str] = field(default_factory=list)
    """Its processes that had to be killed after it was told to stop; known when it has ended."""

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET; status 0 while nobody answers."""
        connection = http.client.HTTPConnection(HOST, self.launch.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except OSError:
            return 0, ""
        finally:
            connection.close()

    @property
    def memory_bytes(self) -> int:
        """Resident memory of its first process; of the daemon that is all but the engines."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def log_end(self) -> str:
        """The last lines that it wrote."""
        lines = self.launch.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LOG_LINES_SHOWN:])


@contextmanager
def running(launch: Launch) -> Iterator[Server]:
    """Within this block, a server that is ready.

    Raises:
        ServerProblem: it did not become ready.
    """
    started_s = time.monotonic()
    server = spawn(launch)
    try:
        _wait_ready(server, started_s + START_TIMEOUT_S)
        server.start_s = time.monotonic() - started_s
        yield server
    finally:
        end(server)


def spawn(launch: Launch) -> Server:
    """Start a server and do not wait for it; its log goes on where an earlier one's ended. *Must*
    be followed by `end`, from the same thread: with that one the server would end, too."""
    with launch.log.open("ab") as log:
        process = subprocess.Popen(
            launch.argv,
            env=launch.env,
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_the_parent,
        )
    return Server(launch, process)


def end(server: Server) -> None:
    """Have it stop, if it has not, and leave nothing of it; see `Server.left_behind`."""
    server.left_behind = _stop(server.process)


def _end_with_the_parent() -> None:
    """Runs in the server's process before its program: a bench that is killed takes it along."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(server: Server, deadline_s: float) -> None:
    while server.get(server.launch.ready_path)[0] != 200:
        code = server.process.poll()
        if code is not None:
            raise ServerProblem(f"{server.launch.name} ended with {code}:\n{server.log_end()}")
        if time.monotonic() > deadline_s:
            raise ServerProblem(f"{server.launch.name} is not ready:\n{server.log_end()}")
        time.sleep(POLL_S)


def _stop(process: subprocess.Popen[bytes]) -> list[str]:
    """Ask the server to stop, kill what is left of its session, and return what that was.

    Only the leader is asked: that it takes its engines down is its own job, and one that leaves
    them behind shall be seen.
    """
    session = process.pid
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while (process.poll() is None or members(session)) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    left = members(session)
    for line in left:
        with suppress(ProcessLookupError):
            os.kill(int(line.partition(" ")[0]), signal.SIGKILL)
    process.wait(STOP_TIMEOUT_S)
    deadline_s = time.monotonic() + STOP_TIMEOUT_S
    while members(session):
        if time.monotonic() > deadline_s:
            raise ServerProblem(f"killed and still there: {'; '.join(members(session))}")
        time.sleep(POLL_S)
    return left


def members(session: int) -> list[str]:
    """The command lines of a session, without those that only wait to be reaped. Not of a process
    group: engines have groups of their own."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # "pid (name) state parent group session ...", where the name may hold anything.
            state, _, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state not in "ZX":
                line = (folder / "cmdline").read_text().replace("\0", " ").strip()
                found.append(f"{folder.name} {line}"[:120])
        except OSError:
            continue  # it ended while we looked
    return found
