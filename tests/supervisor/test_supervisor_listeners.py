"""Sockets that all instances share: opened as configured, kept, changed while they live, made to listen again."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from open_listeners import Opened, accept_all, connect, datagrams, entry, free_port

from lithos_runner.supervisor.listeners import ListenFailed
from lithos_runner.supervisor.listeners.port_owner import port_owner
from lithos_runner.supervisor.listeners.sockets import open_socket

if TYPE_CHECKING:
    from lithos_runner.supervisor.desired import Port

ANY = "0.0.0.0"  # noqa: S104 - the point of a published port
REMEDY = "take every process that has it out of the configuration until its instances have ended, or take another port"


def answers(port: Port) -> bool:
    """Asked from both families of the loopback interface."""
    try:
        connect(port).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", ANY, "::"])
def test_a_port_is_open_and_answers(opened: Opened, host: str) -> None:
    port = entry(free_port(), host)
    opened.open(port)
    assert list(opened.listeners.descriptors([port], "run/web.0")) == [3]
    with connect(port):
        (accepted,) = accept_all(opened.descriptor(port))
        accepted.close()


@pytest.mark.parametrize("only", [False, True])
def test_whether_both_families_are_served_is_the_configurations_choice(opened: Opened, only: bool) -> None:
    port = entry(free_port(), "::", ipv6_only=only)
    opened.open(port)
    assert answers(port._replace(host="::1"))
    assert answers(port._replace(host="127.0.0.1")) is not only


def test_one_port_can_be_two_sockets_of_two_families(opened: Opened) -> None:
    six = entry(free_port(), "::", ipv6_only=True)
    opened.open(six, six._replace(host=ANY, ipv6_only=False, fd=4))
    with connect(six._replace(host="127.0.0.1")):
        assert [len(accept_all(fd)) for fd in opened.listeners.descriptors([six], "run/web.0").values()] == [0]


def test_datagrams_arrive_at_the_shared_socket(opened: Opened) -> None:
    port = datagrams(free_port(kind=socket.SOCK_DGRAM))
    opened.open(port)
    with socket.socket(type=socket.SOCK_DGRAM) as client, opened.duplicate(port) as theirs:
        client.sendto(b"hello", (port.host, port.port))
        assert theirs.recv(99) == b"hello"


def test_nobody_else_can_bind_a_udp_port_of_ours(opened: Opened) -> None:
    """With SO_REUSEADDR on both sides every user could, and would get the datagrams: socket(7)."""
    port = datagrams(free_port(kind=socket.SOCK_DGRAM))
    opened.open(port)
    with socket.socket(type=socket.SOCK_DGRAM) as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="Address already in use"):
            thief.bind((port.host, port.port))


def test_all_are_closed_in_the_end(opened: Opened) -> None:
    port = entry(free_port())
    opened.open(port)
    opened.listeners.close()
    assert not answers(port)


def test_process_groups_share_a_socket_and_have_it_at_their_own_numbers(opened: Opened) -> None:
    number = free_port()
    first, second = entry(number, fd=3), entry(number, fd=7, name="http")
    opened.open(first, second)
    assert opened.descriptor(first, "run/web.0") == opened.descriptor(second, "shop/api.5")
    assert set(opened.listeners.descriptors([first, second], "run/web.0")) == {3, 7}


@pytest.mark.parametrize("set_", [True, False])
def test_options_reach_the_socket(set_: bool) -> None:
    with open_socket(entry(free_port(), reuse_addr=set_, non_block=set_)) as listener:
        assert bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) is set_
        assert bool(fcntl.fcntl(listener, fcntl.F_GETFL) & os.O_NONBLOCK) is set_
        assert not listener.get_inheritable()


def backlog_of(listener: socket.socket) -> int:
    # struct tcp_info has for a listener tcpi_sacked = the longest queue, linux/tcp.h
    return int.from_bytes(listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[28:32], "little")


def test_the_backlog_is_the_configurations() -> None:
    with open_socket(entry(free_port(), backlog=3)) as listener:
        assert backlog_of(listener) == 3


# Kept and changed


def test_what_is_not_wanted_any_more_is_closed_and_nothing_else(opened: Opened) -> None:
    kept, dropped = entry(free_port()), entry(free_port())
    opened.open(kept, dropped)
    with connect(kept):
        assert opened.listeners.keep([kept]) == []
        assert len(accept_all(opened.descriptor(kept))) == 1
    assert not answers(dropped)
    opened.open(dropped)
    assert answers(dropped)


def test_options_change_on_the_living_socket_and_no_connection_is_lost(opened: Opened) -> None:
    port = entry(free_port())
    opened.open(port)
    with opened.duplicate(port) as theirs, connect(port):
        changed = port._replace(backlog=7, non_block=True, reuse_addr=False)
        assert opened.listeners.keep([changed]) == []
        assert backlog_of(theirs) == 7
        assert fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK
        assert not theirs.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert len(accept_all(theirs.fileno())) == 1


def test_what_an_application_sets_itself_stays_when_the_configuration_does(opened: Opened) -> None:
    port = entry(free_port())
    opened.open(port)
    with opened.duplicate(port) as theirs:
        theirs.setblocking(False)
        opened.listeners.keep([port, port])
        assert fcntl.fcntl(theirs, fcntl.F_GETFL) & os.O_NONBLOCK


def test_of_several_ports_with_one_address_the_first_ones_options_hold(opened: Opened) -> None:
    port = entry(free_port())
    opened.open(port)
    with opened.duplicate(port) as theirs:
        opened.listeners.keep([port._replace(backlog=5), port._replace(backlog=9)])
        assert backlog_of(theirs) == 5


@pytest.mark.parametrize(
    ("host", "change", "key"), [("127.0.0.1", "reuse_port", "reuse-port"), ("::", "ipv6_only", "ipv6-only")]
)
def test_what_needs_a_new_socket_is_said_and_not_done(opened: Opened, host: str, change: str, key: str) -> None:
    port = entry(free_port(), host)
    other = port._replace(**{change: True})
    opened.open(port)
    before = opened.descriptor(port)
    (sentence,) = opened.listeners.keep([other])
    assert sentence == (
        f"cannot change {key} of {port.address}, which is open with one socket for all instances: "
        f"that needs a new socket; {REMEDY}"
    )
    with pytest.raises(ListenFailed) as caught:
        opened.open(other)
    assert str(caught.value) == sentence
    assert (opened.descriptor(port), answers(port)) == (before, True)


@pytest.mark.parametrize(("host", "other"), [("127.0.0.1", ANY), (ANY, "127.0.0.1"), ("::1", "::")])
@pytest.mark.parametrize("reuse_port", [False, True])
def test_another_address_of_an_open_port_is_not_somebody_elses(
    opened: Opened, host: str, other: str, reuse_port: bool
) -> None:
    port = entry(free_port(), host)._replace(reuse_port=reuse_port)
    opened.open(port)
    overlapping = port._replace(host=other)
    with pytest.raises(ListenFailed) as caught:
        opened.open(overlapping)
    assert str(caught.value) == f"cannot listen on {overlapping.address} while {port.address} is open; {REMEDY}"
    opened.listeners.keep([])
    opened.open(overlapping)


# Refused


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_taken_port_names_its_owner(host: str) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        port = entry(taken.getsockname()[1], host)
        with pytest.raises(ListenFailed) as caught:
            open_socket(port)
        with open("/proc/self/comm") as file:
            name = file.read().strip()
        assert str(caught.value) == (
            f"cannot listen on {port.address}: Address already in use by {name} (pid {os.getpid()}); "
            "stop it or take another port"
        )


def test_a_taken_udp_port_names_its_owner() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = datagrams(taken.getsockname()[1])
        with pytest.raises(ListenFailed, match=rf"^cannot listen on udp 127.*\(pid {os.getpid()}\); stop it"):
            open_socket(port)


def test_a_port_that_is_bound_without_listening_has_no_owner_to_name() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = entry(bound.getsockname()[1])
        with pytest.raises(ListenFailed, match=r"Address already in use; stop it or take another port$"):
            open_socket(port)


def test_an_address_of_another_host_is_explained() -> None:
    with pytest.raises(
        ListenFailed, match=r"192\.0\.2\.1:\d+: Cannot assign requested address; give `host` an address"
    ):
        open_socket(entry(free_port(), "192.0.2.1"))


def test_a_failure_leaves_what_was_open_and_closes_what_it_opened(opened: Opened) -> None:
    before, first = entry(free_port()), entry(free_port())
    opened.open(before)
    with pytest.raises(ListenFailed):
        opened.open(before, first, first._replace(port=free_port(), reuse_port=True), entry(free_port(), "192.0.2.1"))
    assert (answers(before), answers(first)) == (True, False)
    opened.open(first)
    assert answers(first)


# Shut down by an instance


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
def test_a_shut_down_socket_listens_again(opened: Opened, how: int) -> None:
    """shutdown(2) acts on the socket, not on one's own descriptor of it: one instance could stop all."""
    port = entry(free_port())
    opened.open(port)
    with opened.duplicate(port) as theirs:
        theirs.shutdown(how)
        assert not answers(port)
        opened.turn()
        with connect(port):
            theirs.accept()[0].close()
    opened.turn()
    assert opened.said == [f"127.0.0.1:{port.port}: an instance shut the listening socket down; listening again"]


