"""Which descriptors a thread waits on: the system call it is blocked in, from /proc/PID/task/TID/syscall.

See proc_pid_syscall(5). The kernel shows number and arguments of a thread only if it is blocked and stays so while
they are read (task_current_syscall() in lib/syscall.c); a thread that runs is "running".
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from . import proc

READ_EVENTS = 0x41  # POLLIN | POLLRDNORM, the same bits for poll(2) and epoll(7)
MOST_POLLED = 1024  # descriptors of one poll(2) or select(2) that are looked at; FD_SETSIZE
IORING_ENTER_REGISTERED_RING = 1 << 4
_POLLFD = struct.Struct("iHH")  # struct pollfd of poll(2): fd, events, revents
_BYTES_OF_AN_OBJECT = 256  # of a poll array take as long as one object
_ADDRESSES = 1 << 63  # above are no addresses of programs


class Hidden(Exception):
    """A thread waits in a way that the kernel does not show; the message is a clause."""


class Call(NamedTuple):
    """A system call that a thread is blocked in."""

    number: int
    arguments: tuple[int, ...]


def parse(text: bytes) -> Call | None:
    """Read the text of a ``syscall`` file; None when the thread runs, or is blocked outside of any call.

    Any other text is None too.
    """
    number, *words = text.split()[:7] or [b""]
    try:
        return Call(int(number), tuple(int(word, 16) for word in words)) if len(words) == 6 else None
    except ValueError:  # "running"
        return None


def _first(_thread: str, arguments: tuple[int, ...], _budget: proc.Budget) -> Iterator[int]:
    yield arguments[0] & 0xFFFFFFFF


def _ring(thread: str, arguments: tuple[int, ...], budget: proc.Budget) -> Iterator[int]:
    if arguments[3] & IORING_ENTER_REGISTERED_RING:  # then the first argument is no descriptor
        raise Hidden("a thread waits on a registered io_uring, which is not among its descriptors")
    return _first(thread, arguments, budget)


def _polled(thread: str, arguments: tuple[int, ...], budget: proc.Budget) -> Iterator[int]:
    count = min(arguments[1] & 0xFFFFFFFF, MOST_POLLED)
    return polled(_memory(thread, arguments[0], count * _POLLFD.size, budget))


def _selected(thread: str, arguments: tuple[int, ...], budget: proc.Budget) -> Iterator[int]:
    count = min(arguments[0] & 0xFFFFFFFF, MOST_POLLED)
    return selected(_memory(thread, arguments[1], (count + 7) // 8, budget), count)


def polled(array: bytes) -> Iterator[int]:
    """Yield the descriptors that an array of ``struct pollfd`` asks to read from."""
    whole = len(array) - len(array) % _POLLFD.size
    for descriptor, events, _ in _POLLFD.iter_unpack(array[:whole]):
        if descriptor >= 0 and events & READ_EVENTS:
            yield descriptor


def selected(bitmap: bytes, count: int) -> Iterator[int]:
    """Yield the descriptors below ``count`` in an ``fd_set`` of select(2)."""
    for index, byte in enumerate(bitmap):
        if byte:
            yield from (fd for fd in range(8 * index, min(8 * index + 8, count)) if byte >> (fd % 8) & 1)


def _memory(thread: str, address: int, size: int, budget: proc.Budget) -> bytes:
    """Read a thread's memory, b"" where it has none. Raises TooMuch.

    Nothing the application does can make this wait: seccomp leaves it no userfaultfd(2), and no file system of its own.
    """
    if not 0 < address < _ADDRESSES:
        return b""
    budget.spend(size // _BYTES_OF_AN_OBJECT)
    try:
        file = os.open(f"{thread}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except proc.GONE:
        return b""
    try:
        return os.pread(file, size, address)
    except OSError:  # EIO: not mapped
        return b""
    finally:
        os.close(file)


_Reader = Callable[[str, tuple[int, ...], proc.Budget], Iterator[int]]
# asm/unistd.h; (x86_64, aarch64), None where the architecture never had the call.
_CALLS: dict[str, tuple[int | None, int | None, _Reader]] = {
    "accept": (43, 202, _first),
    "accept4": (288, 242, _first),
    "epoll_wait": (232, None, _first),
    "epoll_pwait": (281, 22, _first),
    "epoll_pwait2": (441, 441, _first),
    "io_uring_enter": (426, 426, _ring),
    "poll": (7, None, _polled),
    "ppoll": (271, 73, _polled),
    "pselect6": (270, 72, _selected),
    # A UDP socket is waited on by receiving from it.
    "recvfrom": (45, 207, _first),
    "recvmmsg": (299, 243, _first),
    "recvmsg": (47, 212, _first),
    "select": (23, None, _selected),
}
_MACHINES = ("x86_64", "aarch64")


def readers(machine: str) -> dict[int, _Reader]:
    """Return, by number, how the arguments of each waiting system call are read; empty for an unknown machine."""
    if machine not in _MACHINES:
        return {}
    column = _MACHINES.index(machine)
    found = {calls[column]: calls[2] for calls in _CALLS.values()}
    return {number: reader for number, reader in found.items() if isinstance(number, int)}


MACHINE = os.uname().machine
_READERS = readers(MACHINE)


def supported() -> bool:
    """Whether the system call numbers of this machine are known here."""
    return bool(_READERS)


def waits_on(thread: str, budget: proc.Budget) -> Iterator[int]:
    """Yield the descriptors that ``thread`` ("/proc/812/task/813") is blocked on to read from or accept from.

    None when it runs, has gone, or waits for something else. Raises Hidden, TooMuch, and OSError when we may not look.
    """
    call = parse(proc.read(f"{thread}/syscall", 256))
    reader = _READERS.get(call.number) if call else None
    return reader(thread, call.arguments, budget) if call and reader else iter(())
