"""Words to the service manager, as sd_notify(3) has them. Without one, all of this does nothing."""

import os
import socket

WATCHDOG_SHARE = 0.5
"""Part of the manager's patience after which it is told; see sd_watchdog_enabled(3)."""


def tell(state: str) -> None:
    """Send an assignment such as `READY=1`. One that cannot be sent is lost: nothing here may stop
    a daemon that works."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            sender.connect("\0" + address[1:] if address.startswith("@") else address)
            sender.send(state.encode())
        except OSError:
            return


def watchdog_interval_s() -> float | None:
    """How often to say `WATCHDOG=1`, or None if nobody listens for it."""
    wanted_pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    patience_us = os.environ.get("WATCHDOG_USEC", "")
    if wanted_pid != str(os.getpid()) or not patience_us.isdigit() or int(patience_us) == 0:
        return None
    return int(patience_us) / 1e6 * WATCHDOG_SHARE


def inherited_sockets() -> list[socket.socket]:
    """Listening sockets that the manager opened for us (sd_listen_fds(3)); each is handed out once,
    and no child inherits them."""
    if os.environ.pop("LISTEN_PID", "") != str(os.getpid()):
        return []
    count = os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    found = []
    for fd in range(3, 3 + (int(count) if count.isdigit() else 0)):
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    return found
