"""`listening` readiness: several sockets and processes, busy servers, and processes that make it hard to look."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import STACKS
from real_host import until

from lithos_runner.supervisor.readiness import listening, proc, threads
from lithos_runner.supervisor.readiness.listening import Look, Wait

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from programs import Program

PLAIN = [sys.executable, str(STACKS / "plain.py")]


def inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


@pytest.fixture
def script() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Run a Python text with descriptors of ours; it writes a line when it is where the test wants it."""
    with ExitStack() as stack:

        def script(text: str, *descriptors: int) -> subprocess.Popen[bytes]:
            arguments = map(str, descriptors)
            process = subprocess.Popen(
                [sys.executable, "-c", text, *arguments], pass_fds=descriptors, stdout=subprocess.PIPE
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            assert process.stdout
            assert process.stdout.readline()
            return process

        yield script


def test_all_sockets_have_to_be_waited_on(port: socket.socket, script: Callable[..., subprocess.Popen[bytes]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        inodes = inode(port.fileno()), inode(other.fileno())
        text = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); print(flush=True); s.accept()"
        first = script(text, port.fileno(), other.fileno())
        until(lambda: listening.look([first.pid], inodes).waits[inodes[0]] is Wait.WAITING, "the first is waited on")
        seen = listening.look([first.pid], inodes)
        assert seen == Look({inodes[0]: Wait.WAITING, inodes[1]: Wait.NOT_YET})
        assert not seen.serving
        second = script(text, other.fileno())
        until(lambda: listening.look([first.pid, second.pid], inodes).serving, "between them, they wait on both")


def test_an_instance_without_sockets_is_not_serving() -> None:
    assert not listening.look([os.getpid()], []).serving


def test_a_parent_that_only_holds_the_socket_is_not_waiting(program: Callable[..., Program]) -> None:
    started = program(*PLAIN, "child")
    started.until_held()
    started.let_go()
    until(lambda: started.look() is Wait.WAITING, "the child waits")
    parent, _ = started.pids()
    assert listening.look([parent], {started.inode}).waits == {started.inode: Wait.NOT_YET}


def test_a_unix_and_a_datagram_socket(script: Callable[..., subprocess.Popen[bytes]]) -> None:
    with socket.socket(socket.AF_UNIX) as unix, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        unix.bind("")
        unix.listen()
        udp.bind(("127.0.0.1", 0))
        text = """
import socket, sys, threading
unix, udp = (socket.socket(fileno=int(argument)) for argument in sys.argv[1:])
threading.Thread(target=udp.recv, args=[1]).start()
print(flush=True)
unix.accept()
"""
        both = {inode(unix.fileno()), inode(udp.fileno())}
        process = script(text, unix.fileno(), udp.fileno())
        until(lambda: listening.look([process.pid], both).serving, "threads wait on both")


def test_a_server_with_its_hands_full_is_known_by_its_connection(program: Callable[..., Program]) -> None:
    started = program(*PLAIN, "accept")
    started.until_held()
    started.let_go()
    with started.connect() as client:
        client.recv(1)
        # It reads from its client, and will not look for the next one before this one is done.
        assert started.look() is Wait.NOT_YET
        assert started.look_with_connections() is Wait.ACCEPTED


def test_a_connection_in_the_queue_proves_nothing(program: Callable[..., Program]) -> None:
    started = program(*PLAIN, "accept")
    started.until_held()
    with started.connect():
        assert started.look_with_connections() is Wait.NOT_YET


def test_processes_that_are_gone_wait_for_nothing(port: socket.socket) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    number = inode(port.fileno())
    assert listening.look([gone.pid, 2**22 + 1], {number}) == Look({number: Wait.NOT_YET})


def test_processes_may_vanish_while_they_are_looked_at(
    port: socket.socket, script: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """A crowd that is born and dies all the time, each of them waiting on the socket for a moment."""
    crowd = script(
        """
import os, select, sys
print(flush=True)
children = 0
while True:
    if not os.fork():
        select.select([int(sys.argv[1])], [], [], 0.001)
        os._exit(0)
    children += 1
    if children > 20:
        os.waitpid(-1, 0)
""",
        port.fileno(),
    )
    number = inode(port.fileno())
    for _ in range(300):
        children = Path(f"/proc/{crowd.pid}/task/{crowd.pid}/children").read_text().split()
        look = listening.look([int(pid) for pid in children], {number})
        assert look.waits[number] in (Wait.WAITING, Wait.NOT_YET), look.why


def test_memory_that_is_taken_away_from_under_a_wait(
    port: socket.socket, script: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = script(
        """
import ctypes, struct, sys, threading
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
page = ctypes.c_void_p(libc.mmap(None, 4096, 3, 0x22, -1, 0))  # PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS
ctypes.memmove(page, struct.pack("ihh", int(sys.argv[1]), 1, 0), 8)
waiting = threading.Thread(target=libc.poll, args=[page, 1, -1])
waiting.start()
while open(f"/proc/self/task/{waiting.native_id}/syscall").read().split()[0] != "7":
    pass
assert libc.munmap(page, 4096) == 0
print(flush=True)
waiting.join()
""",
        port.fileno(),
    )
    number = inode(port.fileno())
    assert listening.look([process.pid], {number}) == Look({number: Wait.NOT_YET})


@pytest.mark.parametrize("address", [0, 8, 1 << 47, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_addresses_where_no_memory_is(address: int) -> None:
    thread = f"/proc/{os.getpid()}/task/{os.getpid()}"
    poll, select = 7, 23
    budget = proc.Budget(100)
    readers = threads.readers("x86_64")
    assert list(readers[poll](thread, (address, 1 << 63, 0, 0, 0, 0), budget)) == []
    assert list(readers[select](thread, (1 << 63 | 1024, address, 0, 0, 0, 0), budget)) == []


def test_too_many_threads_are_unclear(port: socket.socket, script: Callable[..., subprocess.Popen[bytes]]) -> None:
    """The budget is for all processes together; here every thread is looked at often enough to use it up."""
    process = script("import sys; print(flush=True); sys.stdin.read()", port.fileno())
    number = inode(port.fileno())
    pids = [process.pid] * (listening.MOST_OBJECTS + 1)
    seen = listening.look(pids, {number})
    assert seen.waits == {number: Wait.UNCLEAR}
    assert seen.why == "it has too many threads and descriptors to look at"
    assert seen.unclear
    assert not seen.serving


def test_an_epoll_set_too_large_to_read_is_unclear(
    port: socket.socket, script: Callable[..., subprocess.Popen[bytes]]
) -> None:
    """Each number of a descriptor is one entry, also after it has been given to another file."""
    process = script(
        """
import os, select, sys
interest = select.epoll()
files = [os.eventfd(0) for _ in range(20)]
for file in files:
    for number in range(100, 1000):
        os.dup2(file, number)
        interest.register(number, select.EPOLLIN)
print(flush=True)
interest.poll()
""",
        port.fileno(),
    )
    number = inode(port.fileno())
    until(lambda: listening.look([process.pid], {number}).waits[number] is Wait.UNCLEAR, "the set is waited on")
    assert listening.look([process.pid], {number}).why == "it has too many threads and descriptors to look at"


def test_an_unknown_machine_is_unclear(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_READERS", threads.readers("s390x"))
    seen = listening.look([os.getpid()], {1})
    assert seen == Look({1: Wait.UNCLEAR}, f"system calls of {threads.MACHINE} are not known")


def test_what_must_not_be_looked_at_is_unclear(port: socket.socket) -> None:
    """Without privileges, the processes of others are hidden."""
    number = inode(port.fileno())
    text = f"""
import os
from lithos_runner.supervisor.readiness import listening
os.setresuid(65534, 65534, 65534)
print(listening.look([{os.getpid()}], [{number}]))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert "Wait.UNCLEAR" in done.stdout
    assert f"cannot read /proc/{os.getpid()}/task/{os.getpid()}/syscall: Permission denied" in done.stdout


def test_many_long_poll_arrays_are_unclear(port: socket.socket, script: Callable[..., subprocess.Popen[bytes]]) -> None:
    """Each is short enough, and none has our socket; all together would take a second."""
    process = script(
        """
import ctypes, os, threading
libc = ctypes.CDLL(None)
threading.stack_size(65536)
array = (ctypes.c_int * 2048)(*[-1] * 2048)
waiting = [threading.Thread(target=libc.poll, args=[array, 1024, -1]) for _ in range(200)]
for thread in waiting:
    thread.start()
print(flush=True)
waiting[0].join()
"""
    )
    number = inode(port.fileno())
    until(lambda: listening.look([process.pid], {number}).waits[number] is Wait.UNCLEAR, "all threads wait")
