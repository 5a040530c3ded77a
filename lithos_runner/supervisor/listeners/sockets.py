"""One socket: opened as configured, changed while it lives, recognised when an instance brings it back."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable

from ...launch import kernel
from ..desired import Port
from . import unix
from .port_owner import port_owner

_TYPES = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "unix": socket.SOCK_STREAM}
_UNSPECIFIED = struct.pack("=H14x", socket.AF_UNSPEC)  # struct sockaddr
_BOOLEAN_OPTIONS = {
    "reuse_addr": (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    "reuse_port": (socket.SOL_SOCKET, socket.SO_REUSEPORT),
    "ipv6_only": (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
}


class ListenFailed(Exception):
    """A socket could not be opened; the message is a whole sentence."""


def family(port: Port) -> socket.AddressFamily:
    """Return the address family of a port."""
    if port.kind == "unix":
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in port.host else socket.AF_INET


def open_socket(port: Port) -> socket.socket:
    """Open one socket, close-on-exec as Python makes it. Raises ListenFailed, with who has the address."""
    try:
        opened = socket.socket(family(port), _TYPES[port.kind])
    except OSError as error:
        raise ListenFailed(_sentence(port, error)) from error
    try:
        bind(opened, port)
        listen(opened, port)
        opened.setblocking(not port.non_block)
    except OSError as error:
        opened.close()
        raise ListenFailed(_sentence(port, error)) from error
    return opened


def bind(opened: socket.socket, port: Port) -> None:
    """Give the socket its options and its address. Raises OSError."""
    if port.kind == "unix":
        unix.bind(opened, port)
        return
    for name in _options(port):
        opened.setsockopt(*_BOOLEAN_OPTIONS[name], getattr(port, name))
    opened.bind((port.host, port.port))


def _options(port: Port) -> list[str]:
    # On any other address the kernel sets it by itself.
    return [name for name in _BOOLEAN_OPTIONS if name != "ipv6_only" or port.host == "::"]


def listen(opened: socket.socket, port: Port) -> None:
    """Let the socket listen, with the backlog of ``port`` if it does already; datagrams need none. Raises OSError."""
    if port.kind != "udp":
        opened.listen(port.backlog)


def listen_again(opened: socket.socket, port: Port) -> None:
    """Undo whatever an application did to stop a TCP socket: shutdown(2), also twice, or connect(2). Raises OSError.

    A second shutdown(2) leaves a mark that listen(2) does not remove and that all accepted connections would inherit
    (EPIPE); to disconnect removes it. On a listening socket that would throw the queue away.
    """
    if not opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        kernel.perform(kernel.connect(opened.fileno(), _UNSPECIFIED))
        opened.setsockopt(*_BOOLEAN_OPTIONS["reuse_port"], port.reuse_port)  # or it could not join the others
    opened.listen(port.backlog)


def probe(port: Port) -> None:
    """See that nobody has the address, as a socket with SO_REUSEPORT would silently join others of root.

    Raises ListenFailed.
    """
    alone = port._replace(reuse_port=False)
    try:
        with socket.socket(family(port), _TYPES[port.kind]) as opened:
            bind(opened, alone)
    except OSError as error:
        raise ListenFailed(_sentence(port, error)) from error


# Changes of the configuration


def needs_new_socket(old: Port, new: Port) -> tuple[str, ...]:
    """Return the keys of the same address which differ and which no living socket can change."""
    return tuple(name.replace("_", "-") for name in ("reuse_port", "ipv6_only") if _differ(old, new, name))


def change(opened: socket.socket, old: Port, new: Port) -> None:
    """Change what differs and a living socket can change. Raises OSError."""
    for names, act in _CHANGES.items():
        if any(_differ(old, new, name) for name in names):
            act(opened, new)


def _differ(old: Port, new: Port, name: str) -> bool:
    return bool(getattr(old, name) != getattr(new, name))


_CHANGES: dict[tuple[str, ...], Callable[[socket.socket, Port], None]] = {
    ("backlog",): listen,
    ("non_block",): lambda opened, port: opened.setblocking(not port.non_block),
    ("reuse_addr",): lambda opened, port: opened.setsockopt(*_BOOLEAN_OPTIONS["reuse_addr"], port.reuse_addr),
    ("mode", "user", "group"): lambda _, port: unix.set_access(port),
}


# A socket that an instance has kept


def is_that_of(opened: socket.socket, port: Port) -> bool:
    """Whether a socket of unknown origin is one that a supervisor opened for ``port``, and still listens."""
    checks: tuple[Callable[[], bool], ...] = (
        lambda: os.fstat(opened.fileno()).st_uid == os.geteuid(),  # that of its maker: not an application's
        lambda: (opened.family, opened.type) == (family(port), _TYPES[port.kind]),
        lambda: _name(opened) == ((port.path,) if port.kind == "unix" else (port.host, port.port)),
        lambda: bool(opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)) is (port.kind != "udp"),
        lambda: all(
            bool(opened.getsockopt(*_BOOLEAN_OPTIONS[name])) is getattr(port, name)
            for name in ("reuse_port", "ipv6_only")
            if port.kind != "unix" and name in _options(port)
        ),
    )
    try:
        return all(check() for check in checks)
    except OSError:  # an option that this kind of socket does not have
        return False


def _name(opened: socket.socket) -> tuple[object, ...]:
    name = opened.getsockname()
    return (name,) if opened.family == socket.AF_UNIX else name[:2]


# Sentences

_HINTS = {
    errno.EADDRINUSE: "stop it or take another port",
    errno.EADDRNOTAVAIL: "give `host` an address of this host, or 0.0.0.0 for all",
    errno.EAFNOSUPPORT: "this kernel has no IPv6; give `host` an IPv4 address",
    errno.ENOENT: "the directory must be there before the socket",
}


def _sentence(port: Port, error: OSError) -> str:
    what = f"cannot listen on {port.address}"
    if isinstance(error, unix.Unsafe):
        return f"{what}: {error.strerror}"
    reason = os.strerror(error.errno or 0)
    if error.errno == errno.EADDRINUSE and port.kind != "unix" and (owner := port_owner(port.port, port.kind)):
        reason += f" by {owner}"
    hint = _HINTS.get(error.errno or 0)
    return f"{what}: {reason}; {hint}" if hint else f"{what}: {reason}"
