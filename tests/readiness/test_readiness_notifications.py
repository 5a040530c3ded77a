"""Notifications: who is heard, what is believed, and what cannot do any harm."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from real_host import PATIENCE, until

import cgroup
from lithos_runner.supervisor.loop import Loop
from lithos_runner.supervisor.readiness import notifications
from lithos_runner.supervisor.readiness.notifications import BATCH, LONGEST, SCM_MAX_FD, Notifications, Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADDRESS = f"@lithos-test-{os.getpid()}"
OWN = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))[3:]

Heard = list[tuple[str, dict[str, str]]]


class Receiver:
    """Notifications on a loop of their own."""

    def __init__(self, address: str) -> None:
        self.loop = Loop()
        self.heard: Heard = []
        self.notifications = Notifications(address, self.loop, lambda *message: self.heard.append(message))

    def turn(self) -> Heard:
        """Handle what is there, without waiting; return what was heard."""
        before = len(self.heard)
        self.loop.deadline("turn", time.monotonic(), lambda: None)
        self.loop.turn()
        return self.heard[before:]

    def wait(self) -> tuple[str, dict[str, str]]:
        """Turn the loop until something is heard."""
        late: list[bool] = []
        self.loop.deadline("late", time.monotonic() + PATIENCE, lambda: late.append(True))
        before = len(self.heard)
        while len(self.heard) == before and not late:
            self.loop.turn()
        return self.heard[before]

    def close(self) -> None:
        self.notifications.close()
        self.loop.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver(ADDRESS)
    yield made
    made.close()


@pytest.fixture
def sender() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.connect("\0" + ADDRESS[1:])
        yield made


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Run a Python text, or a command, that finds NOTIFY_SOCKET."""
    with ExitStack() as stack:

        def start(*command: str) -> subprocess.Popen[bytes]:
            arguments = command if len(command) > 1 else (sys.executable, "-c", *command)
            process = subprocess.Popen(arguments, stdin=subprocess.PIPE, env={**os.environ, "NOTIFY_SOCKET": ADDRESS})
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def groups() -> Iterator[list[cgroup.Group]]:
    """Two cgroups, as two instances have them."""
    with ExitStack() as stack:
        root = stack.enter_context(cgroup.Group.open(cgroup.find().mount))
        made = []
        for index in range(2):
            group = root.create(f"lithos-test-{os.getpid()}-{index}")
            stack.callback(group.remove)
            stack.callback(group.kill)
            made.append(group)
        yield made


# Sends READY=1 when it is told to, and lives until its standard input is closed.
SEND_READY = """
import os, socket, sys
sys.stdin.buffer.read(1)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.sendto(b"READY=1", "\\0" + os.environ["NOTIFY_SOCKET"][1:])
sys.stdin.buffer.read()
"""


