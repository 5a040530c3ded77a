"""Which socket of an SO_REUSEPORT group gets a new connection: an eBPF program and the map that it picks from.

Classic BPF can steer too (SO_ATTACH_REUSEPORT_CBPF), by the place of a socket in an array of the kernel's. But that
order changes behind our back whenever a socket is closed or shut down (``__reuseport_detach_sock`` of
net/core/sock_reuseport.c moves the last one into the gap); nobody can read it, so a later supervisor could not know it;
and a queue dies with its socket. In a map of type REUSEPORT_SOCKARRAY a socket has the position that we gave it, the
map can be found and read again, and with the attach type SELECT_OR_MIGRATE (Linux 5.14) the kernel hands the queue of a
closed socket to the others, whatever `net.ipv4.tcp_migrate_req` says.

At the end nobody shall get a new one: the program says SK_DROP, and the kernel refuses the connection as if nobody
listened (``bpf_run_sk_reuseport`` of net/core/filter.c). What waits already stays in its queue.

A connection from a source that is among the *exceptions* is not steered like the others but to one position, in
rotation or not. That is how an instance is asked whether it serves, before clients reach it.

See bpf(2), linux/bpf.h and Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress

from ...launch import kernel

POSITIONS = 2048  # sockets of one address
_NAME = b"lithos_slots"  # at most 15 bytes

# enum bpf_cmd, bpf_map_type, bpf_prog_type and bpf_attach_type of linux/bpf.h
_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD = 0, 1, 2, 3, 5
_MAP_GET_NEXT_ID, _MAP_GET_FD_BY_ID, _OBJ_GET_INFO_BY_FD = 12, 14, 15
_HASH, _ARRAY, _REUSEPORT_SOCKARRAY = 1, 2, 20
_SK_REUSEPORT = 21
_SELECT_OR_MIGRATE = 40
_ANY, _NOEXIST = 0, 1
_NO_PREALLOC = 1  # memory for an element when it is there

SO_ATTACH_REUSEPORT_EBPF = 52  # asm-generic/socket.h
SO_COOKIE = 57

# Offsets of struct sk_reuseport_md: a hash over both addresses and ports, with a secret of the kernel's; and the socket
# that is closed, where a connection changes over from it.
_MD_HASH, _MD_MIGRATING = 32, 48
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2
# BPF_FUNC_…
_LOOK_UP, _LOAD_BYTES, _LOAD_BYTES_RELATIVE, _SELECT_REUSEPORT = 1, 26, 68, 82
_FROM_NETWORK_HEADER = 1  # BPF_HDR_START_NET
_SOURCE_AT = {4: 12, 16: 8}  # where the source address is, by its size: RFC 791 and RFC 8200
_DROP, _PASS = 0, 1
_LICENSE = ctypes.create_string_buffer(b"MIT")


def _bpf(command: int, attributes: bytes, what: str) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return kernel.perform(kernel.bpf(command, buffer, what)), buffer.raw


def _create_map(kind: int, value_size: int, entries: int, key_size: int = 4, flags: int = 0) -> int:
    attributes = struct.pack("=7I16s", kind, key_size, value_size, entries, flags, 0, 0, _NAME)
    return _bpf(_MAP_CREATE, attributes, "eBPF map")[0]


def _write(map_fd: int, key: int | bytes, value: bytes, flags: int = _ANY) -> None:
    plain = key if isinstance(key, bytes) else struct.pack("=I", key)
    buffers = [ctypes.create_string_buffer(text, len(text)) for text in (plain, value)]
    pointers = map(ctypes.addressof, buffers)
    _bpf(_MAP_UPDATE, struct.pack("=IxxxxQQQ", map_fd, *pointers, flags), "eBPF map element")


def _delete(map_fd: int, key: bytes) -> None:
    buffer = ctypes.create_string_buffer(key, len(key))
    _bpf(_MAP_DELETE, struct.pack("=IxxxxQQQ", map_fd, ctypes.addressof(buffer), 0, 0), "eBPF map element")


def _read_all(map_fd: int) -> Iterator[tuple[int, bytes]]:
    """Return (key, value) of the elements that are there; one call is prepared for all, as there are thousands."""
    key, value = ctypes.c_uint32(), ctypes.create_string_buffer(8)
    attributes = struct.pack("=IxxxxQQQ", map_fd, ctypes.addressof(key), ctypes.addressof(value), 0)
    read = kernel.bpf(_MAP_LOOKUP, ctypes.create_string_buffer(attributes, len(attributes)), "eBPF map")
    for number in range(POSITIONS):
        key.value = number
        with suppress(FileNotFoundError):  # free; the kernel takes closed sockets out itself
            kernel.perform(read)
            yield number, value.raw


def _instruction(opcode: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("=BBhi", opcode, source << 4 | target, offset, immediate)


def _load_64(target: int, source: int, descriptor: int) -> bytes:
    return _instruction(0x18, target, source, 0, descriptor) + _instruction(0)


_REFUSE = b"".join(
    [
        _instruction(0x79, 2, 6, _MD_MIGRATING),  # r2 = context->migrating_sk
        _instruction(0x55, 2, offset=2),  # if r2 != 0, skip the rest: nobody new
        _instruction(0xB7, 0, immediate=_DROP),
        _instruction(0x95),  # return
    ]
)


def program(
    sockets: int, rotation: int, size: int, exceptions: Exceptions | None = None, *, refuse: bool = False
) -> bytes:
    """Assemble: select from the map ``sockets`` the position that stands at ``hash * size >> 32`` in ``rotation``.

    Multiplied and shifted, a 32-bit hash becomes a number below ``size`` as evenly as with a remainder, and the
    kernel's verifier can see so. Where the selected socket is gone the kernel falls back to any socket of the group.
    What is among the ``exceptions`` goes to the position that stands there. With ``refuse`` nothing new is let in, and
    only what waits for a socket that is closed goes to another.
    """
    by_hash = b"".join(
        [
            _instruction(0x61, 2, 6, _MD_HASH),  # r2 = context->hash
            _instruction(0x27, 2, immediate=size),  # r2 *= size
            _instruction(0x77, 2, immediate=32),  # r2 >>= 32
            _instruction(0x67, 2, immediate=2),  # r2 *= 4
            _load_64(3, _PSEUDO_MAP_VALUE, rotation),
            _instruction(0x0F, 3, 2),  # r3 = &rotation[r2]
        ]
    )
    return b"".join(
        [
            _instruction(0xBF, 6, 1),  # r6 = context; calls leave r6 alone
            _REFUSE if refuse else b"",
            _by_source(exceptions, len(by_hash) // 8) if exceptions else b"",
            by_hash,
            _instruction(0xBF, 1, 6),  # r1 = context
            _load_64(2, _PSEUDO_MAP_FD, sockets),
            _instruction(0xB7, 4, immediate=0),  # no flags
            _instruction(0x85, immediate=_SELECT_REUSEPORT),
            _instruction(0xB7, 0, immediate=_PASS),
            _instruction(0x95),  # return
        ]
    )


def _by_source(exceptions: Exceptions, skipped: int) -> bytes:
    """Assemble: for a source with an exception let r3 point to its position, and skip so many instructions.

    The loads fail where there is no packet: a connection changes over from a socket that is closed.
    """
    size = exceptions.address_size
    key = -size - 4  # below the frame pointer: address, port, and two bytes of zero
    address = [
        _instruction(0x62, 10, offset=-4),  # *(u32 *)(frame - 4) = 0
        _instruction(0xB7, 2, immediate=_SOURCE_AT[size]),  # r2 = offset; r1 is the context still
        _instruction(0xBF, 3, 10),
        _instruction(0x07, 3, immediate=key),  # r3 = frame + key
        _instruction(0xB7, 4, immediate=size),  # r4 = size
        _instruction(0xB7, 5, immediate=_FROM_NETWORK_HEADER),
        _instruction(0x85, immediate=_LOAD_BYTES_RELATIVE),
    ]
    port = [
        _instruction(0xBF, 1, 6),  # r1 = context
        _instruction(0xB7, 2, immediate=0),  # r2 = offset, from the TCP header on
        _instruction(0xBF, 3, 10),
        _instruction(0x07, 3, immediate=-4),  # r3 = frame - 4
        _instruction(0xB7, 4, immediate=2),  # r4 = size
        _instruction(0x85, immediate=_LOAD_BYTES),
    ]
    look_up = [
        _load_64(1, _PSEUDO_MAP_FD, exceptions.descriptor),
        _instruction(0xBF, 2, 10),
        _instruction(0x07, 2, immediate=key),  # r2 = frame + key
        _instruction(0x85, immediate=_LOOK_UP),
    ]
    code = _instruction(0xBF, 3, 0) + _instruction(0x05, offset=skipped)  # r3 = r0, which points to the position
    for step, fails in ((look_up, 0x15), (port, 0x55), (address, 0x55)):  # if r0 == 0, or r0 != 0, skip the rest
        code = b"".join(step) + _instruction(fails, offset=len(code) // 8) + code
    return code


def _load(code: bytes) -> int:
    buffer = ctypes.create_string_buffer(code, len(code))
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        *(_SK_REUSEPORT, len(code) // 8, ctypes.addressof(buffer), ctypes.addressof(_LICENSE)),
        *(0, 0, 0, 0, 0, _NAME, 0, _SELECT_OR_MIGRATE),
    )
    return _bpf(_PROG_LOAD, attributes, "eBPF program")[0]


def cookie(sock: socket.socket) -> bytes:
    """Return the number that the kernel gives to a socket once and never again."""
    return sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8)


class Exceptions:
    """Sources of TCP connections, each with the position that gets them. Its methods raise OSError."""

    def __init__(self, family: socket.AddressFamily) -> None:
        self.address_size = 16 if family == socket.AF_INET6 else 4
        self._family = family
        self.descriptor = _create_map(_HASH, 4, POSITIONS, self.address_size + 4, _NO_PREALLOC)

    def add(self, source: tuple[str, int], position: int) -> None:
        """Give connections from this address and port to ``position``."""
        _write(self.descriptor, self._key(source), struct.pack("=I", position))

    def remove(self, source: tuple[str, int]) -> None:
        """Steer connections from there as all others."""
        with suppress(FileNotFoundError):
            _delete(self.descriptor, self._key(source))

    def _key(self, source: tuple[str, int]) -> bytes:
        host, port = source
        return socket.inet_pton(self._family, host.partition("%")[0]) + struct.pack("!H2x", port)

    def close(self) -> None:
        """Let go of the map; it stays as long as a program uses it."""
        os.close(self.descriptor)


class Steering:
    """The map of one group's sockets. Its methods raise OSError."""

    def __init__(self, sockets: int) -> None:
        self._sockets = sockets
        self._known: dict[bytes, int] = {}  # by cookie: the positions of survivors that have not come back yet

    @classmethod
    def create(cls) -> Steering:
        """Make an empty map; only root may (CAP_BPF)."""
        return cls(_create_map(_REUSEPORT_SOCKARRAY, 8, POSITIONS))

    @classmethod
    def of(cls, member: socket.socket) -> Steering | None:
        """Find the map that an earlier supervisor made for a socket; the kernel keeps it as long as it steers."""
        wanted = cookie(member)
        for descriptor in _maps():
            found = cls(descriptor)
            found._known = {value: position for position, value in _read_all(descriptor)}
            if wanted in found._known:
                return found
            found.close()
        return None

    def add(self, member: socket.socket, taken: Container[int]) -> int:
        """Return the position of a listening socket: what it has already, or the first that is not ``taken``."""
        known = self._known.pop(cookie(member), None)
        if known is not None:
            return known
        for position in range(POSITIONS):
            if position in taken:
                continue
            try:
                self._put(position, member, _NOEXIST)
            except FileExistsError:  # by a survivor's socket that has not been adopted yet
                continue
            return position
        raise OSError(errno.ENOSPC, f"there are {POSITIONS} sockets already")

    def replace(self, position: int, member: socket.socket) -> None:
        """Put a listening socket at a position, whoever was there."""
        try:
            self._put(position, member, _ANY)
        except OSError as error:
            if error.errno != errno.EBUSY:  # it is there already
                raise

    def _put(self, position: int, member: socket.socket, flags: int) -> None:
        _write(self._sockets, position, struct.pack("=Q", member.fileno()), flags)

    def steer(
        self,
        carrier: socket.socket,
        positions: Sequence[int],
        exceptions: Exceptions | None = None,
        *,
        refuse: bool = False,
    ) -> None:
        """Give new connections to the sockets at ``positions`` only; ``carrier`` is any listening socket of the group.

        With ``refuse`` there are no new ones, and those sockets get what waits for one that is closed.
        One program replaces the other at once, so that no connection meets none.
        """
        table = struct.pack(f"={len(positions)}I", *positions)
        rotation = _create_map(_ARRAY, len(table), 1)
        try:
            _write(rotation, 0, table)
            loaded = _load(program(self._sockets, rotation, len(positions), exceptions, refuse=refuse))
        finally:
            os.close(rotation)  # the program holds it
        try:
            carrier.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, loaded)
        finally:
            os.close(loaded)

    def close(self) -> None:
        """Let go of the map; it steers on as long as there are sockets."""
        os.close(self._sockets)


def _maps() -> Iterator[int]:
    """Open every map of this host that is one of ours, by name and kind."""
    number = 0
    while True:
        try:
            _, answer = _bpf(_MAP_GET_NEXT_ID, struct.pack("=III", number, 0, 0), "eBPF maps")
        except FileNotFoundError:  # that was the last one
            return
        number = struct.unpack_from("=I", answer, 4)[0]
        try:
            descriptor, _ = _bpf(_MAP_GET_FD_BY_ID, struct.pack("=III", number, 0, 0), f"eBPF map {number}")
        except FileNotFoundError:  # gone since
            continue
        if _is_ours(descriptor):
            yield descriptor
        else:
            os.close(descriptor)


def _is_ours(descriptor: int) -> bool:
    info = ctypes.create_string_buffer(40)  # struct bpf_map_info up to its name
    attributes = struct.pack("=IIQ", descriptor, len(info), ctypes.addressof(info))
    _bpf(_OBJ_GET_INFO_BY_FD, attributes, "eBPF map")
    kind, _, _, _, entries, _, name = struct.unpack("=6I16s", info.raw)
    return (kind, entries, name.rstrip(b"\0")) == (_REUSEPORT_SOCKARRAY, POSITIONS, _NAME)
