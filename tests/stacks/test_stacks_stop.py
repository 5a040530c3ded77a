"""Each stack is told to stop while clients are in the middle of their requests: they are answered."""

from __future__ import annotations

import socket
from functools import partial
from typing import TYPE_CHECKING

import pytest
from real_host import PATIENCE, queued, until
from stack_site import PORT, is_seen

from lithos_runner.config import load_container
from lithos_runner.supervisor.readiness.listening import Wait

if TYPE_CHECKING:
    from catalogue import Stack
    from stack_site import Service

pytestmark = pytest.mark.timeout(400)  # the first test of a stack sets it up
WEB = "shop/web"
CLIENTS = 12
BEGINNING, END = b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"\r\n"


def is_told_to_stop(service: Service, *, drained: bool) -> bool:
    """Whether all instances are: they are out of the rotation, or have stopped waiting for connections themselves."""
    if drained:
        return "ready" not in service.running.states().values()
    return not any(is_seen(group, Wait.WAITING) for group in service.groups())


def answer(client: socket.socket) -> bytes:
    client.sendall(END)
    with client, client.makefile("rb") as stream:
        return stream.readline()


def test_requests_in_hand_are_answered(patient_service: Service, stack: Stack) -> None:
    clients = [socket.create_connection(("127.0.0.1", PORT), timeout=PATIENCE) for _ in range(CLIENTS)]
    for client in clients:
        client.sendall(BEGINNING)
    until(lambda: not queued(PORT), "all clients are accepted")
    patient_service.do("scale", WEB, "0", "--no-wait")
    (port,) = load_container(str(stack.container_file), {}).tcp_ports.values()
    until(partial(is_told_to_stop, patient_service, drained=port.reuse_port), "all instances are told to stop")

    assert {answer(client) for client in clients} == {b"HTTP/1.1 200 OK\r\n"}
    until(lambda: not patient_service.groups(), "all instances end")