def test_a_message_is_its_senders_cgroups(
    receiver: Receiver, groups: list[cgroup.Group], start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    senders = [start(SEND_READY) for _ in groups]
    for group, process in zip(groups, senders, strict=True):
        group.attach(process.pid)
    for group, process in reversed(list(zip(groups, senders, strict=True))):
        assert process.stdin
        process.stdin.write(b"x")
        process.stdin.flush()
        path, message = receiver.wait()
        assert (path, message) == ("/" + os.path.basename(group.path), {"READY": "1"})


def test_a_child_speaks_for_its_cgroup_as_well(
    receiver: Receiver, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """systemd-notify(1) is such a child, and waits with BARRIER=1 until it has been heard."""
    process = start("systemd-notify", "--ready", "--status=up and running")
    path, message = receiver.wait()
    # It says MAINPID of its parent, too, when that is not the service manager.
    assert (path, message["READY"], message["STATUS"]) == (OWN, "1", "up and running")
    until(lambda: receiver.turn() is not None and process.poll() is not None, "the barrier lets it go on")
    assert process.returncode == 0


def test_a_barrier_falls_when_all_before_it_is_heard(receiver: Receiver, sender: socket.socket) -> None:
    reader, writer = os.pipe()
    sender.send(b"STATUS=first")
    socket.send_fds(sender, [b"BARRIER=1"], [writer])
    os.close(writer)
    barrier = select.poll()
    barrier.register(reader, 0)
    assert barrier.poll(0) == []
    receiver.turn()
    assert barrier.poll(0) == [(reader, select.POLLHUP)]
    assert receiver.heard == [(OWN, {"STATUS": "first"}), (OWN, {"BARRIER": "1"})]
    os.close(reader)


def test_who_has_ended_is_not_heard(receiver: Receiver, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Nothing says any more where it was; its pid may be another's by now."""
    process = start(SEND_READY)
    process.communicate(b"x")
    assert process.returncode == 0
    assert receiver.turn() == []


def test_a_pid_that_is_anothers_by_now_is_not_believed() -> None:
    """A pid that lives, with the pidfd of a process that does not: it has been given away again."""
    gone = subprocess.Popen(["true"])
    old, new = os.pidfd_open(gone.pid), os.pidfd_open(os.getpid())
    gone.wait()
    assert notifications.cgroup_of(Sender(os.getpid(), new, ()), True) == OWN
    assert notifications.cgroup_of(Sender(os.getpid(), old, ()), True) is None
    assert notifications.cgroup_of(Sender(os.getpid(), None, ()), True) is None
    os.close(old)
    os.close(new)


def test_without_pidfds_the_pid_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As before Linux 6.5."""
    monkeypatch.setattr(notifications, "SO_PASSPIDFD", 9999)
    receiver = Receiver(ADDRESS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"READY=1", "\0" + ADDRESS[1:])
    assert receiver.turn() == [(OWN, {"READY": "1"})]
    receiver.close()


@pytest.mark.parametrize("text", [b"", b"\n", b"nonsense", b"READY=1\0", b"=1", b"x" * LONGEST, b"READY=1\n" * 1000])
def test_nonsense_is_not_heard(receiver: Receiver, sender: socket.socket, text: bytes) -> None:
    sender.send(text)
    sender.send(b"READY=1")
    assert receiver.turn() == [(OWN, {"READY": "1"})]


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("text", [b"FDSTORE=1", b"x" * (LONGEST + 1), b"\0"])
def test_every_descriptor_that_comes_along_is_closed(receiver: Receiver, sender: socket.socket, text: bytes) -> None:
    before = descriptors()
    reader, writer = os.pipe()
    socket.send_fds(sender, [text], [writer] * SCM_MAX_FD)
    os.close(writer)
    receiver.turn()
    os.close(reader)
    assert descriptors() == before


def test_as_many_descriptors_as_there_can_be_hide_nobody(receiver: Receiver, sender: socket.socket) -> None:
    with open("/dev/null") as null:
        socket.send_fds(sender, [b"READY=1"], [null.fileno()] * SCM_MAX_FD)
    assert receiver.turn() == [(OWN, {"READY": "1"})]


def test_the_last_copy_of_a_lingering_socket_holds_nobody_up(receiver: Receiver, sender: socket.socket) -> None:
    """SO_LINGER makes the last close(2) wait for a peer that does not read: an hour, if that were ours."""
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        peer, _ = listener.accept()
        client.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                client.send(b"x" * 100000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        socket.send_fds(sender, [b"FDSTORE=1"], [client.fileno()])
        client.close()
        # From here on the message in the queue has the last copy.
        assert receiver.turn() == [(OWN, {"FDSTORE": "1"})]
        peer.close()
    until(lambda: receiver.turn() == [] and descriptors() == before, "the child that had copies is reaped")


# Says that it is at work, and then what it is told to, without a pause.
FLOOD = """
import os, socket, sys
sys.stdin.buffer.read(1)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
    sender.connect("\\0" + os.environ["NOTIFY_SOCKET"][1:])
    while True:
        sender.send(b"STATUS=flood")
"""


def begin(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin
    process.stdin.write(b"x")
    process.stdin.flush()


def test_a_flood_does_not_silence_others(receiver: Receiver, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    floods, calm = [start(FLOOD) for _ in range(3)], start(SEND_READY)
    for process in floods:
        begin(process)
    while len(receiver.heard) < 3 * BATCH:
        assert len(receiver.turn()) <= BATCH
    begin(calm)
    until(lambda: (OWN, {"READY": "1"}) in receiver.turn(), "it is heard among them")


def test_a_flood_leaves_time_for_other_work(receiver: Receiver, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """A turn ends after a batch, and the next ones do not wake up for messages until the rest is over."""
    begin(start(FLOOD))
    while len(receiver.turn()) < BATCH:
        pass
    interrupted = len(receiver.heard)
    reader, writer = os.pipe()
    os.write(writer, b"x")
    work: list[int] = []
    receiver.loop.watch(reader, select.EPOLLIN, work.append)
    receiver.loop.turn()
    assert (len(work), len(receiver.heard)) == (1, interrupted)
    receiver.loop.forget(reader)
    os.close(reader)
    os.close(writer)


def test_a_successor_listens_at_the_same_address() -> None:
    for _ in range(2):
        receiver = Receiver(ADDRESS)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
            speaker.sendto(b"READY=1", "\0" + ADDRESS[1:])
        assert receiver.turn() == [(OWN, {"READY": "1"})]
        receiver.close()


@pytest.mark.usefixtures("receiver")
def test_an_address_that_is_taken() -> None:
    before = descriptors()
    loop = Loop()
    with pytest.raises(OSError, match=f"cannot listen for notifications: Address already in use: '{ADDRESS}'"):
        Notifications(ADDRESS, loop, lambda *_: None)
    loop.close()
    assert descriptors() == before


def test_an_address_in_the_file_system(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    receiver = Receiver(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(b"READY=1", path)
    assert receiver.turn() == [(OWN, {"READY": "1"})]
    receiver.close()


def test_it_ends_with_what_nobody_has_read() -> None:
    """What is in the queue is closed as carefully, and the address is free as soon as that is done."""
    before = descriptors()
    receiver = Receiver(ADDRESS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker, open("/dev/null") as null:
        speaker.connect("\0" + ADDRESS[1:])
        for _ in range(2):
            socket.send_fds(speaker, [b"FDSTORE=1"], [null.fileno()])
    receiver.notifications.close()
    Notifications(ADDRESS, receiver.loop, lambda *_: None).close()
    until(lambda: receiver.turn() == [] and len(descriptors()) == len(before) + 1, "only the loop is left")
    receiver.loop.close()
