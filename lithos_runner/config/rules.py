"""The one validator: what must hold between the files. Each rule is a function that yields errors.

Rules about a single file stand with its class; here are those that need several. A rule sees only files
without faults of their own, so that one mistake is not reported twice.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import attrs

from .container import Container
from .declarations import PortVariable
from .errors import Error, Path, Place, quoted
from .formats import Range, allows, covers, ranges_in_words
from .id_map import IdMap
from .ports import TcpPort, UdpPort
from .process import Process
from .sandbox import Sandbox
from .variables import is_variable
from .volumes import Persistent, Readonly, below, find_prefix
from .walk import Document


@attrs.frozen
class Entry:
    """An entry of a process file and the files that it stands between."""

    sandbox_name: str
    name: str
    sandbox: Document[Sandbox]
    processes: Document[Mapping[str, Process]]

    @property
    def full_name(self) -> str:
        """`sandbox/process`."""
        return f"{self.sandbox_name}/{self.name}"

    @property
    def value(self) -> Process:
        """What the entry says."""
        return self.processes.value[self.name]

    def error(self, path: Path, message: str) -> Error:
        """The error about a key of the entry."""
        return self.processes.error((self.name, *path), message)


@attrs.frozen
class Meeting(Entry):
    """An entry and its container file, with the variables that it supplies put in."""

    container: Document[Container]


def _see(document: Document[Any], key: str) -> str:
    """Where the other half of a fault stands."""
    place = document.place((key,))
    return f"{place.file}:{place.line}"


# Before the container file is read


def image_depth(entry: Entry) -> Iterator[Error]:
    """An image's name has exactly the components that the sandbox asks for."""
    levels = entry.sandbox.value.image_dir_levels
    found = len(entry.value.image.split("/"))
    if found != levels:
        where = _see(entry.sandbox, "image-dir-levels")
        message = f"{quoted(entry.value.image)} has {_count(found, 'component')}, but image-dir-levels is {levels}"
        yield entry.error(("image",), f"{message} ({where})")


# Kind, users, groups


def kinds(meeting: Meeting) -> Iterator[Error]:
    """A container runs as what it was made for."""
    made_for = meeting.container.value.kind
    if made_for not in (meeting.value.kind, "CommandOrDaemon"):
        message = f"is a {meeting.value.kind}, but {meeting.container.file} is for a {made_for}"
        yield meeting.error(("kind",), message)


def sockets_of_commands(meeting: Meeting) -> Iterator[Error]:
    """Nobody opens sockets of the host for a command; what may be a daemon as well has them as that."""
    container = meeting.container.value
    if container.kind != "Command" or meeting.sandbox.value.bridged_network is not None:
        return
    declared = {
        "tcp-ports": container.tcp_ports,
        "udp-ports": container.udp_ports,
        "unix-sockets": container.unix_sockets,
    }
    for key in (key for key, sockets in declared.items() if sockets):
        message = "no sockets are opened for a command: remove it, or make it a Daemon, or a CommandOrDaemon"
        yield meeting.container.error((key,), message)


class _Ids(NamedTuple):
    """Where user ids, or group ids, are written."""

    own: str
    default: str
    allowed: str
    map: str

    @staticmethod
    def of(document: Document[Any], key: str) -> Any:
        """The value of a key."""
        return getattr(document.value, key.replace("-", "_"))


_USERS = _Ids("user-id", "default-user", "allow-users", "uid-map")
_GROUPS = _Ids("group-id", "default-group", "allow-groups", "gid-map")


def users(meeting: Meeting) -> Iterator[Error]:
    """The user is allowed by the sandbox, and known to the map where there is one."""
    return _ids(meeting, _USERS)


def groups(meeting: Meeting) -> Iterator[Error]:
    """The group is allowed by the sandbox, and known to the map where there is one."""
    return _ids(meeting, _GROUPS)


def _ids(meeting: Meeting, ids: _Ids) -> Iterator[Error]:
    container, sandbox = meeting.container, meeting.sandbox
    own: int | None = ids.of(container, ids.own)
    number: int | None = ids.of(sandbox, ids.default) if own is None else own
    if number is None:
        message = f"there is no {ids.own}, and no {ids.default} in {sandbox.file}: add one of the two"
        yield container.error((), message)
        return
    inner: tuple[IdMap, ...] = ids.of(container, ids.map)
    outer: tuple[IdMap, ...] = ids.of(sandbox, ids.map)
    if inner and outer:
        yield container.error((ids.map,), f"the sandbox has a {ids.map} too ({_see(sandbox, ids.map)}): keep one")
        return
    if (inner or outer) and not any(each.inner.holds(number) for each in inner or outer):
        owner = container if inner else sandbox
        yield container.error((ids.own,), f"{number} is not an inside id of {ids.map} ({_see(owner, ids.map)})")
    yield from _outside(meeting, ids, inner) if inner else _allowed(meeting, ids, own, number)


