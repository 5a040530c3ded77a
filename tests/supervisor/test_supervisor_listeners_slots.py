"""`reuse-port`: a socket for every slot, steered by the kernel, without a lost connection."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import socket
import struct
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest
from open_listeners import PATIENCE, Opened, connect, datagrams, entry, free_port

from lithos_runner.supervisor.listeners import ListenFailed, steering

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lithos_runner.supervisor.desired import Port

SLOTS = [f"run/web.{index}" for index in range(4)]


@pytest.fixture
def port(opened: Opened) -> Port:
    """An address that is open."""
    made = entry(free_port(), reuse_port=True, backlog=4096)
    opened.open(made)
    return made


def in_rotation(opened: Opened, port: Port, *slots: str) -> None:
    for slot in slots:
        opened.listeners.descriptors([port], slot)
        opened.listeners.enter_rotation([port], slot)


def connections(port: Port, count: int) -> ExitStack:
    """Make connections; both ends are here, and systemd and shells allow 1024 descriptors (the soft limit)."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    stack = ExitStack()
    for _ in range(count):
        stack.enter_context(connect(port))
    return stack


def queues(opened: Opened, port: Port) -> list[int]:
    return [opened.listeners.queued([port], slot) for slot in SLOTS]


# Who gets a connection


def test_every_slot_has_a_socket_of_its_own(opened: Opened, port: Port) -> None:
    assert len({opened.descriptor(port, slot) for slot in SLOTS}) == len(SLOTS)
    assert [opened.descriptor(port, slot) for slot in SLOTS] == [opened.descriptor(port, slot) for slot in SLOTS]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
def test_connections_are_spread_evenly(opened: Opened, host: str) -> None:
    port = entry(free_port(host), host, reuse_port=True, backlog=4096)
    opened.open(port)
    in_rotation(opened, port, *SLOTS)
    with connections(port, 800):
        found = opened.spread(port, SLOTS)
    assert sum(found) == 800
    # Binomial with p = 1/4: mean 200, deviation 12.2; six deviations are passed once in 10^8 slots.
    assert all(abs(each - 200) <= 6 * 12.3 for each in found), found


def test_datagrams_of_one_client_stay_with_one_slot(opened: Opened) -> None:
    port = datagrams(free_port(kind=socket.SOCK_DGRAM), reuse_port=True)
    opened.open(port)
    in_rotation(opened, port, *SLOTS)
    with ExitStack() as stack:
        theirs = [stack.enter_context(opened.duplicate(port, slot)) for slot in SLOTS]
        used = set()
        for _ in range(64):
            client = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            for _ in range(3):
                client.sendto(b"x", (port.host, port.port))
            found = [_drained(each) for each in theirs]
            assert sorted(found) == [0, 0, 0, 3]
            used.add(found.index(3))
    assert used == {0, 1, 2, 3}  # that a slot gets none of 64 clients happens once in 10^7 times


def _drained(listener: socket.socket) -> int:
    count = 0
    with suppress(BlockingIOError):
        while listener.recv(9, socket.MSG_DONTWAIT):
            count += 1
    return count


def test_a_slot_gets_nothing_before_it_enters_and_after_it_leaves(opened: Opened, port: Port) -> None:
    in_rotation(opened, port, *SLOTS[:2])
    opened.descriptor(port, SLOTS[2])
    with connections(port, 100):
        assert opened.spread(port, SLOTS)[2:] == [0, 0]
    in_rotation(opened, port, SLOTS[2])
    opened.listeners.leave_rotation([port], SLOTS[0])
    with connections(port, 100):
        first, *others = opened.spread(port, SLOTS)
        assert first == 0
        assert sum(others) == 100
        assert all(others[:2])


def test_the_steering_survives_slots_in_any_order(opened: Opened, port: Port) -> None:
    """The kernel's own array of the group changes its order when a socket is closed; ours does not."""
    in_rotation(opened, port, *SLOTS)
    opened.listeners.release([port], SLOTS[0])
    opened.listeners.leave_rotation([port], SLOTS[2])
    with connections(port, 100):
        found = opened.spread(port, SLOTS[1:])
        assert found[1] == 0
        assert found[0] + found[2] == 100
        assert all((found[0], found[2]))


# Without a slot in rotation


def test_before_the_first_slot_connections_wait_for_it(opened: Opened, port: Port) -> None:
    with connections(port, 3):
        opened.descriptor(port, SLOTS[0])
        opened.descriptor(port, SLOTS[1])
        assert queues(opened, port) == [3, 0, 0, 0]


