"""The same with instances as they are: in namespaces, without privileges, behind the tiny init and the filter."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_host import SERVER, processes_in, until

import cgroup
from lithos_runner.supervisor.loop import Loop
from lithos_runner.supervisor.readiness import connections, listening
from lithos_runner.supervisor.readiness.notifications import Notifications

if TYPE_CHECKING:
    from collections.abc import Iterator

    from real_host import RealHost

ADDRESS = f"@lithos-test-instances-{os.getpid()}"

# Speaks when it has a client.
SPEAKER = """
import os, socket
client, _ = socket.socket(fileno=3).accept()
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.sendto(b"READY=1\\nSTATUS=" + os.environ["LITHOS_NAME"].encode(), "\\0" + os.environ["NOTIFY_SOCKET"][1:])
client.recv(1)
"""


@pytest.fixture
def heard() -> Iterator[tuple[Loop, list[tuple[str, dict[str, str]]]]]:
    loop, messages = Loop(), list[tuple[str, dict[str, str]]]()
    notifications = Notifications(ADDRESS, loop, lambda *message: messages.append(message))
    yield loop, messages
    notifications.close()
    loop.close()


def test_two_instances_wait_on_the_socket_that_they_share(real_host: RealHost) -> None:
    port = real_host.port()
    running = real_host.start(real_host.program(SERVER, port=port, instances=2))
    running.until_started()
    for index, group in enumerate(real_host.groups()):
        inode = os.stat(f"/proc/{running.app(index)}/fd/3").st_ino
        until(lambda group=group, inode=inode: listening.look(processes_in(group), {inode}).serving, "it waits")
        assert not listening.look([running.pid], {inode}).serving, "the supervisor only holds it"
    running.stop()


def test_an_instance_is_heard_as_its_cgroup_and_holds_its_connection(
    real_host: RealHost, heard: tuple[Loop, list[tuple[str, dict[str, str]]]]
) -> None:
    loop, messages = heard
    port = real_host.port()
    running = real_host.start(real_host.program(SPEAKER, port=port, instances=2, environ={"NOTIFY_SOCKET": ADDRESS}))
    running.until_started()
    with socket.create_connection(("127.0.0.1", port)):
        while not messages:
            loop.turn()
        [(path, message)] = messages
        assert message == {"READY": "1", "STATUS": "run/" + os.path.basename(path)}
        group = Path(cgroup.find().mount + path)
        assert group in real_host.groups()
        held = {one: connections.count(processes_in(one), {port}) for one in real_host.groups()}
        assert held == {one: int(one == group) for one in real_host.groups()}
        running.stop()
