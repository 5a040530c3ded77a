"""What instances say of themselves: READY=1 and the other messages of sd_notify(3).

All instances send to one datagram socket. Anybody may: a message counts for the cgroup that its sender is in, which
the sender cannot choose. So an instance can lie about itself, never about another.

A message whose sender has ended cannot be attributed and is dropped. A short-lived helper waits for it to be read with
BARRIER=1, as systemd-notify(1) does: it sends the end of a pipe along, and we close that when its turn has come.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..loop import READABLE, Loop
from . import foreign, proc

LONGEST = 4096  # bytes of one message; NOTIFY_BUFFER_MAX of systemd
BATCH = 32  # messages in one turn of the event loop
REST = 0.01  # seconds without messages after a full batch, in which the kernel lets senders wait
LAST = 4096  # messages that are read when we end; more than a queue has
SCM_MAX_FD = 253  # descriptors of one message; unix(7)
SO_PASSPIDFD, SCM_PIDFD = 76, 4  # asm-generic/socket.h, linux/socket.h; Linux 6.5
_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_INT = struct.Struct("i")
# The pidfd comes last: without room for all descriptors a sender could push it out.
_CONTROL = sum(socket.CMSG_SPACE(size) for size in (_UCRED.size, SCM_MAX_FD * _INT.size, _INT.size))

Heard = Callable[[str, dict[str, str]], None]


class Sender(NamedTuple):
    """Who sent a message, as the kernel says, and what came along."""

    pid: int  # 0 when it is unknown
    pidfd: int | None
    descriptors: tuple[int, ...]


class Notifications:
    """Receives messages and tells them with the sender's cgroup, its path as /proc/PID/cgroup has it.

    Whatever is sent, one turn of the loop handles at most ``BATCH`` messages, and a flood of them takes a small part of
    the supervisor's time. The kernel queues ``net.unix.max_dgram_qlen`` messages of all senders together; behind that
    it lets senders wait, each thread in its turn. So a flood delays the message of another instance by at most
    one message of each flooding thread and what is queued, and never displaces it; only a sender that does not
    want to wait (MSG_DONTWAIT) finds the queue full.
    """

    def __init__(self, address: str, loop: Loop, heard: Heard, handed: int | None = None) -> None:
        """Listen at ``address``, as NOTIFY_SOCKET has it: a path, or "@name" of the abstract namespace.

        ``heard(cgroup, message)`` gets each message of a living sender. ``handed`` is the descriptor of one that
        listened there before, whose queue is read on. Raises OSError.
        """
        self._loop = loop
        self._heard = heard
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, fileno=handed)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._has_pidfds = _pass_pidfds(self._socket)
            if handed is None:
                self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, f"cannot listen for notifications: {error.strerror}", address) from error
        self._listen()

    @property
    def descriptor(self) -> int:
        """The socket, to be handed to another ``Notifications``."""
        return self._socket.fileno()

    def _listen(self) -> None:
        self._loop.watch(self._socket.fileno(), READABLE, self._arrived)

    def _arrived(self, _events: int) -> None:
        left = BATCH
        while left > 0:
            cost = self._take()
            if not cost:
                return
            left -= cost
        self._loop.forget(self._socket.fileno())
        self._loop.deadline(self, time.monotonic() + REST, self._listen)

    def _take(self) -> int:
        """Handle a message; return what it cost, in usual messages: 0 when there was none."""
        try:
            data, control, flags, _ = self._socket.recvmsg(LONGEST, _CONTROL, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return 0
        sender = sender_of(control)
        try:
            message = {} if flags & socket.MSG_TRUNC else parse(data)
            path = cgroup_of(sender, self._has_pidfds) if message else None
            if path is not None:
                self._heard(path, message)
        finally:
            if sender.pidfd is not None:
                os.close(sender.pidfd)
            costly = foreign.close(sender.descriptors, self._loop)
        return BATCH if costly else 1

    def close(self) -> None:
        """Listen no more."""
        self._loop.deadline(self, None, self._listen)
        self._loop.forget(self._socket.fileno())
        # What the queue holds would be closed with it, here.
        for _ in range(LAST):
            if not self._take():
                break
        self._socket.close()


def _pass_pidfds(receiver: socket.socket) -> bool:
    """Ask for the sender's pidfd with each message; return whether the kernel can."""
    try:
        receiver.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1)
    except OSError:  # before Linux 6.5
        return False
    return True


def cgroup_of(sender: Sender, pidfd_sent: bool) -> str | None:
    """Return the sender's cgroup, None when it has ended; ``pidfd_sent``: the kernel sends one with each message."""
    if not sender.pid or (pidfd_sent and sender.pidfd is None):
        return None
    try:
        text = proc.read(f"/proc/{sender.pid}/cgroup", 4096)
        if sender.pidfd is not None:
            # It has not been reaped up to now, so what we have just read was not of another with its pid.
            signal.pidfd_send_signal(sender.pidfd, 0)
    except OSError:
        return None
    return unified(text)


def sender_of(control: Iterable[tuple[int, int, bytes]]) -> Sender:
    """Read the control messages of one message."""
    pid, pidfd = 0, None
    descriptors: list[int] = []
    for level, kind, data in control:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_CREDENTIALS and len(data) == _UCRED.size:
            pid = _UCRED.unpack(data)[0]
        elif kind == SCM_PIDFD and len(data) == _INT.size and _INT.unpack(data)[0] >= 0:
            pidfd = _INT.unpack(data)[0]  # negative: it had ended already
        elif kind == socket.SCM_RIGHTS:
            descriptors += (fd for (fd,) in _INT.iter_unpack(data[: len(data) - len(data) % _INT.size]))
    return Sender(pid, pidfd, tuple(descriptors))


def parse(data: bytes) -> dict[str, str]:
    """Read the lines ``KEY=VALUE`` of a message; the first of a key counts, other lines do not.

    Empty for what no sd_notify(3) would send: a NUL character.
    """
    message: dict[str, str] = {}
    if b"\0" in data:
        return message
    for line in data.decode("utf-8", "replace").split("\n"):
        key, equals, value = line.partition("=")
        if key and equals:
            message.setdefault(key, value)
    return message


def seconds(message: dict[str, str], key: str) -> float | None:
    """Return a time that ``message`` gives in microseconds (EXTEND_TIMEOUT_USEC, WATCHDOG_USEC); None without one."""
    digits = message.get(key, "")
    # 20 digits are all that 64 bits have; int() would take other alphabets, and minutes for a long text.
    return int(digits) / 1e6 if digits.isascii() and digits.isdecimal() and len(digits) <= 20 else None


def unified(text: bytes) -> str | None:
    """Return the cgroup v2 path of /proc/PID/cgroup, see cgroups(7); on a hybrid host other lines stand beside it."""
    for line in text.split(b"\n"):
        if line.startswith(b"0::/"):
            return os.fsdecode(line[3:].removesuffix(b" (deleted)"))
    return None