def test_when_the_last_slot_leaves_connections_wait_in_its_queue(opened: Opened, port: Port) -> None:
    in_rotation(opened, port, *SLOTS[:2])
    for slot in SLOTS[:2]:
        opened.listeners.leave_rotation([port], slot)
    with connections(port, 5):
        assert queues(opened, port) == [0, 5, 0, 0]
        in_rotation(opened, port, SLOTS[0])
        with connections(port, 5):
            assert queues(opened, port) == [5, 5, 0, 0]


def test_the_queue_of_a_crashed_slot_is_its_replacements(opened: Opened, port: Port) -> None:
    in_rotation(opened, port, *SLOTS[:2])
    with opened.duplicate(port, SLOTS[0]), connections(port, 40):
        waiting = queues(opened, port)
        opened.listeners.leave_rotation([port], SLOTS[0])
        assert queues(opened, port) == waiting
        assert len(opened.accept(port, SLOTS[:1])[SLOTS[0]]) == waiting[0] > 0


def test_at_the_end_nobody_new_is_let_in_and_nothing_that_waits_is_lost(opened: Opened, port: Port) -> None:
    """Not even when who has it closes its socket."""
    in_rotation(opened, port, *SLOTS)
    with connections(port, 100) as stack:
        before = queues(opened, port)
        opened.listeners.refuse()
        opened.listeners.leave_rotation([port], SLOTS[0])
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        assert queues(opened, port) == before
        opened.listeners.release([port], SLOTS[0])
        with pytest.raises(ConnectionRefusedError):
            connect(port)
        for accepted in opened.accept(port, SLOTS[1:]).values():
            for one in accepted:
                one.sendall(b"ok")
                one.close()
        assert [client.recv(9) for client in _clients(stack)] == [b"ok"] * 100
    assert before[0] > 0