def test_who_shuts_it_down_again_and_again_is_undone_once_a_second(opened: Opened) -> None:
    port = entry(free_port())
    opened.open(port)
    start = time.monotonic()
    with opened.duplicate(port) as theirs:
        for _ in range(100):
            with suppress(OSError):  # it is shut down still
                theirs.shutdown(socket.SHUT_RD)
            opened.turn()
        assert len(opened.said) == 1
        while len(opened.said) < 2:
            opened.loop.turn()
    assert time.monotonic() - start >= 1


@pytest.mark.parametrize("host", ["127.0.0.1", ANY, "::"])
def test_a_socket_that_was_connected_to_somebody_listens_again(opened: Opened, host: str) -> None:
    port = entry(free_port(host), host)
    opened.open(port)
    with (
        opened.duplicate(port) as theirs,
        socket.create_server(("::1" if ":" in host else "127.0.0.1", 0), family=theirs.family) as other,
    ):
        theirs.shutdown(socket.SHUT_RDWR)
        theirs.connect(other.getsockname())
        other.accept()[0].close()
        theirs.shutdown(socket.SHUT_RDWR)
        opened.turn()
        with connect(port):
            theirs.accept()[0].close()
    assert opened.said[0].endswith("listening again")


def test_after_two_instances_have_shut_it_down_its_connections_work(opened: Opened) -> None:
    """The second shutdown(2) leaves a mark on the socket that every accepted connection inherits."""
    port = entry(free_port())
    opened.open(port)
    with opened.duplicate(port) as theirs:
        theirs.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):  # "not connected"
            theirs.shutdown(socket.SHUT_RDWR)
        opened.turn()
        with connect(port) as client, theirs.accept()[0] as served:
            served.sendall(b"ok")
            assert client.recv(9) == b"ok"


