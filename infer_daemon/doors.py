"""Every way in: the tenants' door on TCP and a Unix socket, and the operators' own."""

from pathlib import Path

import structlog

from infer_daemon import notify
from infer_daemon.api import admin, app, listeners
from infer_daemon.ledger.refusals import DoorRefusals
from infer_daemon.request_path import RequestPath
from infer_daemon.settings.schema import Settings
from infer_daemon.settings.state_folder import StateFolder
from infer_daemon.view import View

log = structlog.get_logger()

ANY_ADDRESS = ("", "0.0.0.0", "::")


class Doors:
    """The listeners of one daemon. Opened once, closed once."""

    def __init__(self, settings: Settings, folder: StateFolder, refusals: DoorRefusals) -> None:
        self._settings = settings
        self._folder = folder
        self._refusals = refusals
        self._runners: list[listeners.Runner] = []
        self._sockets: list[Path] = []
        """Files that are ours to remove; those of the service manager are not."""
        self.port = settings.listen.port
        """The TCP port: the free one that was found, where the settings say 0."""

    @property
    def url(self) -> str:
        """Where TCP clients on this machine find the API."""
        listen = self._settings.listen
        scheme = "https" if listen.tls_certificate else "http"
        host = "127.0.0.1" if listen.host in ANY_ADDRESS else listen.host
        return (
            f"{scheme}://[{host}]:{self.port}" if ":" in host else f"{scheme}://{host}:{self.port}"
        )

    async def open(self, path: RequestPath, view: View) -> None:
        """Listen everywhere.

        Raises:
            AddressInUse: a listener cannot be opened; none is.
        """
        try:
            await self._open_for_operators(view)
            await self._open_for_tenants(path, view)
        except BaseException:
            await self.close()
            raise

    async def _open_for_operators(self, view: View) -> None:
        listen, admins = self._settings.listen, self._settings.admin
        local = await self._runner(admin.build(view, self._refusals))
        await listeners.listen_unix(local, self._folder.admin_socket, 0o600)
        self._sockets.append(self._folder.admin_socket)
        if admins.port is not None:
            remote = await self._runner(admin.build(view, self._refusals, admins.key_hashes))
            tls = listeners.tls_context(listen.tls_certificate, listen.tls_key)
            await listeners.listen_tcp(remote, admins.host, admins.port, tls)

    async def _open_for_tenants(self, path: RequestPath, view: View) -> None:
        listen = self._settings.listen
        tls = listeners.tls_context(listen.tls_certificate, listen.tls_key)
        api = await self._runner(app.build(path, view, listen, self._refusals))
        if inherited := notify.inherited_sockets():
            for given in inherited:
                log.info("door_inherited", address=await listeners.inherit(api, given, tls))
            return
        socket = self._folder.api_socket(self._settings)
        if socket is not None:
            mode = int(listen.unix_socket_mode, 8)
            await listeners.listen_unix(api, socket, mode, listen.unix_socket_group)
            self._sockets.append(socket)
        self.port = await listeners.listen_tcp(api, listen.host, listen.port, tls)
        log.info("door_open", url=self.url, unix_socket=str(socket or ""))

    async def _runner(self, application: app.Application) -> listeners.Runner:
        runner = await listeners.runner(application, self._settings.listen, self._refusals)
        self._runners.append(runner)
        return runner

    async def close(self) -> None:
        """Listen no more, and take the socket files away. Idempotent."""
        while self._runners:
            await self._runners.pop().cleanup()
        while self._sockets:
            self._sockets.pop().unlink(missing_ok=True)