def test_datagrams_are_refused_at_the_end_and_those_that_wait_stay(opened: Opened) -> None:
    port = datagrams(free_port(kind=socket.SOCK_DGRAM), reuse_port=True)
    opened.open(port)
    in_rotation(opened, port, SLOTS[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, opened.duplicate(port, SLOTS[0]) as listener:
        client.settimeout(PATIENCE)
        client.connect((port.host, port.port))
        client.send(b"before")
        opened.listeners.refuse()
        client.send(b"after")
        with pytest.raises(ConnectionRefusedError):
            client.recv(9)
        assert _drained(listener) == 1


# Scaled down


def test_what_waits_for_a_slot_that_goes_is_given_to_the_others(opened: Opened, port: Port) -> None:
    """Even though an application holds the socket still, and with net.ipv4.tcp_migrate_req off as on most hosts."""
    in_rotation(opened, port, *SLOTS)
    with opened.duplicate(port, SLOTS[1]), connections(port, 200) as stack:
        before = queues(opened, port)
        for slot in SLOTS[1:3]:
            opened.listeners.leave_rotation([port], slot)
        opened.listeners.release([port], SLOTS[1])
        opened.listeners.release([port], SLOTS[2])
        after = queues(opened, port)
        assert after[1:3] == [0, 0]
        assert sum(after) == sum(before) == 200
        assert after[3] > before[3]
        accepted = opened.accept(port, [SLOTS[0], SLOTS[3]])
        for one in (*accepted[SLOTS[0]], *accepted[SLOTS[3]]):
            one.sendall(b"ok")
            one.close()
        assert [client.recv(9) for client in _clients(stack)] == [b"ok"] * 200


def _clients(stack: ExitStack) -> list[socket.socket]:
    return [exit_.__self__ for _, exit_ in stack._exit_callbacks]  # type: ignore[attr-defined]


def test_who_is_released_in_rotation_is_taken_out_first(opened: Opened, port: Port) -> None:
    in_rotation(opened, port, *SLOTS[:2])
    with connections(port, 20):
        opened.listeners.release([port], SLOTS[0])
        with connections(port, 20):
            assert opened.listeners.queued([port], SLOTS[1]) == 40


def test_scaled_to_none_the_address_waits_for_the_next_slot(opened: Opened, port: Port) -> None:
    in_rotation(opened, port, *SLOTS[:2])
    with connections(port, 10):
        opened.listeners.release([port], SLOTS[0])
        opened.listeners.release([port], SLOTS[1])
        with connections(port, 10):
            opened.descriptor(port, SLOTS[3])
            assert queues(opened, port) == [0, 0, 0, 20]


def test_a_slot_that_was_never_opened_can_be_released_and_asked(opened: Opened, port: Port) -> None:
    opened.listeners.release([port], SLOTS[0])
    opened.listeners.leave_rotation([port], SLOTS[0])
    assert opened.listeners.queued([port], SLOTS[0]) == 0
    assert opened.said == []
    connect(port).close()


def test_an_address_that_is_not_wanted_any_more_is_closed_with_all_its_slots(opened: Opened, port: Port) -> None:
    in_rotation(opened, port, *SLOTS)
    opened.listeners.keep([])
    with pytest.raises(ConnectionRefusedError):
        connect(port)


# Under load


class Service:
    """An instance as a thread: answers every connection with its slot until it is told to stop."""

    def __init__(self, listener: socket.socket, slot: str) -> None:
        self._listener = listener
        self._slot = slot
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while self._stop not in select.select([self._listener, self._stop], [], [])[0]:
            client, _ = self._listener.accept()
            with client:
                client.sendall(self._slot.encode())

    def end(self) -> None:
        os.close(self._wake)
        self._thread.join(PATIENCE)
        os.close(self._stop)
        self._listener.close()


class Load:
    """Clients that connect again and again; ``failed`` holds every error, ``served`` who answered how often."""

    def __init__(self, port: Port, clients: int) -> None:
        self.failed: list[str] = []
        self.served: dict[str, int] = {}
        self._port = port
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                with connect(self._port) as client:
                    name = client.recv(99).decode()
            except OSError as error:
                self.failed.append(str(error))
                continue
            with self._lock:
                self.served[name] = self.served.get(name, 0) + 1

    def after(self, more: int) -> None:
        """Wait until so many more requests were answered."""
        aim = sum(self.served.values()) + more
        while sum(self.served.values()) < aim and not self.failed:
            self._ended.wait(0.001)

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(PATIENCE)


def test_no_connection_is_lost_while_slots_come_and_go(opened: Opened, port: Port) -> None:
    """Roll-outs as a storm: a slot leaves, its instance ends with a queue or without, it is released or replaced."""
    services: dict[str, Service] = {}

    def start(slot: str) -> None:
        services[slot] = Service(opened.duplicate(port, slot), slot)
        opened.listeners.enter_rotation([port], slot)

    for slot in SLOTS:
        start(slot)
    load = Load(port, clients=8)
    for turn in range(40):
        slot = SLOTS[turn % 4]
        opened.listeners.leave_rotation([port], slot)
        services[slot].end()  # at once, whatever waits for it
        if turn % 3:
            opened.listeners.release([port], slot)
        load.after(50)
        start(slot)
        load.after(50)
    load.end()
    for service in services.values():
        service.end()
    assert load.failed == []
    assert load.served.keys() == set(SLOTS)
    assert opened.said == []


# Options


def test_options_change_on_all_living_sockets(opened: Opened, port: Port) -> None:
    in_rotation(opened, port, *SLOTS[:2])
    with connections(port, 10):
        assert opened.listeners.keep([port._replace(non_block=True, backlog=9)]) == []
        assert [os.get_blocking(opened.descriptor(port, slot)) for slot in SLOTS] == [False] * 4  # new ones, too
        assert sum(queues(opened, port)) == 10


def test_every_slot_has_an_inode_for_readiness(opened: Opened, port: Port) -> None:
    found = [opened.listeners.inodes([port], slot) for slot in SLOTS]
    assert len(frozenset().union(*found)) == len(SLOTS)
    assert found[1] == {os.fstat(opened.descriptor(port, SLOTS[1])).st_ino}


def test_one_address_cannot_be_both_shared_and_by_slot(opened: Opened, port: Port) -> None:
    with pytest.raises(ListenFailed, match=r"cannot change reuse-port of .* one socket per instance"):
        opened.open(port._replace(reuse_port=False))


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_we_do_not_slip_into_a_group_of_somebody_elses(opened: Opened, kind: int) -> None:
    """Root's processes can all join: with SO_REUSEPORT the kernel compares nothing but the user."""
    with socket.socket(type=kind) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            other.listen()
        make = entry if kind == socket.SOCK_STREAM else datagrams
        with pytest.raises(ListenFailed, match=rf"Address already in use by .*\(pid {os.getpid()}\)"):
            opened.open(make(other.getsockname()[1], reuse_port=True))


def test_the_number_of_slots_is_bounded(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "POSITIONS", 2)
    port = entry(free_port(), reuse_port=True)
    opened.open(port)
    in_rotation(opened, port, *SLOTS[:2])
    with pytest.raises(ListenFailed) as caught:
        opened.descriptor(port, SLOTS[2])
    assert str(caught.value) == (
        f"cannot steer connections of {port.address}: there are 2 sockets already; "
        "instances without reuse-port share one socket"
    )
    connect(port).close()


# What applications may try


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_RDWR])
def test_a_slot_that_was_shut_down_is_back_in_rotation(opened: Opened, port: Port, how: int) -> None:
    """In between its connections go to the others, those in its queue included."""
    in_rotation(opened, port, *SLOTS[:2])
    with connections(port, 50), opened.duplicate(port, SLOTS[0]) as theirs:
        theirs.shutdown(how)
        with connections(port, 50):
            assert opened.listeners.queued([port], SLOTS[1]) == 100
            opened.turn()
            assert len(opened.said) == 1
            assert opened.said[0].endswith("listening again")
            with connections(port, 50):
                assert opened.listeners.queued([port], SLOTS[0]) > 0


