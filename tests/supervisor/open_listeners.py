"""Listeners in a loop of their own, with real sockets on the loopback interface."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from lithos_runner.supervisor.desired import Port
from lithos_runner.supervisor.listeners import Listeners
from lithos_runner.supervisor.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PATIENCE = 60.0  # seconds; how long a busy machine may take for anything


def free_port(host: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def entry(port: int, host: str = "127.0.0.1", fd: int = 3, **changes: object) -> Port:
    return Port("tcp", fd, f"tcp-{port}", host, port, reuse_addr=True)._replace(**changes)


def datagrams(port: int, host: str = "127.0.0.1", fd: int = 3, **changes: object) -> Port:
    return Port("udp", fd, f"udp-{port}", host, port)._replace(**changes)


def connect(port: Port) -> socket.socket:
    family = socket.AF_UNIX if port.kind == "unix" else socket.AF_INET6 if ":" in port.host else socket.AF_INET
    client = socket.socket(family)
    client.settimeout(PATIENCE)
    try:
        client.connect(port.path if port.kind == "unix" else (port.host, port.port))
    except BaseException:
        client.close()
        raise
    return client


def accept_all(descriptor: int) -> list[socket.socket]:
    """Accept what waits at a descriptor of ours, as an instance with a duplicate of it would."""
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        accepted = []
        before = os.get_blocking(descriptor)
        listener.setblocking(False)
        try:
            while True:
                accepted.append(listener.accept()[0])
        except BlockingIOError:
            return accepted
        finally:
            os.set_blocking(descriptor, before)


class Opened:
    """Listeners, and what they have said."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.said: list[str] = []
        self.listeners = Listeners(self.loop, self.said.append)

    def open(self, *ports: Port) -> None:
        self.listeners.open(ports)

    def descriptor(self, port: Port, slot: str = "run/web.0") -> int:
        (ours,) = self.listeners.descriptors([port], slot).values()
        return ours

    def duplicate(self, port: Port, slot: str = "run/web.0") -> socket.socket:
        """What an instance has."""
        return socket.socket(fileno=os.dup(self.descriptor(port, slot)))

    def accept(self, port: Port, slots: Iterable[str]) -> dict[str, list[socket.socket]]:
        return {slot: accept_all(self.descriptor(port, slot)) for slot in slots}

    def spread(self, port: Port, slots: Iterable[str]) -> list[int]:
        """How many connections wait in each slot; they are accepted and closed."""
        found = self.accept(port, slots)
        for accepted in found.values():
            for one in accepted:
                one.close()
        return [len(accepted) for accepted in found.values()]

    def turn(self) -> None:
        self.loop.deadline("turn", time.monotonic(), lambda: None)
        self.loop.turn()


@pytest.fixture
def opened() -> Iterator[Opened]:
    made = Opened()
    yield made
    made.listeners.close()
    made.loop.close()
