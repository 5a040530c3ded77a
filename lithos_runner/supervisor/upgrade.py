"""A supervisor that replaces itself by a newer version of its program: the same pid, and so the same children.

What is in its state files the new program reads as after a crash (``adoption``). What nobody else may have is handed
over: the locks, the socket of what instances say, with what nobody has read yet, and every listening socket, also those
whose instances are just not alive; and where all that is, which a master file cannot change while somebody is there.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

from .desired import Host, Port, host_of

VARIABLE = "LITHOS_HANDED_OVER"  # the number of a descriptor: a string of the environment has at most 128 KiB


class Held(NamedTuple):
    """An open listening socket and whose it is; see ``Listeners``."""

    port: Port
    slot: str
    descriptor: int


class NotifySocket(NamedTuple):
    """The socket to which instances send what they say; see ``Notifications``."""

    address: str
    descriptor: int


class Handover(NamedTuple):
    """What one program leaves to the next."""

    lock: int | None = None
    sockets: tuple[Held, ...] = ()
    claims: Mapping[str, int] = {}  # see ``Claims.held``
    notify_socket: NotifySocket | None = None
    host: Host | None = None


def try_out() -> int:
    """Start a child that loads the program as it is now, and return its pid: exit status 0 if it can be loaded."""
    # What both commands import before they touch anything.
    command = [sys.executable, "-P", "-c", "import lithos_runner.commands.main, lithos_runner.supervisor.supervisor"]
    return os.posix_spawn(sys.executable, command, os.environ, setsigmask=())


def replace(handover: Handover, notify_socket: str | None) -> NoReturn:
    """Become the program that is installed now, with the arguments of this one. Raises OSError when that fails."""
    document = os.memfd_create("lithos-handover")
    environ = {**os.environ, VARIABLE: str(document)}
    if notify_socket:
        environ["NOTIFY_SOCKET"] = notify_socket
    # A signal that came before the new program has its handlers would end it: execve(2) keeps what is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    descriptors = [document, *_descriptors(handover)]
    try:
        _write(document, _encode(handover))
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606 - that is the point
    finally:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(document)


def take() -> Handover:
    """Return what an earlier program of this process has left to us, if any."""
    document = os.environ.pop(VARIABLE, "")
    handover = _decode(_read(int(document))) if document else Handover()
    for descriptor in _descriptors(handover):
        fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    return handover


def _write(descriptor: int, text: str) -> None:
    with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
        file.write(text)


def _read(descriptor: int) -> str:
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, encoding="utf-8") as file:
        return file.read()


def _descriptors(handover: Handover) -> list[int]:
    alone = (handover.lock, handover.notify_socket and handover.notify_socket.descriptor)
    several = (*(held.descriptor for held in handover.sockets), *handover.claims.values())
    return [*(each for each in alone if each is not None), *several]


def _encode(handover: Handover) -> str:
    sockets = [{"port": held.port._asdict(), "slot": held.slot, "fd": held.descriptor} for held in handover.sockets]
    alone = {"lock": handover.lock, "notify_socket": handover.notify_socket}
    host = handover.host and handover.host._asdict()
    return json.dumps({**alone, "sockets": sockets, "claims": handover.claims, "host": host})


def _decode(text: str) -> Handover:
    document: dict[str, Any] = json.loads(text)
    sockets = (Held(_port(each["port"]), each["slot"], each["fd"]) for each in document["sockets"])
    said, host = document["notify_socket"], document["host"]
    return Handover(
        document["lock"],
        tuple(sockets),
        document["claims"],
        said and NotifySocket(*said),
        host and host_of(host),
    )


def _port(fields: dict[str, Any]) -> Port:
    # The older program may know keys that this one does not, when it is a step back.
    return Port(**{name: value for name, value in fields.items() if name in Port._fields})