def test_who_shuts_its_socket_down_and_listens_again_unseen_gets_nothing_until_it_enters(
    opened: Opened, port: Port
) -> None:
    in_rotation(opened, port, *SLOTS[:2])
    with opened.duplicate(port, SLOTS[0]) as theirs:
        theirs.shutdown(socket.SHUT_RD)
        theirs.listen()
        opened.turn()
    in_rotation(opened, port, SLOTS[0])
    with connections(port, 100):
        assert all(queues(opened, port)[:2])


@pytest.mark.parametrize("connected", [False, True])
def test_a_slot_that_ruins_its_socket_does_not_stop_the_rotation_of_others(
    opened: Opened, port: Port, connected: bool
) -> None:
    in_rotation(opened, port, *SLOTS[:2])
    with opened.duplicate(port, SLOTS[0]) as theirs, socket.create_server(("127.0.0.1", 0)) as other:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        theirs.shutdown(socket.SHUT_RDWR)
        if connected:
            theirs.connect(other.getsockname())
        in_rotation(opened, port, SLOTS[2])
        opened.listeners.leave_rotation([port], SLOTS[1])
        with connections(port, 100):
            assert queues(opened, port)[1] == 0
            assert queues(opened, port)[0] > 0
            assert sum(queues(opened, port)) == 100
    assert opened.said == []


def test_a_udp_socket_that_was_shut_down_is_exchanged_for_the_next_start(opened: Opened) -> None:
    port = datagrams(free_port(kind=socket.SOCK_DGRAM), reuse_port=True)
    opened.open(port)
    in_rotation(opened, port, SLOTS[0])
    with opened.duplicate(port, SLOTS[0]) as theirs:
        with suppress(OSError):  # "not connected", and yet it is shut down
            theirs.shutdown(socket.SHUT_RDWR)
        opened.turn()
    assert opened.said[0].endswith("instances that start from now on have a new one; restart the others")
    with socket.socket(type=socket.SOCK_DGRAM) as client, opened.duplicate(port, SLOTS[0]) as fresh:
        client.sendto(b"hello", (port.host, port.port))
        fresh.settimeout(PATIENCE)
        assert fresh.recv(9) == b"hello"


def test_a_program_that_an_application_attaches_lasts_until_the_next_change(
    opened: Opened, port: Port, forked: Callable[[Callable[[], object]], None]
) -> None:
    in_rotation(opened, port, *SLOTS[:2])
    theirs = opened.duplicate(port, SLOTS[0])

    def attach() -> None:
        os.setresuid(65534, 65534, 65534)
        always_0 = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # return 0
        theirs.setsockopt(socket.SOL_SOCKET, 51, struct.pack("HxxxxxxQ", 1, ctypes.addressof(always_0)))

    forked(attach)
    in_rotation(opened, port, SLOTS[2])
    opened.listeners.leave_rotation([port], SLOTS[0])
    with theirs, connections(port, 50):
        assert queues(opened, port)[0] == 0


def test_without_the_right_to_use_ebpf_the_refusal_is_explained(
    opened: Opened, forked: Callable[[Callable[[], object]], None]
) -> None:
    def attempt() -> None:
        os.setresuid(65534, 65534, 65534)
        with pytest.raises(ListenFailed, match=r"cannot steer connections of .*: eBPF map: .*; reuse-port needs root"):
            opened.open(entry(free_port(), reuse_port=True))

    forked(attempt)


@pytest.fixture
def forked() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Run something in a child that may lose its privileges; what it raises fails the test."""

    def run(act: Callable[[], object]) -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                act()
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0

    return run
