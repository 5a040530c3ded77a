"""A socket for every slot of one address (SO_REUSEPORT), all held by the supervisor, and who of them is in rotation.

Three rules keep every connection:

- There is always one open socket. The first is opened with the address, before there is any slot; the first slot
  takes it with its queue, and the last slot leaves it behind.
- There is always one socket in rotation. Where no slot is, it is the one that left last: its connections wait for it,
  or for its replacement.
- A socket is closed only after the kernel has given its queue to those in rotation.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from ..desired import Port
from . import sockets
from .endpoint import Endpoint, Surroundings
from .sockets import ListenFailed
from .steering import Exceptions, Steering

NOBODY = ""  # the slot of a socket that no instance has
_TCP_INFO_SIZE, _UNACKED = 104, slice(24, 28)  # of a listening socket: its accept queue; struct tcp_info of linux/tcp.h


class Member(Endpoint):
    """The socket of one slot."""

    def __init__(
        self,
        port: Port,
        around: Surroundings,
        opened: socket.socket,
        steering: Steering,
        position: int,
        renewed: Callable[[], None],
    ) -> None:
        super().__init__(port, around, opened)
        self.position = position
        self._steering = steering
        self._renewed = renewed

    def renewed(self) -> None:
        """The kernel took it out of the map, and gave its queue to others."""
        self.rejoin()
        self._renewed()

    def rejoin(self) -> None:
        """Listen, and be in the map, even if an application has shut the socket down. Raises OSError."""
        if self.port.kind == "tcp":
            sockets.listen_again(self.socket, self.port)
        self._steering.replace(self.position, self.socket)

    @property
    def queued(self) -> int:
        """How many connections wait to be accepted; 0 for datagrams, which the kernel does not count."""
        if self.port.kind != "tcp":
            return 0
        information = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        return int.from_bytes(information[_UNACKED], "little")

    def wake(self) -> None:
        """Wake who waits at the socket; on a listening one this shutdown(2) has no other effect.

        Until a fix of 2026 (3864c6b, "tcp: call sk_data_ready() after listener migration"), Linux gives a socket the
        connections of another without telling who waits for them: they would wait for the next connection.
        """
        # One that does not listen has got nothing, and would keep the mark, see sockets.listen_again.
        if self.port.kind == "tcp" and self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            with suppress(OSError):  # its application has shut it down just now
                self.socket.shutdown(socket.SHUT_WR)

    def retire(self) -> None:
        """Close the socket, whoever else has it still; the kernel gives its queue to those in rotation."""
        if self.port.kind == "tcp":
            with suppress(OSError):  # its application has shut it down before
                self.socket.shutdown(socket.SHUT_RD)
        self.close()


class Slots:
    """The sockets of an address with `reuse-port`."""

    def __init__(self, port: Port, around: Surroundings, steering: Steering) -> None:
        self.port = port
        self._around = around
        self._steering = steering
        self._exceptions: Exceptions | None = None
        self._members: dict[str, Member] = {}
        self._rotation: list[str] = []
        self._last = NOBODY  # who left the rotation last
        self._refusing = False

    @classmethod
    def open(cls, port: Port, around: Surroundings) -> Slots:
        """Open the address with a first socket. Raises ListenFailed."""
        sockets.probe(port)
        slots = cls(port, around, _steering(port, None))
        try:
            slots._join(NOBODY, sockets.open_socket(port))
            slots._steer()
        except ListenFailed:
            slots.close()
            raise
        return slots

    @classmethod
    def adopting(cls, port: Port, around: Surroundings, survivor: socket.socket) -> Slots:
        """Take an address over with a socket of it; who is in rotation stays so until somebody enters or leaves it.

        Raises ListenFailed.
        """
        return cls(port, around, _steering(port, survivor))

    def of(self, slot: str) -> socket.socket:
        """Return the slot's socket, opened now if it is not yet. Raises ListenFailed."""
        if slot not in self._members and NOBODY in self._members:
            self._members[slot] = self._members.pop(NOBODY)
            self._last = slot
        elif slot not in self._members:
            self._join(slot, sockets.open_socket(self.port))
        return self._members[slot].socket

    def _join(self, slot: str, opened: socket.socket) -> None:
        taken = {member.position for member in self._members.values()}
        try:
            position = self._steering.add(opened, taken)
        except OSError as error:
            opened.close()
            raise _unsteered(self.port, error) from error
        renewed = self._wake  # what was in its queue is in others' now
        self._members[slot] = Member(self.port, self._around, opened, self._steering, position, renewed)

    def change(self, port: Port) -> None:
        """Change the living sockets."""
        self.port = port
        for member in self._members.values():
            member.change(port)

    def enter_rotation(self, slot: str) -> None:
        """Let new connections reach the slot. Raises ListenFailed."""
        self.of(slot)
        if slot not in self._rotation:
            self._rotation.append(slot)
        self._steer()

    def leave_rotation(self, slot: str) -> None:
        """Keep new connections away from the slot; connections whose handshake has begun may still reach it.

        Raises ListenFailed.
        """
        if slot in self._rotation:
            self._rotation.remove(slot)
            self._last = slot
            self._steer()

    def refuse(self) -> None:
        """Refuse new connections; those that wait are for those who have them. Raises ListenFailed."""
        self._refusing = True
        self._steer()

    def _steer(self) -> None:
        chosen = [self._members[slot] for slot in self._rotation or [self._last] if slot in self._members]
        chosen = chosen or list(self._members.values())[:1]
        if not chosen:
            return
        try:
            chosen[0].rejoin()  # only a listening socket carries the program to the others
            positions = [member.position for member in chosen]
            self._steering.steer(chosen[0].socket, positions, self._exceptions, refuse=self._refusing)
        except OSError as error:
            raise _unsteered(self.port, error) from error

    def add_exception(self, slot: str, source: tuple[str, int]) -> None:
        """Let connections from this address and port reach the slot, in rotation or not. Raises ListenFailed."""
        self.of(slot)
        try:
            exceptions = self._exceptions or self._begin_exceptions()
            exceptions.add(source, self._members[slot].position)
        except OSError as error:
            raise _unsteered(self.port, error) from error

    def _begin_exceptions(self) -> Exceptions:
        """Steer with exceptions from now on; this also replaces a program with those of an earlier supervisor."""
        self._exceptions = Exceptions(sockets.family(self.port))
        try:
            self._steer()
        except ListenFailed:
            self._exceptions.close()
            self._exceptions = None
            raise
        return self._exceptions

    def remove_exception(self, source: tuple[str, int]) -> None:
        """Let connections from this source go where all others go."""
        if self._exceptions is not None:
            self._exceptions.remove(source)

    def queued(self, slot: str) -> int:
        """Return how many connections wait for the slot."""
        member = self._members.get(slot)
        return member.queued if member else 0

    def release(self, slot: str) -> None:
        """Close the slot's socket, unless it is the last one. Raises ListenFailed."""
        if slot not in self._members:
            return
        if slot in self._rotation:
            self._rotation.remove(slot)
        member = self._members.pop(slot)
        if not self._members:
            self._members[NOBODY] = member
            self._last = NOBODY
            return
        try:
            self._steer()
        finally:
            member.retire()
            self._wake()

    def _wake(self) -> None:
        for member in self._members.values():
            member.wake()

    def adopt(self, slot: str, opened: socket.socket) -> bool:
        """Take over a survivor's socket, unless the slot has another one. Raises ListenFailed."""
        if slot not in self._members:
            self._join(slot, opened)
            return True
        ours = os.path.sameopenfile(self._members[slot].socket.fileno(), opened.fileno())
        opened.close()
        return ours

    def held(self) -> list[tuple[str, int]]:
        """Return the slots' sockets."""
        return [(slot, member.socket.fileno()) for slot, member in self._members.items()]

    def close(self) -> None:
        """Close them all."""
        for member in self._members.values():
            member.close()
        self._members.clear()
        self._steering.close()
        if self._exceptions is not None:
            self._exceptions.close()


def _steering(port: Port, survivor: socket.socket | None) -> Steering:
    try:
        found = None if survivor is None else Steering.of(survivor)
        return found or Steering.create()
    except OSError as error:
        raise _unsteered(port, error) from error


_HINTS = {
    **dict.fromkeys((errno.EPERM, errno.ENOSYS), "; reuse-port needs root and eBPF (CONFIG_BPF_SYSCALL)"),
    errno.ENOSPC: "; instances without reuse-port share one socket",
}


def _unsteered(port: Port, error: OSError) -> ListenFailed:
    what = f"{error.filename}: " if error.filename else ""
    hint = _HINTS.get(error.errno or 0, "")
    return ListenFailed(f"cannot steer connections of {port.address}: {what}{error.strerror}{hint}")
