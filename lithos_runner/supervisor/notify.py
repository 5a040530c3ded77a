"""The supervisor's own side of sd_notify(3)."""

from __future__ import annotations

import os
import socket


def take_address() -> str | None:
    """Return where systemd listens and forget it, so that nothing we start can speak in our name."""
    for variable in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID", "WATCHDOG_USEC"):
        os.environ.pop(variable, None)
    return os.environ.pop("NOTIFY_SOCKET", None)


def notify(address: str | None, state: str) -> None:
    """Send ``state`` ("READY=1") to ``address``; silently nothing when there is none or nobody listens."""
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return