def _allowed(meeting: Meeting, ids: _Ids, own: int | None, number: int) -> Iterator[Error]:
    ranges: tuple[Range, ...] = ids.of(meeting.sandbox, ids.allowed)
    if allows(ranges, number):
        return
    what = f"{ids.allowed}, which is {ranges_in_words(ranges)} ({_see(meeting.sandbox, ids.allowed)})"
    if own is not None:
        yield meeting.container.error((ids.own,), f"{number} is not in {what}")
    elif (ids.default,) not in meeting.sandbox.found:  # one that is written was checked with its file
        yield meeting.container.error(
            (), f"there is no {ids.own}, and {ids.default} is {number}, which is not in {what}"
        )


def _outside(meeting: Meeting, ids: _Ids, maps: tuple[IdMap, ...]) -> Iterator[Error]:
    """With a map of the container's own, the sandbox limits the ids of the host."""
    ranges: tuple[Range, ...] = ids.of(meeting.sandbox, ids.allowed)
    for index, each in enumerate(maps):
        if not covers(ranges, each.outer):
            where = f"({_see(meeting.sandbox, ids.allowed)})"
            message = f"{each.outer} is not in {ids.allowed}, which is {ranges_in_words(ranges)} {where}"
            yield meeting.container.error((ids.map, index, "outside"), message)


# Ports


def tcp_ports(meeting: Meeting) -> Iterator[Error]:
    """Every TCP port in the host's network is allowed by the sandbox."""
    ranges = meeting.sandbox.value.allow_tcp_ports
    yield from _ports(meeting, "tcp-ports", "allow-tcp-ports", ranges)
    if meeting.sandbox.value.bridged_network is not None:
        return
    for name, kind in meeting.container.value.variables.items():
        value = meeting.value.variables.get(name, "")
        if isinstance(kind, PortVariable) and value.isdecimal() and not allows(ranges, int(value)):
            yield meeting.error(("variables", name), _not_allowed(meeting, value, "allow-tcp-ports", ranges))


def udp_ports(meeting: Meeting) -> Iterator[Error]:
    """Every UDP port in the host's network is allowed by the sandbox."""
    return _ports(meeting, "udp-ports", "allow-udp-ports", meeting.sandbox.value.allow_udp_ports)


def _ports(meeting: Meeting, key: str, allowed: str, ranges: tuple[Range, ...]) -> Iterator[Error]:
    for path, port in _host_ports(meeting, key):
        if allows(ranges, port):
            continue
        written = str(path[1])
        if isinstance(meeting.container.value.variables.get(is_variable(written)), PortVariable):
            continue  # reported where the value of the variable is written
        message = _not_allowed(meeting, port, allowed, ranges)
        if "@{" in written:
            yield meeting.error(("variables",), f"{key}.{written} of {meeting.container.file}: {message}")
        else:
            yield meeting.container.error(path, message)


def _not_allowed(meeting: Meeting, port: int | str, allowed: str, ranges: tuple[Range, ...]) -> str:
    where = _see(meeting.sandbox, allowed)
    return f"port {port} is not in {allowed}, which is {ranges_in_words(ranges)} ({where})"


def _host_ports(meeting: Meeting, key: str) -> Iterator[tuple[Path, int]]:
    """(path, port) of the entries of tcp-ports or udp-ports that are opened in the host's network."""
    bridged = meeting.sandbox.value.bridged_network is not None
    for path, found in meeting.container.found.items():
        if len(path) == 2 and path[0] == key and found.key is not None and (found.value.external or not bridged):
            yield path, found.key


