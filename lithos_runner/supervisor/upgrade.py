"""A supervisor that replaces itself by a newer version of its program: the same pid, and so the same children.

What is in its state files the new program reads as after a crash (``adoption``). What nobody else may have is handed
over: the lock, the socket of what instances say, with what nobody has read yet, and every listening socket, also those
whose instances are just not alive; and where all that is, which a master file cannot change while somebody is there.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
from typing import Any, NamedTuple, NoReturn

from .desired import Host, Port, host_of

VARIABLE = "LITHOS_HANDED_OVER"  # the number of a descriptor: a string of the environment has at most 128 KiB


class Held(NamedTuple):
    """An open listening socket and whose it is; see ``Listeners``."""

    port: Port
    slot: str
    descriptor: int


class Ear(NamedTuple):
    """The socket to which instances send what they say; see ``Notifications``."""

    address: str
    descriptor: int


class Handover(NamedTuple):
    """What one program leaves to the next."""

    lock: int | None = None
    sockets: tuple[Held, ...] = ()
    ear: Ear | None = None
    host: Host | None = None


def try_out() -> int:
    """Start a child that loads the program as it is now, and return its pid: exit status 0 if it can be loaded."""
    # What both commands import before they touch anything.
    command = [sys.executable, "-P", "-c", "import lithos_runner.commands.main, lithos_runner.supervisor.supervisor"]
    return os.posix_spawn(sys.executable, command, os.environ, setsigmask=())


def replace(handover: Handover, notify_socket: str | None) -> NoReturn:
    """Become the program that is installed now, with the arguments of this one. Raises OSError when that fails."""
    file = os.memfd_create("lithos-handover", 0)
    environ = {**os.environ, VARIABLE: str(file)}
    if notify_socket:
        environ["NOTIFY_SOCKET"] = notify_socket
    # A signal that came before the new program has its handlers would end it: execve(2) keeps what is blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    descriptors = _descriptors(handover)
    try:
        _write(file, _encode(handover))
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environ)  # noqa: S606 - that is the point
    finally:
        os.close(file)
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def take() -> Handover:
    """Return what an earlier program of this process has left to us, if any."""
    file = os.environ.pop(VARIABLE, "")
    handover = _decode(_read(int(file))) if file else Handover()
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
    alone = (handover.lock, handover.ear and handover.ear.descriptor)
    return [*(each for each in alone if each is not None), *(held.descriptor for held in handover.sockets)]


def _encode(handover: Handover) -> str:
    sockets = [{"port": held.port._asdict(), "slot": held.slot, "fd": held.descriptor} for held in handover.sockets]
    host = handover.host and handover.host._asdict()
    return json.dumps({"lock": handover.lock, "sockets": sockets, "ear": handover.ear, "host": host})


def _decode(text: str) -> Handover:
    document: dict[str, Any] = json.loads(text)
    sockets = (Held(_port(each["port"]), each["slot"], each["fd"]) for each in document["sockets"])
    ear, host = document["ear"], document["host"]
    return Handover(document["lock"], tuple(sockets), ear and Ear(*ear), host and host_of(host))


def _port(fields: dict[str, Any]) -> Port:
    # The older program may know keys that this one does not, when it is a step back.
    return Port(**{name: value for name, value in fields.items() if name in Port._fields})
