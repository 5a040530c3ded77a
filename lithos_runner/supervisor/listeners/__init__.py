"""Listening sockets: opened by root on behalf of applications, owned by the configuration.

A socket stays open as long as the configuration or an instance wants it, whatever instances do: while they crash,
clients wait in its queue and none is refused. The files, from the top: `shared.py` and `slots.py` are the two ways in
which instances have an address, `endpoint.py` is one open socket, `sockets.py` and `unix.py` open and recognise it,
`steering.py` is the kernel's part of rotation.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable

from ..desired import Port
from ..loop import Loop
from . import sockets
from .endpoint import Surroundings
from .shared import Shared
from .slots import Slots
from .sockets import ListenFailed, needs_new_socket

Opened = Shared | Slots


class Listeners:
    """The open sockets by identity; process groups that name the same address share what is there.

    A slot is an instance's full name, such as "run/hello.0": it outlives the instance's lives. A port that could not
    be opened, or not be taken back from an instance, is passed over where nothing has to be opened.
    """

    def __init__(self, loop: Loop, say: Callable[[str], None]) -> None:
        self._around = Surroundings(loop, say)
        self._opened: dict[tuple[str, str, int], Opened] = {}

    def open(self, ports: Iterable[Port]) -> None:
        """Open every address that is not open yet; raises ListenFailed, and then nothing has changed."""
        made = []
        try:
            for port in ports:
                opened = self._opened.get(port.identity)
                if opened is None:
                    self._opened[port.identity] = self._open(port)
                    made.append(port.identity)
                elif refusal := _refusal(opened.port, port):
                    raise ListenFailed(refusal)
        except ListenFailed:
            for identity in made:
                self._opened.pop(identity).close()
            raise

    def _open(self, port: Port) -> Opened:
        try:
            return _kind(port).open(port, self._around)
        except ListenFailed as failed:
            there = next((each.port for each in self._opened.values() if _meets(each.port, port)), None)
            if there is None or not _is_taken(failed):
                raise
            what = f"cannot listen on {port.address} while {there.address} is open"
            raise ListenFailed(f"{what}; {_REMEDY}") from failed

    def keep(self, ports: Iterable[Port]) -> list[str]:
        """Close what is not among ``ports``, and change living sockets to what ``ports`` say of them.

        Of several ports with one identity the first one's options hold, so the configuration's go before those of
        instances that are being replaced. Returns a sentence for each change that needs a new socket.
        """
        wanted: dict[tuple[str, str, int], Port] = {}
        for port in ports:
            wanted.setdefault(port.identity, port)
        for identity in self._opened.keys() - wanted.keys():
            self._opened.pop(identity).close()
        refusals = []
        for identity, opened in self._opened.items():
            if refusal := _refusal(opened.port, wanted[identity]):
                refusals.append(refusal)
            else:
                opened.change(wanted[identity])
        return refusals

    def descriptors(self, ports: Iterable[Port], slot: str) -> dict[int, int]:
        """Return the sockets as the slot's application shall see them: its descriptor → ours.

        With `reuse-port` it is the slot's own, opened now if it is not yet; it is not in rotation until
        `enter_rotation`. Raises ListenFailed.
        """
        return {port.fd: self._opened[port.identity].of(slot).fileno() for port in ports}

    def enter_rotation(self, ports: Iterable[Port], slot: str) -> None:
        """Let new connections reach the slot."""
        for port in ports:
            self._attempt(lambda opened: opened.enter_rotation(slot), port)

    def leave_rotation(self, ports: Iterable[Port], slot: str) -> None:
        """Keep new connections away from the slot; if it is the last one in rotation, they wait in its queue."""
        for port in ports:
            self._attempt(lambda opened: opened.leave_rotation(slot), port)

    def refuse(self) -> None:
        """Refuse new connections from now on, where those that wait stay: with `reuse-port`."""
        for opened in self._opened.values():
            try:
                opened.refuse()
            except ListenFailed as error:
                self._around.say(f"{error}; new ones are let in until the last instance has ended")

    def add_exception(self, port: Port, slot: str, source: tuple[str, int]) -> None:
        """Let TCP connections from this numeric address and port reach the slot, even if it is not in rotation.

        Whoever adds it has bound a socket there, so that it is for nobody else.
        """
        self._attempt(lambda opened: opened.add_exception(slot, source), port)

    def remove_exception(self, port: Port, source: tuple[str, int]) -> None:
        """Let connections from this source go where all others go."""
        self._attempt(lambda opened: opened.remove_exception(source), port)

    def release(self, ports: Iterable[Port], slot: str) -> None:
        """Close the slot's own sockets: it is gone for good. What waits there goes to the slots in rotation.

        The last socket of an address stays, with its queue, for the next slot.
        """
        for port in ports:
            self._attempt(lambda opened: opened.release(slot), port)

    def hand_over(self, ports: Iterable[Port], slot: str) -> None:
        """Let the slots in rotation have the connections that wait for a slot whose application has died.

        Its next life may be far away. Where it is the only slot they wait for that; so do datagrams, which the kernel
        does not hand over.
        """
        self.release([port for port in ports if port.kind == "tcp"], slot)

    def _attempt(self, act: Callable[[Opened], None], port: Port) -> None:
        for opened in self._open_ones([port]):
            try:
                act(opened)
            except ListenFailed as error:
                self._around.say(f"{error}; they go where they went before")

    def _open_ones(self, ports: Iterable[Port]) -> list[Opened]:
        return [self._opened[port.identity] for port in ports if port.identity in self._opened]

    def queued(self, ports: Iterable[Port], slot: str) -> int:
        """Return how many connections wait in queues of the slot alone, to be accepted by its application."""
        return sum(opened.queued(slot) for opened in self._open_ones(ports))

    def inodes(self, ports: Iterable[Port], slot: str) -> frozenset[int]:
        """Return the inodes of the sockets on which the slot's application waits for clients. Raises ListenFailed."""
        return frozenset(os.fstat(opened.of(slot).fileno()).st_ino for opened in self._open_ones(ports))

    def adopt(self, port: Port, slot: str, descriptor: int) -> bool:
        """Take over a socket that the instance in ``slot`` has from an earlier supervisor; do so before `open`.

        ``descriptor`` is a duplicate in this process, see pidfd_getfd(2), and this function's in any case. Returns
        False, and closes it, when it is not a socket that a supervisor opened for ``port``, or when another one is
        known for it already. Raises ListenFailed.
        """
        try:
            survivor = socket.socket(fileno=descriptor)
        except OSError:  # no socket at all
            os.close(descriptor)
            return False
        if not sockets.is_that_of(survivor, port):
            survivor.close()
            return False
        opened = self._opened.get(port.identity)
        if opened is not None:
            return opened.adopt(slot, survivor)
        if not port.reuse_port:
            self._opened[port.identity] = Shared(port, self._around, survivor)
            return True
        try:
            slots = Slots.adopting(port, self._around, survivor)
        except ListenFailed:
            survivor.close()
            raise
        self._opened[port.identity] = slots
        return slots.adopt(slot, survivor)

    def held(self) -> list[tuple[Port, str, int]]:
        """Return every open socket with its port and its slot, "" where there is none; `adopt` takes them back."""
        return [(opened.port, slot, fd) for opened in self._opened.values() for slot, fd in opened.held()]

    def close(self) -> None:
        """Close all."""
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()


def _kind(port: Port) -> type[Opened]:
    return Slots if port.reuse_port else Shared


def _refusal(old: Port, new: Port) -> str:
    """Say which difference needs a new socket, or nothing."""
    keys = " and ".join(needs_new_socket(old, new))
    now = "one socket per instance (reuse-port)" if old.reuse_port else "one socket for all instances"
    return keys and (
        f"cannot change {keys} of {old.address}, which is open with {now}: that needs a new socket; {_REMEDY}"
    )


def _meets(one: Port, other: Port) -> bool:
    """Whether they are the same port, if perhaps at different addresses of the host."""
    return one.kind != "unix" and (one.kind, one.port) == (other.kind, other.port)


def _is_taken(failed: ListenFailed) -> bool:
    return isinstance(failed.__cause__, OSError) and failed.__cause__.errno == errno.EADDRINUSE


# An address stays open for those who wait in its queue, so it is not enough to end its instances.
_REMEDY = "take every process that has it out of the configuration until its instances have ended, or take another port"


__all__ = ["ListenFailed", "Listeners", "needs_new_socket"]
