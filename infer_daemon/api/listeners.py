"""Where the door is: TCP and Unix sockets."""

import os
import socket
import stat
from pathlib import Path

from aiohttp import web

SHUTDOWN_GRACE_S = 0.5
"""For handlers that are still there when the daemon has drained, or was told not to."""


Runner = web.AppRunner


class AddressInUse(Exception):
    """Somebody listens there already; the message says where."""


async def runner(app: web.Application) -> web.AppRunner:
    """Prepare an application for any number of listeners."""
    app_runner = web.AppRunner(
        app,
        # A client that goes away cancels its handler, and with it the work in the engine.
        handler_cancellation=True,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_GRACE_S,
    )
    await app_runner.setup()
    return app_runner


async def listen_tcp(app_runner: web.AppRunner, host: str, port: int) -> int:
    """Listen on TCP; port 0 takes a free one. Returns the port.

    Raises:
        AddressInUse: the port is taken, or is not ours to take.
    """
    site = web.TCPSite(app_runner, host, port)
    try:
        await site.start()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise AddressInUse(f"cannot listen on {host}:{port}: {reason}") from error
    server = site._server
    assert server is not None, "a started site has a server"
    bound: int = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    return bound


async def listen_unix(app_runner: web.AppRunner, path: Path, mode: int) -> None:
    """Listen on a Unix socket. A file left by a dead process is replaced.

    Raises:
        AddressInUse: a living process listens there, or the path holds something else.
    """
    _clear(path)
    # Born with the right mode: between a bind and a chmod anybody could connect.
    before = os.umask(0o777 & ~mode)
    try:
        await web.UnixSite(app_runner, path).start()
    except OSError as error:
        raise AddressInUse(f"cannot listen on {path}: {error}") from error
    finally:
        os.umask(before)


def _clear(path: Path) -> None:
    """Remove the socket file of a process that is gone."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise AddressInUse(f"{path} is there and is no socket")
    if _is_alive(path):
        raise AddressInUse(f"a process listens on {path}")
    path.unlink()


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True
