"""A supervisor is killed; the next one takes the sockets back out of the instances that have survived."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import stat
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from open_listeners import PATIENCE, Opened, accept_all, connect, datagrams, entry, free_port

from lithos_runner.launch import kernel
from lithos_runner.supervisor.desired import Port
from lithos_runner.supervisor.listeners import ListenFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SLOTS = [f"run/web.{index}" for index in range(4)]
Killed = "Callable[..., dict[str, int]]"


def _instance(descriptors: dict[int, int]) -> int:
    """Start a process that has nothing but its sockets, at the numbers that it was promised, and 0 to 2."""
    arranged, done = os.pipe()
    pid = os.fork()
    if pid:
        os.close(done)
        assert os.read(arranged, 1) == b"."
        os.close(arranged)
        return pid
    for target, ours in {**descriptors, 99: done}.items():
        os.dup2(ours, 100 + target)
    os.closerange(3, 100)
    for target in descriptors:
        os.dup2(100 + target, target)
    os.write(199, b".")
    os.closerange(100, 200)
    signal.pause()
    os._exit(0)


def _supervise(
    ports: list[Port], slots: list[str], rotation: list[str], exceptions: dict[str, tuple[str, int]], report: int
) -> None:
    opened = Opened()
    opened.open(*ports)
    pids = {slot: _instance(opened.listeners.descriptors(ports, slot)) for slot in slots}
    for slot in rotation:
        opened.listeners.enter_rotation(ports, slot)
    for slot, source in exceptions.items():
        opened.listeners.add_exception(ports[0], slot, source)
    os.write(report, json.dumps(pids).encode() + b"\n")
    signal.pause()


@pytest.fixture
def killed() -> Iterator[Callable[..., dict[str, int]]]:
    """Let a supervisor open ports, start instances and make exceptions, and kill it; returns a pidfd for each slot."""
    with ExitStack() as stack:

        def run(
            ports: list[Port], slots: list[str], rotation: list[str], **exceptions: tuple[str, int]
        ) -> dict[str, int]:
            reader, writer = os.pipe()
            supervisor = os.fork()
            if supervisor == 0:
                try:
                    _supervise(ports, slots, rotation, exceptions, writer)
                finally:
                    os._exit(1)
            os.close(writer)
            with open(reader) as report:
                pids = json.loads(report.readline())
            survivors = {slot: os.pidfd_open(pid) for slot, pid in pids.items()}
            for pidfd in survivors.values():
                stack.callback(_end, pidfd)
            os.kill(supervisor, signal.SIGKILL)
            os.waitpid(supervisor, 0)
            return survivors

        yield run


def _end(pidfd: int) -> None:
    with suppress(ProcessLookupError):  # ended, and taken note of
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert select.select([pidfd], [], [], PATIENCE)[0]
    os.close(pidfd)


def taken(pidfd: int, fd: int) -> int:
    return kernel.perform(kernel.pidfd_getfd(pidfd, fd))


def adopt(opened: Opened, ports: list[Port], survivors: dict[str, int]) -> None:
    for slot, pidfd in survivors.items():
        for port in ports:
            assert opened.listeners.adopt(port, slot, taken(pidfd, port.fd))


def test_a_descriptor_of_another_process_is_the_same_socket(opened: Opened, killed: Killed) -> None:
    port = entry(free_port(), fd=5)
    survivors = killed([port], SLOTS[:1], [])
    with connect(port):
        adopt(opened, [port], survivors)
        assert len(accept_all(opened.descriptor(port))) == 1
        assert not os.get_inheritable(opened.descriptor(port))


def test_shared_sockets_of_every_kind_are_adopted_and_not_opened_again(
    opened: Opened, killed: Killed, tmp_path: Path
) -> None:
    number = free_port()
    ports = [
        entry(number),
        entry(number, "::1", fd=4),
        datagrams(free_port(kind=socket.SOCK_DGRAM), fd=5),
        Port("unix", 6, "app", path=str(tmp_path / "app.sock")),
    ]
    survivors = killed(ports, SLOTS[:2], [])
    with connect(ports[0]), connect(ports[3]):
        adopt(opened, ports, survivors)
        before = opened.listeners.descriptors(ports, SLOTS[0])
        opened.open(*ports)
        assert opened.listeners.descriptors(ports, SLOTS[1]) == before
        assert [len(accept_all(before[port.fd])) for port in (ports[0], ports[1], ports[3])] == [1, 0, 1]
    opened.listeners.close()
    assert not (tmp_path / "app.sock").exists()


def test_an_adopted_socket_is_watched_like_any_other(opened: Opened, killed: Killed) -> None:
    port = entry(free_port())
    survivors = killed([port], SLOTS[:1], [])
    adopt(opened, [port], survivors)
    with opened.duplicate(port) as theirs:
        theirs.shutdown(socket.SHUT_RD)
    opened.turn()
    assert opened.said[0].endswith("listening again")


def test_slots_are_adopted_with_their_queues_and_their_rotation(opened: Opened, killed: Killed) -> None:
    port = entry(free_port(), reuse_port=True, backlog=4096)
    survivors = killed([port], SLOTS, SLOTS[1:3])
    with ExitStack() as clients:
        for _ in range(100):
            clients.enter_context(connect(port))
        adopt(opened, [port], survivors)
        opened.open(port)
        for _ in range(100):
            clients.enter_context(connect(port))
        first, second, third, fourth = [opened.listeners.queued([port], slot) for slot in SLOTS]
        assert (first, fourth, second + third) == (0, 0, 200)
        opened.listeners.enter_rotation([port], SLOTS[3])
        for _ in range(10):
            clients.enter_context(connect(port))
        assert opened.listeners.queued([port], SLOTS[3]) == 10


@pytest.mark.parametrize("asks", [False, True])
def test_an_exception_ends_with_the_first_thing_that_the_next_supervisor_steers(
    opened: Opened, killed: Killed, asks: bool
) -> None:
    """Killed in the middle of a question; its successor has an instance that serves, or one that it asks anew."""
    port = entry(free_port(), reuse_port=True)
    with socket.socket() as before, socket.socket() as after:
        before.bind(("127.0.0.1", 0))
        after.bind(("127.0.0.1", 0))
        exceptions = {SLOTS[1]: before.getsockname(), SLOTS[2]: after.getsockname()}
        survivors = killed([port], SLOTS[:3], SLOTS[:1], **exceptions)
        before.connect((port.host, port.port))
        adopt(opened, [port], survivors)
        assert opened.listeners.queued([port], SLOTS[1]) == 1
        if asks:
            opened.listeners.add_exception(port, SLOTS[2], before.getsockname())
        else:
            opened.listeners.enter_rotation([port], SLOTS[0])
        after.connect((port.host, port.port))
        assert [opened.listeners.queued([port], slot) for slot in SLOTS[:3]] == [1, 1, 0]


def test_the_queue_of_a_slot_without_a_survivor_is_given_to_the_others(opened: Opened, killed: Killed) -> None:
    """Its socket was the killed supervisor's alone: the kernel closes it, and the connections go on."""
    port = entry(free_port(), reuse_port=True, backlog=4096)
    with ExitStack() as clients:
        survivors = killed([port], SLOTS, SLOTS)
        for _ in range(100):
            clients.enter_context(connect(port))
        adopt(opened, [port], {SLOTS[0]: survivors[SLOTS[0]]})
        for slot in SLOTS[1:]:
            signal.pidfd_send_signal(survivors[slot], signal.SIGKILL)
            assert select.select([survivors[slot]], [], [], PATIENCE)[0]
        assert opened.listeners.queued([port], SLOTS[0]) == 100


