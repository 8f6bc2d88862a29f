"""Where the door is: TCP and Unix sockets, ours or handed over by the service manager."""

import asyncio
import os
import shutil
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from aiohttp import web

from infer_daemon.api.door import Door
from infer_daemon.ledger.refusals import DoorRefusals
from infer_daemon.settings.schema import ListenSection

SHUTDOWN_GRACE_S = 0.5
"""For handlers that are still there when the daemon has drained, or was told not to."""
BACKLOG = 1024


class AddressInUse(Exception):
    """A listener cannot be opened; the message says where and why."""


class Runner(web.AppRunner):
    """An application behind any number of listeners, with the door's limits."""

    def __init__(self, app: web.Application, limits: ListenSection, refusals: DoorRefusals) -> None:
        # A client that goes away cancels its handler, and with it the work in the engine.
        super().__init__(
            app, handler_cancellation=True, handle_signals=False, shutdown_timeout=SHUTDOWN_GRACE_S
        )
        self._limits = limits
        self._refusals = refusals

    async def _make_server(self) -> web.Server:
        return Door(await super()._make_server(), self._limits, self._refusals)

    def tls_options(self, tls: ssl.SSLContext | None) -> dict[str, Any]:
        """For asyncio's `create_server`: who shakes hands too slowly is as slow as any sender."""
        if tls is None:
            return {}
        return {"ssl": tls, "ssl_handshake_timeout": self._limits.send_timeout_s}


class Site(web.BaseSite):
    """Listens in ways that the library's own sites do not know."""

    def __init__(
        self,
        runner: Runner,
        name: str,
        create: Callable[[web.Server], Awaitable[asyncio.AbstractServer]],
    ) -> None:
        super().__init__(runner, backlog=BACKLOG)
        self._name = name
        self._create = create

    @property
    def name(self) -> str:
        """See `web.BaseSite`."""
        return self._name

    async def start(self) -> None:
        """See `web.BaseSite`."""
        await super().start()
        server = self._runner.server
        assert server is not None, "the runner was set up"
        self._server = await self._create(server)


async def runner(app: web.Application, limits: ListenSection, refusals: DoorRefusals) -> Runner:
    """Prepare an application for any number of listeners."""
    app_runner = Runner(app, limits, refusals)
    await app_runner.setup()
    return app_runner


async def inherit(app_runner: Runner, inherited: socket.socket, tls: ssl.SSLContext | None) -> str:
    """Listen on a socket that the service manager opened. Returns how to log it."""
    inherited.setblocking(False)
    loop, name = asyncio.get_running_loop(), str(inherited.getsockname())
    create = partial(loop.create_unix_server, sock=inherited)
    if inherited.family != socket.AF_UNIX:
        options = app_runner.tls_options(tls)
        create = partial(loop.create_server, sock=inherited, backlog=BACKLOG, **options)
    await Site(app_runner, name, create).start()
    return name


def tls_context(certificate: str, key: str) -> ssl.SSLContext | None:
    """TLS for TCP listeners, None if no certificate is named.

    Raises:
        AddressInUse: the files cannot be used.
    """
    if not certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(Path(certificate).expanduser(), Path(key).expanduser())
    except (OSError, ssl.SSLError) as error:
        raise AddressInUse(f"TLS: {certificate} with {key}: {error}") from error
    return context


async def listen_tcp(
    app_runner: Runner, host: str, port: int, tls: ssl.SSLContext | None = None
) -> int:
    """Listen on TCP; port 0 takes a free one. Returns the port.

    Raises:
        AddressInUse: the port is taken, or is not ours to take.
    """
    loop = asyncio.get_running_loop()
    options = app_runner.tls_options(tls)
    create = partial(loop.create_server, host=host, port=port, backlog=BACKLOG, **options)
    site = Site(app_runner, f"{host}:{port}", create)
    try:
        await site.start()
    except OSError as error:
        # Names that are not found have numbers of their own, below zero.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror or str(error)
        raise AddressInUse(f"cannot listen on {host}:{port}: {reason}") from error
    server = site._server
    assert server is not None, "a started site has a server"
    bound: int = server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    return bound


async def listen_unix(app_runner: Runner, path: Path, mode: int, group: str = "") -> None:
    """Listen on a Unix socket. A file left by a dead process is replaced.

    Args:
        group: who besides the owner the mode's second digit is for; "" keeps our own.

    Raises:
        AddressInUse: a living process listens there, or the path holds something else.
    """
    _clear(path)
    # Born with the right mode: between a bind and a chmod anybody could connect.
    before = os.umask(0o777 & ~mode)
    try:
        await web.UnixSite(app_runner, path, backlog=BACKLOG).start()
        if group:
            shutil.chown(path, group=group)
    except (OSError, LookupError) as error:
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