def test_a_socket_that_cannot_listen_again_is_left_alone(opened: Opened) -> None:
    port = entry(free_port())
    opened.open(port)
    with opened.duplicate(port) as theirs, socket.socket() as intruder:
        theirs.shutdown(socket.SHUT_RDWR)
        intruder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        intruder.bind((port.host, port.port))
        intruder.listen()
        opened.turn()
    opened.turn()
    assert len(opened.said) == 1
    assert "cannot listen again: [Errno 98] Address already in use" in opened.said[0]


def test_a_shared_udp_socket_that_was_shut_down_cannot_be_mended_and_that_is_said_once(opened: Opened) -> None:
    port = datagrams(free_port(kind=socket.SOCK_DGRAM))
    opened.open(port)
    with opened.duplicate(port) as theirs:
        with suppress(OSError):  # "not connected", and yet it is shut down
            theirs.shutdown(socket.SHUT_RDWR)
        opened.turn()
        opened.turn()
    assert len(opened.said) == 1
    assert opened.said[0].endswith("no way back for UDP; restart the supervisor, or use reuse-port")


def test_addresses_are_written_as_people_do() -> None:
    assert entry(80).address == "127.0.0.1:80"
    assert entry(80, "::1").address == "[::1]:80"
    assert datagrams(53).address == "udp 127.0.0.1:53"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_nobody_owns_a_free_port(protocol: str) -> None:
    kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}[protocol]
    assert port_owner(free_port(kind=kind), protocol) is None


def test_inodes_are_those_of_all_sockets(opened: Opened) -> None:
    port, other = entry(free_port()), datagrams(free_port(kind=socket.SOCK_DGRAM), fd=4)
    opened.open(port, other)
    expected = {os.fstat(opened.descriptor(each)).st_ino for each in (port, other)}
    assert opened.listeners.inodes([port, other], "run/web.0") == expected