class Address(NamedTuple):
    """A socket in the host's network, or in its file system, and who wants it."""

    protocol: str
    host: str
    port: int
    meeting: Meeting
    path: Path
    ipv6_only: bool = False
    reuse_port: bool = False

    def __str__(self) -> str:
        if self.protocol == "unix":
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol} {host}:{self.port}"

    def overlaps(self, other: Address) -> bool:
        """Whether the kernel would refuse to open both (EADDRINUSE, bind(2)) although they are two."""
        return self.host != other.host and (self._takes(other) or other._takes(self))

    def _takes(self, other: Address) -> bool:
        """Whether connections to the other's host would arrive here."""
        if self.host == "::":
            return ":" in other.host or not self.ipv6_only
        return self.host == "0.0.0.0" and ":" not in other.host  # noqa: S104 - to be compared

    def differences(self, other: Address) -> str:
        """The keys that differ although one address has one value of them."""
        return " and ".join(
            name.replace("_", "-")
            for name in ("reuse_port", "ipv6_only")
            if getattr(self, name) != getattr(other, name)
        )

    @property
    def place(self) -> Place:
        """Where it was asked for."""
        written = str(self.path[1]) if len(self.path) > 1 else "@{"
        if "@{" in written:
            return self.meeting.processes.place((self.meeting.name, "variables"))
        return self.meeting.container.place(self.path)


def addresses(meeting: Meeting) -> Iterator[Address]:
    """Every socket that the container wants outside of a network of its own."""
    container = meeting.container.value
    bridged = meeting.sandbox.value.bridged_network is not None
    paths = {(path[0], found.key): path for path, found in meeting.container.found.items() if found.key is not None}
    protocols: tuple[tuple[str, str, Mapping[int, TcpPort] | Mapping[int, UdpPort]], ...] = (
        ("tcp", "tcp-ports", container.tcp_ports),
        ("udp", "udp-ports", container.udp_ports),
    )
    for protocol, key, ports in protocols:
        for port, entry in ports.items():
            if entry.external or not bridged:
                where = paths.get((key, port), (key,))
                yield Address(protocol, entry.host, port, meeting, where, entry.ipv6_only, entry.reuse_port)
    for virtual, path in unix_paths(meeting).items():
        if path is not None:
            yield Address("unix", path, 0, meeting, paths["unix-sockets", virtual])


def clashes(meetings: Iterable[Meeting]) -> Iterator[tuple[Error, Meeting, Meeting]]:
    """(error, one, other) for sockets that two sandboxes want, or that cannot be open at once.

    Within a sandbox a socket is shared; between two, one would get the other's connections.
    """
    owners: dict[tuple[str, int | str], dict[tuple[str, str], Address]] = {}
    for address in (address for meeting in meetings for address in addresses(meeting)):
        others = owners.setdefault((address.protocol, address.port or address.host), {})
        for other in others.values():
            if message := _clash(address, other):
                yield Error(*address.place, _written(address), message), address.meeting, other.meeting
                break
        others.setdefault((address.host, address.meeting.sandbox_name), address)


def _clash(address: Address, other: Address) -> str:
    place = other.place
    where = f"{other.meeting.full_name} ({place.file}:{place.line})"
    if address.host == other.host and address.meeting.sandbox_name != other.meeting.sandbox_name:
        return f"{address.meeting.full_name} wants {address}, which belongs to another sandbox: {where}"
    if address.protocol != "unix" and address.overlaps(other):
        return f"{address.meeting.full_name} wants {address}, which cannot be open beside {other} of {where}"
    if address.host == other.host and (keys := address.differences(other)):
        return f"{address.meeting.full_name} shares {address} with {where}: {keys} must be the same"
    return ""


def _written(address: Address) -> str:
    in_container = address.place.file != address.meeting.processes.file
    return ".".join(map(str, address.path)) if in_container else f"{address.meeting.name}.variables"


# Volumes


def volumes(meeting: Meeting) -> Iterator[Error]:
    """Every virtual path leads to a directory that the sandbox names."""
    readonly, writable = meeting.sandbox.value.readonly_paths, meeting.sandbox.value.writable_paths
    for point, volume in meeting.container.value.volumes.items():
        if volume_source(volume, meeting.sandbox.value) is not None or not isinstance(volume, Readonly | Persistent):
            continue
        keys = "readonly-paths or writable-paths" if isinstance(volume, Readonly) else "writable-paths"
        message = f"{quoted(volume.path)} is not below a path of {keys} in {meeting.sandbox.file}"
        hint = find_prefix(volume.path, list(readonly)) is not None and find_prefix(volume.path, list(writable)) is None
        more = ": it is in readonly-paths, use !Readonly" if isinstance(volume, Persistent) and hint else ""
        yield meeting.container.error(_path_of(meeting.container, "volumes", point), message + more)


