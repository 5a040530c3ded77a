"""`reuse-port`: one connection reaches one slot, in rotation or not, and nobody else's does."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from open_listeners import PATIENCE, Opened, connect, entry, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lithos_runner.supervisor.desired import Port

SLOTS = [f"run/web.{index}" for index in range(4)]
# What is listened on, and where a connection comes from.
HOSTS = {"127.0.0.1": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::1": "::1", "::": "::1"}  # noqa: S104


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def address(opened: Opened, host: str = "127.0.0.1") -> Port:
    """Open an address with four slots; the first two are in rotation."""
    port = entry(free_port(host), host, reuse_port=True, backlog=4096)
    opened.open(port)
    for slot in SLOTS:
        opened.descriptor(port, slot)
    for slot in SLOTS[:2]:
        opened.listeners.enter_rotation([port], slot)
    return port


def bound(stack: ExitStack, host: str, number: int = 0) -> socket.socket:
    """A client whose address is known before it connects."""
    client = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
    client.settimeout(PATIENCE)
    client.bind((host, number))
    return client


def source(client: socket.socket) -> tuple[str, int]:
    host, number = client.getsockname()[:2]
    return host, number


def queues(opened: Opened, port: Port) -> list[int]:
    return [opened.listeners.queued([port], slot) for slot in SLOTS]


@pytest.mark.parametrize("host", HOSTS)
def test_the_exception_is_for_one_connection_and_for_nobody_else(opened: Opened, stack: ExitStack, host: str) -> None:
    port, near = address(opened, host), HOSTS[host]
    client = bound(stack, near)
    opened.listeners.add_exception(port, SLOTS[3], source(client))
    for _ in range(50):
        stack.enter_context(connect(port._replace(host=near)))
    assert queues(opened, port)[2:] == [0, 0]
    client.connect((near, port.port))
    for _ in range(50):
        stack.enter_context(connect(port._replace(host=near)))
    assert queues(opened, port)[2:] == [0, 1]
    assert sum(queues(opened, port)) == 101
    assert opened.said == []


def test_ipv4_clients_of_an_address_for_both_families_are_steered_as_ever(opened: Opened, stack: ExitStack) -> None:
    port = address(opened, "::")
    opened.listeners.add_exception(port, SLOTS[3], source(bound(stack, "::1")))
    for _ in range(50):
        stack.enter_context(connect(port._replace(host="127.0.0.1")))
    assert sum(queues(opened, port)[:2]) == 50


def test_the_same_port_at_another_address_is_no_exception(opened: Opened, stack: ExitStack) -> None:
    """Whoever has bound a port of one address has not bound it of all others."""
    port = address(opened, "0.0.0.0")  # noqa: S104
    client = bound(stack, "127.0.0.1")
    opened.listeners.add_exception(port, SLOTS[3], source(client))
    other = bound(stack, "127.0.0.2", source(client)[1])
    other.connect(("127.0.0.1", port.port))
    assert queues(opened, port)[3] == 0


def test_several_at_once_do_not_get_into_each_others_way(opened: Opened, stack: ExitStack) -> None:
    port = address(opened)
    clients = {slot: [bound(stack, "127.0.0.1") for _ in range(20)] for slot in SLOTS}
    for slot, theirs in clients.items():
        for client in theirs:
            opened.listeners.add_exception(port, slot, source(client))
    for theirs in zip(*clients.values(), strict=True):
        for client in theirs:
            client.connect((port.host, port.port))
    assert queues(opened, port) == [20] * 4


def test_when_it_has_been_removed_the_source_is_as_any_other(opened: Opened, stack: ExitStack) -> None:
    port = address(opened)
    clients = [bound(stack, "127.0.0.1") for _ in range(20)]
    for client in clients:
        opened.listeners.add_exception(port, SLOTS[3], source(client))
        opened.listeners.remove_exception(port, source(client))
        opened.listeners.remove_exception(port, source(client))
        client.connect((port.host, port.port))
    assert sum(queues(opened, port)[:2]) == 20


def test_it_outlives_changes_of_the_rotation(opened: Opened, stack: ExitStack) -> None:
    port = address(opened)
    clients = [bound(stack, "127.0.0.1") for _ in range(3)]
    for client in clients:
        opened.listeners.add_exception(port, SLOTS[3], source(client))
    opened.listeners.enter_rotation([port], SLOTS[2])
    clients[0].connect((port.host, port.port))
    opened.listeners.leave_rotation([port], SLOTS[0])
    clients[1].connect((port.host, port.port))
    opened.listeners.release([port], SLOTS[1])
    clients[2].connect((port.host, port.port))
    assert opened.listeners.queued([port], SLOTS[3]) == 3


def test_before_any_slot_is_in_rotation_each_can_be_reached(opened: Opened, stack: ExitStack) -> None:
    port = entry(free_port(), reuse_port=True)
    opened.open(port)
    for slot in SLOTS:
        client = bound(stack, "127.0.0.1")
        opened.descriptor(port, slot)
        opened.listeners.add_exception(port, slot, source(client))
        client.connect((port.host, port.port))
    assert queues(opened, port) == [1] * 4


def test_what_waits_for_a_slot_that_goes_is_given_to_the_others_even_if_it_was_an_exception(
    opened: Opened, stack: ExitStack
) -> None:
    """The kernel runs the program without a packet then: there is no source to look for."""
    port = address(opened)
    clients = [bound(stack, "127.0.0.1") for _ in range(20)]
    for client in clients:
        opened.listeners.add_exception(port, SLOTS[3], source(client))
        client.connect((port.host, port.port))
    assert queues(opened, port) == [0, 0, 0, 20]
    opened.listeners.release([port], SLOTS[3])
    first, second, *_ = queues(opened, port)
    assert first + second == 20
    assert first
    assert second


def test_where_it_cannot_be_made_all_is_as_before_and_that_is_said(opened: Opened, stack: ExitStack) -> None:
    port = address(opened)
    client = bound(stack, "127.0.0.1")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setresuid(65534, 65534, 65534)
            opened.listeners.add_exception(port, SLOTS[3], source(client))
            opened.listeners.remove_exception(port, source(client))
            said = (
                f"cannot steer connections of {port.address}: eBPF map: Operation not permitted; reuse-port needs root"
            )
            code = not opened.said[0].startswith(said)
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    client.connect((port.host, port.port))
    assert sum(queues(opened, port)[:2]) == 1


def test_a_shared_socket_has_no_use_for_it(opened: Opened, stack: ExitStack) -> None:
    port = entry(free_port())
    opened.open(port)
    client = bound(stack, "127.0.0.1")
    opened.listeners.add_exception(port, SLOTS[0], source(client))
    opened.listeners.remove_exception(port, source(client))
    client.connect((port.host, port.port))
    assert len(opened.accept(port, SLOTS[:1])[SLOTS[0]]) == 1
