"""Which TCP connections an instance has, without its help.

The kernel lists the connections of a port through sock_diag(7) in 0.4 ms plus 1.5 µs each, where /proc/net/tcp takes
5 ms and lists those of all ports; one whose both addresses are known it finds in 15 µs. The links in /proc/PID/fd say
which of them a process holds. The connections in a queue that nobody has accepted yet are held by no process.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Collection, Iterator

from . import proc

MOST_DESCRIPTORS = 65536  # of all processes; some 0.3 s

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
_ESTABLISHED, _SYN_RECEIVED, _LISTEN = 1, 3, 10  # linux/tcp_states.h
# ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING; all whose end is still to come.
_STATES = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11
_NLMSGHDR = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_REQUEST = struct.Struct("=BBBBI")  # struct inet_diag_req_v2: family, protocol, extensions, padding, states
_ID = struct.Struct("!HH32x12x")  # struct inet_diag_sockid: ports in network order; any address, interface, cookie
_BOTH_ENDS = struct.Struct("!HH16s16s12s")
_ANY_INTERFACE_AND_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)  # INET_DIAG_NOCOOKIE
_STATE_AT = _NLMSGHDR.size + 1  # of struct inet_diag_msg: idiag_state
_INODE = struct.Struct("=I")
_INODE_AT = _NLMSGHDR.size + 68  # its last field: idiag_inode

End = tuple[str, int]  # a numeric address and a port


def count(pids: Collection[int], ports: Collection[int]) -> int | None:
    """Count the TCP connections to local ``ports``, in our network namespace, that the processes ``pids`` hold.

    A connection counts until its descriptor is closed, also when one side has said all it has to say. None when the
    processes have more than ``MOST_DESCRIPTORS`` descriptors: they may have connections. Raises OSError when the kernel
    cannot list connections (no ``CONFIG_INET_TCP_DIAG``) or we may not look at the processes.
    """
    there = {inode for port in ports for inode in _on_port(port)}
    try:
        return len(held(pids, there))
    except proc.TooMuch:
        return None


def held(pids: Collection[int], inodes: set[int]) -> set[int]:
    """Return which of the sockets with these inode numbers the processes hold.

    Raises proc.TooMuch beyond ``MOST_DESCRIPTORS``, and OSError when we may not look at the processes.
    """
    found: set[int] = set()
    budget = proc.Budget(MOST_DESCRIPTORS)
    for pid in pids if inodes else ():
        found |= inodes & set(_sockets(pid, budget))
    return found


def _sockets(pid: int, budget: proc.Budget) -> Iterator[int]:
    directory = f"/proc/{pid}/fd"
    for name in proc.names(directory):
        budget.spend()
        inode = proc.socket_inode(proc.link(f"{directory}/{name}"))
        if inode is not None:
            yield inode


def _on_port(port: int) -> Iterator[int]:
    with _netlink() as netlink:
        for family in (socket.AF_INET, socket.AF_INET6):
            netlink.send(request(family, port))
            yield from (inode for _, inode in _answers(netlink))


def accepted_as(connection: socket.socket) -> int | None:
    """Return the inode number of the other end of a TCP connection within this host; None when it has been closed.

    0 while the connection is in a queue, and while it is being made. Raises OSError when the kernel cannot find
    connections (no ``CONFIG_INET_TCP_DIAG``).
    """
    ours = connection.getsockname()[:2]
    try:
        theirs = connection.getpeername()[:2]
    except OSError:  # ENOTCONN
        return 0
    try:
        state, inode = _find(connection.family, theirs, ours)
    except FileNotFoundError:
        # It is gone with its listener, or else the kernel finds nothing at all; our end is there for certain.
        _find(connection.family, ours, theirs)
        return None
    if state == _LISTEN:  # where there is no connection, the kernel takes us to who would accept it
        return None
    return inode if inode or state in (_ESTABLISHED, _SYN_RECEIVED) else None


def _find(family: int, local: End, remote: End) -> tuple[int, int]:
    """Return state and inode number of the socket with these two ends."""
    addresses = (socket.inet_pton(family, host.partition("%")[0]).ljust(16, b"\0") for host, _ in (local, remote))
    identity = _BOTH_ENDS.pack(local[1], remote[1], *addresses, _ANY_INTERFACE_AND_COOKIE)
    with _netlink() as netlink:
        netlink.send(_message(NLM_F_REQUEST, family, identity))
        return next(_answers(netlink))


def request(family: int, port: int) -> bytes:
    """Return the message that asks for the connections of a local port."""
    return _message(NLM_F_REQUEST | NLM_F_DUMP, family, _ID.pack(port, 0))


def _message(flags: int, family: int, identity: bytes) -> bytes:
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _STATES) + identity
    return _NLMSGHDR.pack(_NLMSGHDR.size + len(body), SOCK_DIAG_BY_FAMILY, flags, 1, 0) + body


def _netlink() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG)


def _answers(netlink: socket.socket) -> Iterator[tuple[int, int]]:
    """Yield state and inode number of each socket that the kernel tells of."""
    while True:
        data = netlink.recv(1 << 16)
        at = 0
        while at + _NLMSGHDR.size <= len(data):
            length, kind, *_ = _NLMSGHDR.unpack_from(data, at)
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                raise _error(-struct.unpack_from("=i", data, at + _NLMSGHDR.size)[0])
            yield data[at + _STATE_AT], _INODE.unpack_from(data, at + _INODE_AT)[0]
            at += (length + 3) & ~3


def _error(number: int) -> OSError:
    hint = "; the kernel needs CONFIG_INET_TCP_DIAG" if number == errno.ENOENT else ""
    return OSError(number, f"cannot list TCP connections: {os.strerror(number)}{hint}")