def volume_source(volume: object, sandbox: Sandbox) -> tuple[str, str] | None:
    """The directory that the sandbox names and the path below it that a volume shows; None when it shows none.

    The longest prefix wins.
    """
    if isinstance(volume, Readonly):
        # The same virtual path in both is the read-only one.
        return _place(volume.path, {**sandbox.writable_paths, **sandbox.readonly_paths})
    if isinstance(volume, Persistent):
        return _place(volume.path, sandbox.writable_paths)
    return None


def _place(path: str, directories: Mapping[str, str]) -> tuple[str, str] | None:
    prefix = find_prefix(path, list(directories))
    return None if prefix is None else (directories[prefix], below(prefix, path))


def unix_paths(meeting: Meeting) -> dict[str, str | None]:
    """Virtual path of each UNIX socket → its path on the host; None when the sandbox does not name one."""
    writable = meeting.sandbox.value.writable_paths
    places = {path: _place(path, writable) for path in meeting.container.value.unix_sockets}
    return {path: os.path.join(*place) if place else None for path, place in places.items()}


def unix_sockets(meeting: Meeting) -> Iterator[Error]:
    """UNIX sockets are made where the sandbox may write; a path of theirs has a length."""
    for virtual, path in unix_paths(meeting).items():
        at = _path_of(meeting.container, "unix-sockets", virtual)
        if path is None:
            message = f"{quoted(virtual)} is not below a path of writable-paths in {meeting.sandbox.file}"
            yield meeting.container.error(at, message)
        elif len(path.encode()) > 107:
            yield meeting.container.error(at, f"{path} is longer than 107 bytes, all that unix(7) takes")


def _path_of(document: Document[Any], key: str, name: object) -> Path:
    """The path under which an entry of a mapping is written: the value may have been spelled otherwise."""
    return next((path for path, found in document.found.items() if path[:1] == (key,) and found.key == name), (key,))


# Addresses


def ip_addresses(meeting: Meeting) -> Iterator[Error]:
    """In a bridged network every instance has an address of it; elsewhere there is none to give."""
    given = meeting.value.ip_addresses
    bridge = meeting.sandbox.value.bridged_network
    if bridge is None:
        if given:
            message = f"{meeting.sandbox.file} has no bridged-network, so instances have no address of their own"
            yield meeting.error(("ip-addresses",), message)
        return
    if meeting.value.kind == "Daemon" and len(given) < meeting.value.instances:
        message = f"{_count(meeting.value.instances, 'instance')} but {_count(len(given), 'address', 'es')}"
        yield meeting.error(("ip-addresses",), message)
    for index, address in enumerate(given):
        if ipaddress.ip_address(address) not in bridge.network:
            where = _see(meeting.sandbox, "bridged-network")
            yield meeting.error(("ip-addresses", index), f"{address} is not in {bridge.network} ({where})")
        elif address in given[:index]:
            yield meeting.error(("ip-addresses", index), f"{address} is there already")


# Memory


def memory_of(meeting: Meeting) -> int | None:
    """The memory limit of an instance in bytes: its own, else the sandbox's default; None is unlimited."""
    own = meeting.container.value.memory_limit
    return meeting.sandbox.value.default_memory_limit if own is None else own


def memory(meeting: Meeting) -> Iterator[Error]:
    """No container has more memory than the sandbox gives to one."""
    most = meeting.sandbox.value.max_memory_limit
    limit = memory_of(meeting)
    if most is None or (limit is not None and limit <= most):
        return
    where = f"max-memory-limit, which is {most} ({_see(meeting.sandbox, 'max-memory-limit')})"
    if limit is None:
        yield meeting.container.error((), f"there is no memory-limit, but the sandbox has {where}: add one")
    else:
        yield meeting.container.error(("memory-limit",), f"{limit} is more than {where}")


def memory_in_all(sandbox: Document[Sandbox], meetings: list[Meeting]) -> Iterator[Error]:
    """The limits of all instances together fit into the sandbox's."""
    whole = sandbox.value.memory_limit
    shares = {
        meeting.name: (meeting.value.instances, limit)
        for meeting in meetings
        if meeting.value.kind == "Daemon" and (limit := memory_of(meeting)) is not None
    }
    total = sum(instances * limit for instances, limit in shares.values())
    if whole is not None and total > whole:
        sums = ", ".join(f"{name}: {instances} of {limit}" for name, (instances, limit) in shares.items())
        yield sandbox.error(("memory-limit",), f"the instances may use {total} together, more than {whole} ({sums})")


RULES = (kinds, sockets_of_commands, users, groups, tcp_ports, udp_ports, volumes, unix_sockets, ip_addresses, memory)
"""What must hold for every entry of a process file."""


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{plural}"
