"""The listening sockets of a container file: TCP, UDP and UNIX, in one shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from .errors import Path, quoted
from .formats import ADDRESS, FLAG, GROUP, MODE, PLAIN_PATH, RUNNER, USER
from .kinds import Found, Integer, MapOf, Record, Refused, Text, key

_LOG = "descriptors 1 and 2 are the instance's log"
_EPHEMERAL = "the kernel would pick another port at every start; name one between 1 and 65535"

# sysctl_nr_open_max of the kernel (fs/file.c): no process can have more descriptors on a 64-bit host.
MOST_FILES = (1 << 31) - 64

PORT = Integer(minimum=1, maximum=65535, refused={0: _EPHEMERAL}, variables=True)

_FD = Integer(minimum=0, maximum=MOST_FILES - 1, refused={1: _LOG, 2: _LOG})
_FD_DOC = "Descriptor number that the application sees: 0 (inetd style) or 3 and up, below `fileno-limit`."
_HOST_DOC = "IPv4 or IPv6 address to listen on; names are not looked up."
_ANY_HOST = "0.0.0.0"  # noqa: S104 - lithos's default, and the point of a published port
_BACKLOG = Integer(minimum=1, maximum=(1 << 31) - 1)
_BACKLOG_DOC = "Length of the accept queue for `listen(2)`; the kernel caps it at `net.core.somaxconn`."
_NON_BLOCK_DOC = "Set `O_NONBLOCK` on the socket, for applications that expect it."
_NAME_DOC = "Name of the socket in `LISTEN_FDNAMES`."
_IPV6_ONLY_DOC = (
    'For `host: "::"`: take IPv6 only. Without it the socket takes IPv4 too, whatever `net.ipv6.bindv6only` says.'
)
_REUSE_PORT_DOC = (
    "One socket per instance with `SO_REUSEPORT`: connections are spread evenly, each queue is drained alone."
)


def _socket_name(text: str) -> str:
    # What systemd accepts for FileDescriptorName=, see systemd.socket(5).
    if not text or len(text) > 255 or not text.isascii() or not text.isprintable() or ":" in text:
        raise ValueError(f"{quoted(text)} cannot name a socket: it takes 1 to 255 printable ASCII characters but ':'")
    return text


_SOCKET_NAME = Text(words="name", parse=_socket_name, schema={"pattern": "^[ -9;-~]{1,255}$"})


@attrs.frozen(kw_only=True)
class TcpPort:
    """One entry of `tcp-ports`: a listening socket and the descriptor at which the application gets it."""

    fd: int = key(_FD, _FD_DOC)
    host: str = key(ADDRESS, _HOST_DOC, default=_ANY_HOST)
    listen_backlog: int = key(_BACKLOG, _BACKLOG_DOC, default=128)
    reuse_addr: bool = key(
        FLAG, "Set `SO_REUSEADDR`, so that a restart need not wait for old connections.", default=True
    )
    set_non_block: bool = key(FLAG, _NON_BLOCK_DOC, default=False)
    reuse_port: bool = key(FLAG, _REUSE_PORT_DOC, default=False)
    external: bool = key(
        FLAG, "Listen in the host's network although the sandbox is bridged.", default=False, refused=Refused.BY_RUN
    )
    ipv6_only: bool = key(FLAG, _IPV6_ONLY_DOC, default=False, origin=RUNNER)
    name: str | None = key(_SOCKET_NAME, _NAME_DOC, default=None, origin=RUNNER)


@attrs.frozen(kw_only=True)
class UdpPort:
    """One entry of `udp-ports`: a bound datagram socket."""

    fd: int = key(_FD, _FD_DOC, origin=RUNNER)
    host: str = key(ADDRESS, _HOST_DOC, default=_ANY_HOST, origin=RUNNER)
    set_non_block: bool = key(FLAG, _NON_BLOCK_DOC, default=False, origin=RUNNER)
    reuse_port: bool = key(FLAG, "One socket per instance with `SO_REUSEPORT`.", default=False, origin=RUNNER)
    external: bool = key(
        FLAG,
        "Bind in the host's network although the sandbox is bridged.",
        default=False,
        origin=RUNNER,
        refused=Refused.BY_RUN,
    )
    ipv6_only: bool = key(FLAG, _IPV6_ONLY_DOC, default=False, origin=RUNNER)
    name: str | None = key(_SOCKET_NAME, _NAME_DOC, default=None, origin=RUNNER)


@attrs.frozen(kw_only=True)
class UnixSocket:
    """One entry of `unix-sockets`: a listening stream socket in the file system of the host."""

    fd: int = key(_FD, _FD_DOC, origin=RUNNER)
    listen_backlog: int = key(_BACKLOG, _BACKLOG_DOC, default=128, origin=RUNNER)
    set_non_block: bool = key(FLAG, _NON_BLOCK_DOC, default=False, origin=RUNNER)
    mode: int = key(MODE, "Permission bits of the socket; who may write may connect.", default=0o666, origin=RUNNER)
    user: int = key(USER, "Owner of the socket.", default=0, origin=RUNNER)
    group: int = key(GROUP, "Group of the socket.", default=0, origin=RUNNER)
    name: str | None = key(_SOCKET_NAME, _NAME_DOC, default=None, origin=RUNNER)


def _one_family(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    """Any other address than "::" has one family in any case."""
    only, host = found.get(("ipv6-only",)), found.get(("host",))
    address = _ANY_HOST if host is None else host.value
    if only is not None and only.value and address not in ("::", None):
        yield ("ipv6-only",), f'is about host "::", but host is {address}: remove one of the two'


TCP_PORTS = MapOf(PORT, Record(TcpPort, "TCP port", checks=(_one_family,)))
UDP_PORTS = MapOf(PORT, Record(UdpPort, "UDP port", checks=(_one_family,)))
UNIX_SOCKETS = MapOf(PLAIN_PATH, Record(UnixSocket, "UNIX socket"))
