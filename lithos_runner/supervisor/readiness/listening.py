"""Whether somebody waits for connections, seen from outside: the application takes no part in it.

A listening socket is *waited on* when a thread is blocked in accept(2), poll(2) or select(2) on it, or in
epoll_wait(2) on an epoll set that has it, right now. To hold the socket is not enough, nor is an epoll set with it that
nobody waits on: programs do both long before they serve.

An edge-triggered set (EPOLLET of epoll(7)) proves nothing either. A level-triggered interest wakes its thread as long
as a connection is in the queue, so who has one and sleeps is going to accept. Runtimes with edge-triggered sets (Go,
Rust's tokio) put a socket in when it is opened, and sleep in epoll_wait whether or not anybody will ever accept.

The numbers of sockets and pipes come from one counter of the kernel, so an inode number names one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

from . import connections, proc, threads

MOST_OBJECTS = 4096  # of one look, see proc.Budget
MOST_FDINFO = 1 << 20  # bytes, of some 90 for each descriptor of an epoll set
BYTES_OF_AN_OBJECT = 1024  # of fdinfo take as long as one object

EPOLLONESHOT = 1 << 30
EPOLLET = 1 << 31
IORING_OP_ACCEPT = 13


class Wait(Enum):
    """What was seen of one listening socket."""

    WAITING = "waiting"  # a thread waits on it
    ACCEPTED = "accepted"  # no thread waits, but a connection that came from it is being served
    UNCLEAR = "unclear"  # somebody may wait on it; the kernel does not show it
    NOT_YET = "not yet"


class Look(NamedTuple):
    """What was seen of all listening sockets of an instance, by inode number."""

    waits: dict[int, Wait]
    why: str = ""  # a clause: what hides the rest; "" when nothing is unclear

    @property
    def serving(self) -> bool:
        """Whether the instance was seen to serve all of its sockets; False when it has none."""
        return bool(self.waits) and all(wait in (Wait.WAITING, Wait.ACCEPTED) for wait in self.waits.values())

    @property
    def unclear(self) -> bool:
        """Whether it may serve all of them: none is known not to be served, some cannot be told."""
        return Wait.UNCLEAR in self.waits.values() and Wait.NOT_YET not in self.waits.values()


def look(pids: Collection[int], sockets: Collection[int]) -> Look:
    """Look which of ``sockets``, inode numbers of listening sockets, some thread of ``pids`` waits on.

    It takes about 20 µs for each thread and never raises: what cannot be seen is ``UNCLEAR``, with the reason.
    """
    if not threads.supported():
        return Look(dict.fromkeys(sockets, Wait.UNCLEAR), f"system calls of {threads.MACHINE} are not known")
    search = _Search(sockets)
    try:
        for pid in pids:
            search.process(pid)
    except proc.TooMuch:
        search.hidden("it has too many threads and descriptors to look at")
    except OSError as error:
        search.hidden(f"cannot read {error.filename}: {error.strerror}")
    return search.result()


def look_with_connections(pids: Collection[int], sockets: Mapping[int, int | None]) -> Look:
    """Look as ``look`` does, and for connections too; ``sockets`` maps inode numbers to local TCP ports.

    A busy server with one thread may never be seen to wait: there is always a next connection in the queue. One that
    holds a connection of the socket's port has accepted it, so it serves. It takes a millisecond or more beyond
    ``look``, as the kernel walks its table of all connections.
    """
    seen = look(pids, sockets)
    for inode, wait in seen.waits.items():
        port = sockets[inode]
        if wait is not Wait.WAITING and port is not None and _accepted(pids, port):
            seen.waits[inode] = Wait.ACCEPTED
    return seen if Wait.UNCLEAR in seen.waits.values() else seen._replace(why="")


def _accepted(pids: Collection[int], port: int) -> bool:
    try:
        return bool(connections.count(pids, {port}))
    except OSError:  # a kernel without tcp_diag
        return False


class _Search:
    """One look, and what it has found so far."""

    def __init__(self, sockets: Collection[int]) -> None:
        self._waits = dict.fromkeys(sockets, Wait.NOT_YET)
        self._missing = set(sockets)  # those not seen waited on
        self._why = ""
        self._hidden = False
        self._budget = proc.Budget(MOST_OBJECTS)

    def process(self, pid: int) -> None:
        """Look at the threads of a process until every socket is found. Raises TooMuch and OSError."""
        followed: set[int] = set()
        for tid in proc.names(f"/proc/{pid}/task") if self._missing else ():
            self._budget.spend()
            self._thread(f"/proc/{pid}/task/{tid}", followed)
            if not self._missing:
                return

    def _thread(self, thread: str, followed: set[int]) -> None:
        """Note what is behind the descriptors that a thread waits on; an epoll set may be in another one."""
        try:
            waited = list(threads.waits_on(thread, self._budget))
        except threads.Hidden as hidden:
            self.hidden(str(hidden))
            return
        while waited:
            descriptor = waited.pop()
            self._budget.spend()
            if descriptor not in followed:
                followed.add(descriptor)
                waited += self._behind(thread, descriptor)

    def _behind(self, thread: str, descriptor: int) -> Iterable[int]:
        target = proc.link(f"{thread}/fd/{descriptor}")
        if target == "anon_inode:[eventpoll]":
            return self._epoll_set(self._fdinfo(thread, descriptor))
        if target == "anon_inode:[io_uring]":
            if accepts(self._fdinfo(thread, descriptor)):
                self.hidden("an accept waits in an io_uring, and the kernel does not show on which socket")
        else:
            self._found(proc.socket_inode(target), Wait.WAITING)
        return ()

    def _fdinfo(self, thread: str, descriptor: int) -> bytes:
        text = proc.read(f"{thread}/fdinfo/{descriptor}", MOST_FDINFO)
        self._budget.spend(len(text) // BYTES_OF_AN_OBJECT)
        if len(text) == MOST_FDINFO:  # there is more, and each further look would make the kernel write all of it
            raise proc.TooMuch
        return text

    def _epoll_set(self, text: bytes) -> Iterator[int]:
        """Note our sockets in an epoll set; yield its descriptors that may be epoll sets themselves."""
        for inode in list(self._missing):
            for entry in entries(text, inode):
                if entry.events & threads.READ_EVENTS:
                    self._found(inode, Wait.WAITING if entry.proves else Wait.UNCLEAR)
        # All anonymous inodes are one, whose number is in the header.
        for entry in entries(text, header(text, b"ino")):
            if entry.events & threads.READ_EVENTS:
                yield entry.descriptor

    def _found(self, inode: int | None, wait: Wait) -> None:
        if inode not in self._missing:
            return
        if wait is Wait.WAITING:
            self._missing.remove(inode)
        else:
            self._why = "a runtime such as Go's puts a socket into an edge-triggered epoll set before it accepts"
        self._waits[inode] = wait

    def hidden(self, why: str) -> None:
        """Note that a wait on any of the sockets that are still missing may be hidden."""
        self._why = why
        self._hidden = True

    def result(self) -> Look:
        """Return what was found."""
        if self._hidden:
            self._waits.update(dict.fromkeys(self._missing, Wait.UNCLEAR))
        return Look(self._waits, self._why if Wait.UNCLEAR in self._waits.values() else "")


class Entry(NamedTuple):
    """A descriptor in an epoll set: a ``tfd`` line of proc_pid_fdinfo(5)."""

    descriptor: int
    events: int

    @property
    def proves(self) -> bool:
        """Whether it wakes a thread as long as there is a connection, so that only an acceptor can sleep on it."""
        # A one-shot interest is renewed for each connection, by who is going to accept it.
        return not self.events & EPOLLET or bool(self.events & EPOLLONESHOT)


def header(text: bytes, key: bytes) -> int | None:
    r"""Return the number behind ``key:`` in the head of a fdinfo file ("ino:\t1038")."""
    for line in text[:256].split(b"\n"):
        name, _, value = line.partition(b":\t")
        if name == key and value.isdigit():
            return int(value)
    return None


def entries(text: bytes, inode: int | None) -> Iterator[Entry]:
    """Yield the entries of an epoll set whose file has the number ``inode``.

    The set may have thousands of entries: the search for the few is not Python's.
    """
    if inode is None:
        return
    needle = b" ino:%x sdev:" % inode
    at = text.find(needle)
    while at >= 0:
        words = text[text.rfind(b"\n", 0, at) + 1 : at].split()
        if entry := _entry(words):
            yield entry
        at = text.find(needle, at + 1)


def _entry(words: list[bytes]) -> Entry | None:
    """Make an entry of ["tfd:", "6", "events:", "80000019", …]."""
    try:
        return Entry(int(words[1]), int(words[3], 16)) if words[0] == b"tfd:" and words[2] == b"events:" else None
    except (IndexError, ValueError):
        return None


def accepts(text: bytes) -> bool:
    """Whether an accept is pending in an io_uring, from its fdinfo; see io_uring_enter(2)."""
    pending = text.partition(b"PollList:\n")[2].partition(b"CqOverflowList:")[0]
    return b"op=%d," % IORING_OP_ACCEPT in pending