def test_a_new_slot_takes_no_position_of_a_survivor_that_comes_later(opened: Opened, killed: Killed) -> None:
    port = entry(free_port(), reuse_port=True)
    survivors = killed([port], SLOTS[:3], SLOTS[:3])
    adopt(opened, [port], {SLOTS[2]: survivors[SLOTS[2]]})
    opened.descriptor(port, SLOTS[3])
    adopt(opened, [port], {slot: survivors[slot] for slot in SLOTS[:2]})
    for slot in SLOTS:
        opened.listeners.enter_rotation([port], slot)
    with ExitStack() as clients:
        for _ in range(100):
            clients.enter_context(connect(port))
        assert all(opened.spread(port, SLOTS))


# Refused


def refused(opened: Opened, port: Port, descriptor: int, slot: str = SLOTS[0]) -> bool:
    """Whether it was refused and closed."""
    answer = opened.listeners.adopt(port, slot, descriptor)
    try:
        open_still = stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        open_still = False
    return not answer and not open_still


def test_what_is_no_socket_is_refused(opened: Opened) -> None:
    assert refused(opened, entry(free_port()), os.open("/dev/null", os.O_RDONLY))


def made(port: Port, **options: object) -> int:
    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(type=options.get("type", socket.SOCK_STREAM)))
        if options.get("reuse_port"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((str(options.get("host", port.host)), port.port))
        if options.get("listening", True) and sock.type == socket.SOCK_STREAM:
            sock.listen()
        if "owner" in options:
            os.fchown(sock.fileno(), int(str(options["owner"])), 0)
        return sock.detach()


@pytest.mark.parametrize(
    "options",
    [
        {"host": "127.0.0.2"},
        {"listening": False},
        {"type": socket.SOCK_DGRAM},
        {"reuse_port": True},
        {"owner": 65534},
    ],
    ids=str,
)
def test_another_socket_than_the_ports_is_refused(opened: Opened, options: dict[str, object]) -> None:
    """The application could have put anything at the number; a socket of its own belongs to its user."""
    port = entry(free_port())
    assert refused(opened, port, made(port, **options))
    right = made(port)
    assert opened.listeners.adopt(port, SLOTS[0], right)


def test_a_socket_that_is_not_listening_is_no_udp_port(opened: Opened) -> None:
    port = datagrams(free_port())
    assert refused(opened, port, made(port))
    assert opened.listeners.adopt(port, SLOTS[0], made(port, type=socket.SOCK_DGRAM))


def test_a_unix_socket_of_another_path_is_refused(opened: Opened, tmp_path: Path) -> None:
    port = Port("unix", 3, "app", path=str(tmp_path / "app.sock"))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other.sock"))
        other.listen()
        assert refused(opened, port, os.dup(other.fileno()))


@pytest.mark.parametrize("reuse_port", [False, True])
def test_a_second_socket_in_the_same_place_is_refused_and_the_same_one_again_is_not(
    opened: Opened, reuse_port: bool
) -> None:
    port = entry(free_port(), reuse_port=reuse_port)
    opened.open(port)
    again = os.dup(opened.descriptor(port, SLOTS[0]))
    if reuse_port:
        assert refused(opened, port, made(port, reuse_port=True))
    assert opened.listeners.adopt(port, SLOTS[0], again)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(again)


def test_an_address_that_a_survivor_has_cannot_be_opened_before_it_is_adopted(opened: Opened, killed: Killed) -> None:
    port = entry(free_port(), reuse_port=True)
    survivors = killed([port], SLOTS[:1], SLOTS[:1])
    with pytest.raises(ListenFailed, match="Address already in use"):
        opened.open(port)
    adopt(opened, [port], survivors)
    opened.open(port)
