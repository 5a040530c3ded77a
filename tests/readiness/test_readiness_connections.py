"""How many connections an instance holds."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import STACKS
from real_host import PATIENCE, until

from lithos_runner.supervisor.readiness import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from programs import Program


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[int, Callable[[], tuple[socket.socket, socket.socket]]]]:
    """A port, and a way to connect to it that returns both ends."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with ExitStack() as stack, socket.create_server((request.param, 0), family=family) as listener:

        def connect() -> tuple[socket.socket, socket.socket]:
            client = stack.enter_context(socket.create_connection(listener.getsockname()[:2], timeout=PATIENCE))
            return client, stack.enter_context(listener.accept()[0])

        yield listener.getsockname()[1], connect


FIN_WAIT2 = 5  # linux/tcp_states.h
Pair = tuple[int, "Callable[[], tuple[socket.socket, socket.socket]]"]


def count(*ports: int) -> int | None:
    return connections.count([os.getpid()], ports)


def test_each_accepted_connection_counts_until_it_is_closed(pair: Pair) -> None:
    port, connect = pair
    assert count(port) == 0
    ends = [connect() for _ in range(3)]
    assert count(port) == 3
    for left, (_, server) in zip((2, 1, 0), ends, strict=True):
        server.close()
        assert count(port) == left


def test_many(pair: Pair) -> None:
    """More than one message of the kernel has room for."""
    port, connect = pair
    ends = [connect() for _ in range(400)]
    assert count(port) == len(ends)


def test_a_client_that_has_said_all_still_waits_for_its_answer(pair: Pair) -> None:
    port, connect = pair
    client, server = connect()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    assert count(port) == 1
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert count(port) == 0


def test_a_server_that_has_said_all_waits_for_its_client(pair: Pair) -> None:
    port, connect = pair
    client, server = connect()
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    until(lambda: server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == FIN_WAIT2, "that is acknowledged")
    assert count(port) == 1


def test_what_others_hold_or_nobody_has_accepted_does_not_count(program: Callable[..., Program]) -> None:
    started = program(sys.executable, str(STACKS / "plain.py"), "accept")
    started.until_held()
    with started.connect() as client, started.connect():
        assert connections.count(started.pids(), {started.port}) == 0
        started.let_go()
        client.recv(1)
        assert connections.count(started.pids(), {started.port}) == 1, "the other one is in the queue"
        assert count(started.port) == 0, "the ends that we hold are the clients'"
    until(lambda: connections.count(started.pids(), {started.port}) == 0, "it has seen that its clients are gone")


def test_several_ports_are_added_up(pair: Pair) -> None:
    port, connect = pair
    _client, _server = connect()
    with socket.create_server(("127.0.0.1", 0)) as other:
        second = other.getsockname()[1]
        with socket.create_connection(("127.0.0.1", second)), other.accept()[0]:
            assert (count(port), count(second), count(port, second)) == (1, 1, 2)


def test_processes_that_are_gone_hold_nothing(pair: Pair) -> None:
    port, connect = pair
    _client, _server = connect()
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert connections.count([gone.pid], {port}) == 0


def test_too_many_descriptors_may_be_connections(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    port, connect = pair
    monkeypatch.setattr(connections, "MOST_DESCRIPTORS", 2)
    assert count(port) == 0, "without any connection there is nothing to look for"
    _client, _server = connect()
    assert count(port) is None


def test_a_kernel_that_cannot_list_them_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown family is answered as any family is without the module."""
    monkeypatch.setattr(socket, "AF_INET", socket.AF_X25)
    with pytest.raises(
        OSError, match=r"cannot list TCP connections: .*; the kernel needs CONFIG_INET_TCP_DIAG"
    ) as error:
        count(1)
    assert error.value.errno == errno.ENOENT


# Who has accepted


def inode(end: socket.socket) -> int:
    return os.fstat(end.fileno()).st_ino


def test_the_other_end_is_found_by_both_addresses(pair: Pair) -> None:
    _, connect = pair
    ends = [connect() for _ in range(3)]
    for client, server in ends:
        assert connections.accepted_as(client) == inode(server)
        assert connections.accepted_as(server) == inode(client)
    client, server = ends[0]
    server.shutdown(socket.SHUT_WR)
    assert connections.accepted_as(client) == inode(server), "it has said all, and is there still"
    server.close()
    assert connections.accepted_as(client) is None


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_before_somebody_accepts_it_is_nobodys(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener, socket.socket(family) as client:
        assert connections.accepted_as(client) == 0, "there is none"
        client.connect(listener.getsockname())
        assert connections.accepted_as(client) == 0, "it is in the queue"


def test_when_the_other_end_has_been_forgotten_it_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)  # seconds, instead of tcp_fin_timeout's 60
        server.close()
        client_port = f":{client.getsockname()[1]:04X} "
        until(lambda: Path("/proc/net/tcp").read_text().count(client_port) == 1, "only our end is left")
        assert connections.accepted_as(client) is None, "the kernel tells of the listener"
        listener.close()
        assert connections.accepted_as(client) is None, "the kernel tells of nothing"


def test_a_listener_for_both_families_has_accepted_it() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, listener.getsockname()[1])) as client, listener.accept()[0] as server:
                assert connections.accepted_as(client) == inode(server)


def test_of_inodes_those_are_found_that_processes_hold(pair: Pair) -> None:
    _, connect = pair
    client, server = connect()
    assert connections.held([os.getpid()], {inode(client), inode(server), 1}) == {inode(client), inode(server)}
    assert connections.held([os.getppid()], {inode(server)}) == set()
