from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from lithos_runner.launch.spec import LaunchSpec
from lithos_runner.plan.instance import Policy
from lithos_runner.supervisor.desired import Group, Port
from lithos_runner.supervisor.listeners import Listeners, ListenFailed, address, listen
from lithos_runner.supervisor.loop import Loop
from lithos_runner.supervisor.port_owner import port_owner

if TYPE_CHECKING:
    from collections.abc import Iterator


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def entry(port: int, host: str = "127.0.0.1", fd: int = 3, **changes: object) -> Port:
    return Port(port, fd, host, backlog=128, reuse_addr=True, non_block=False)._replace(**changes)


def group(process: str, *ports: Port) -> Group:
    launch = LaunchSpec(name="", executable="/bin/true")
    return Group("run", process, 1, launch, Policy(), 15, {}, ports, "")


class Opened:
    def __init__(self) -> None:
        self.loop = Loop()
        self.said: list[str] = []
        self.listeners = Listeners(self.loop, self.said.append)

    def turn(self) -> None:
        self.loop.deadline("turn", time.monotonic(), lambda: None)
        self.loop.turn()


@pytest.fixture
def opened() -> Iterator[Opened]:
    made = Opened()
    yield made
    made.listeners.close()
    made.loop.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0"])  # noqa: S104
def test_a_port_is_open_and_answers(opened: Opened, host: str) -> None:
    port = entry(free_port(), host)
    opened.listeners.open([group("web", port)])
    with socket.create_connection(("::1" if ":" in host else "127.0.0.1", port.port), timeout=5):
        ((target, descriptor),) = opened.listeners.descriptors([port]).items()
        assert target == 3
        with socket.socket(fileno=os.dup(descriptor)) as listener:
            listener.accept()[0].close()


def test_all_are_closed_in_the_end(opened: Opened) -> None:
    port = entry(free_port())
    opened.listeners.open([group("web", port)])
    opened.listeners.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port.port), timeout=5)


def test_two_groups_share_a_socket_and_have_it_at_their_own_numbers(opened: Opened) -> None:
    number = free_port()
    first, second = entry(number, fd=3), entry(number, fd=7)
    opened.listeners.open([group("a", first), group("b", second)])
    assert set(opened.listeners.descriptors([first, second])) == {3, 7}
    assert len(set(opened.listeners.descriptors([first, second]).values())) == 1


@pytest.mark.parametrize("set_", [True, False])
def test_options_reach_the_socket(set_: bool) -> None:
    with listen(entry(free_port(), reuse_addr=set_, non_block=set_)) as listener:
        assert bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) is set_
        assert bool(fcntl.fcntl(listener, fcntl.F_GETFL) & os.O_NONBLOCK) is set_
        assert not listener.get_inheritable()


def test_the_backlog_is_the_configurations() -> None:
    with listen(entry(free_port(), backlog=3)) as listener:
        # struct tcp_info has for a listener tcpi_sacked = the longest queue, linux/tcp.h
        information = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        assert int.from_bytes(information[28:32], "little") == 3


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port_names_its_owner(host: str) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        port = entry(taken.getsockname()[1], host)
        with pytest.raises(ListenFailed) as caught:
            listen(port)
        with open("/proc/self/comm") as file:
            name = file.read().strip()
        assert str(caught.value) == (
            f"cannot listen on {address(port)}: Address already in use by {name} (pid {os.getpid()}); "
            "stop it or take another port"
        )


def test_a_port_that_is_bound_without_listening_has_no_owner_to_name() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = entry(bound.getsockname()[1])
        with pytest.raises(ListenFailed, match=r"Address already in use; stop it or take another port$"):
            listen(port)


def test_an_address_of_another_host_is_explained() -> None:
    with pytest.raises(
        ListenFailed, match=r"192\.0\.2\.1:\d+: Cannot assign requested address; give `host` an address"
    ):
        listen(entry(free_port(), "192.0.2.1"))


def test_what_was_opened_before_a_failure_is_closed(opened: Opened) -> None:
    number = free_port()
    with pytest.raises(ListenFailed):
        opened.listeners.open([group("web", entry(number), entry(free_port(), "192.0.2.1"))])
    opened.listeners.close()
    socket.create_server(("127.0.0.1", number)).close()


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
def test_a_shut_down_socket_listens_again(opened: Opened, how: int) -> None:
    """shutdown(2) acts on the socket, not on one's own descriptor of it: one instance could stop all."""
    port = entry(free_port())
    opened.listeners.open([group("web", port)])
    ours = opened.listeners.descriptors([port])[3]
    with socket.socket(fileno=os.dup(ours)) as theirs:
        theirs.shutdown(how)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port.port), timeout=5)
        opened.turn()
        with socket.create_connection(("127.0.0.1", port.port), timeout=5):
            theirs.accept()[0].close()
    opened.turn()
    assert opened.said == [f"127.0.0.1:{port.port}: an instance shut the listening socket down; listening again"]


def test_who_shuts_it_down_again_and_again_is_undone_once_a_second(opened: Opened) -> None:
    port = entry(free_port())
    opened.listeners.open([group("web", port)])
    start = time.monotonic()
    with socket.socket(fileno=os.dup(opened.listeners.descriptors([port])[3])) as theirs:
        for _ in range(100):
            with suppress(OSError):  # it is shut down still
                theirs.shutdown(socket.SHUT_RD)
            opened.turn()
        assert len(opened.said) == 1
        while len(opened.said) < 2:
            opened.loop.turn()
    assert time.monotonic() - start >= 1


def test_a_socket_that_cannot_listen_again_is_left_alone(opened: Opened) -> None:
    """An application can even connect the listening socket to somebody."""
    port = entry(free_port())
    opened.listeners.open([group("web", port)])
    ours = opened.listeners.descriptors([port])[3]
    with socket.socket(fileno=os.dup(ours)) as theirs, socket.create_server(("127.0.0.1", 0)) as other:
        theirs.shutdown(socket.SHUT_RDWR)
        theirs.connect(other.getsockname())
        other.accept()[0].close()
        theirs.shutdown(socket.SHUT_RDWR)
        opened.turn()
    opened.turn()
    assert len(opened.said) == 1
    assert "cannot listen again: " in opened.said[0]


def test_addresses_are_written_as_people_do() -> None:
    assert address(entry(80)) == "127.0.0.1:80"
    assert address(entry(80, "::1")) == "[::1]:80"


def test_nobody_owns_a_free_port() -> None:
    assert port_owner(free_port()) is None
