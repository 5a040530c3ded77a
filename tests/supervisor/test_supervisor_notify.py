"""What a supervisor tells the service manager that has started it: sd_notify(3)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from real_host import RealHost


def test_the_service_manager_waits_as_long_as_the_slowest_instance_may_take(real_host: RealHost) -> None:
    """systemd kills a service after TimeoutStopSec; instances would survive a supervisor that is killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(60)
        manager.bind(str(real_host.directory / "notify"))
        file = real_host.container(executable="/bin/sleep", arguments=["1000"], kill_timeout=100, instances=2)
        running = real_host.start(file, environ={"NOTIFY_SOCKET": str(real_host.directory / "notify")})
        assert manager.recv(1000) == b"READY=1"
        running.stop()
        assert manager.recv(1000) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=130000000"
