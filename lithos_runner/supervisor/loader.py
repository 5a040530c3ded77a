"""Loading a configuration: the supervisor's side. ``reader`` is the process that reads it."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import NamedTuple

from . import desired
from .notes import UNCHANGED

_READER = f"{__package__}.reader"


class Request(NamedTuple):
    """What to read: a master file with all that follows from it, or, when ``name`` is given, one container file.

    For the latter ``name`` is its process's, and ``root`` the image's directory, "/" for the host's own root. ``notes``
    is a descriptor of ``take_notes`` when only what has changed since the last reading is of interest.
    """

    file: str
    name: str = ""
    instances: int | None = None
    root: str = "/"
    variables: dict[str, str] = {}  # noqa: RUF012 - never changed
    notes: int | None = None


class Unchanged(Exception):
    """All is as it was when a reader with the same ``notes`` read it, and what that one said has been taken in."""


def take_notes() -> int:
    """Return an anonymous file for what a reader notes for the next one, see ``notes``."""
    return os.memfd_create("lithos-notes", os.MFD_CLOEXEC)


def forget(request: Request) -> None:
    """Have everything read again the next time, changed or not."""
    if request.notes is not None:
        os.ftruncate(request.notes, 0)


class Reader:
    """A child that reads a configuration; ``descriptor`` is readable when it has something to say."""

    def __init__(self, request: Request) -> None:
        """Start it. Raises OSError when there can be no child."""
        self._request = request
        self._text = bytearray()
        self.descriptor, writer = os.pipe2(os.O_CLOEXEC)
        actions = [(os.POSIX_SPAWN_DUP2, writer, 1)]
        if request.notes is not None:
            actions.append((os.POSIX_SPAWN_DUP2, request.notes, 0))
        try:
            self._child = os.posix_spawn(
                sys.executable,
                # -P: never import from the directory that root happens to stand in.
                [sys.executable, "-P", "-m", _READER, json.dumps(request._asdict())],
                os.environ,
                file_actions=actions,
                setsigmask=(),
            )
        except OSError:
            os.close(self.descriptor)
            raise
        finally:
            os.close(writer)

    def read(self) -> bool:
        """Take what there is, waiting for something; return whether that was all."""
        more = os.read(self.descriptor, 1 << 20)
        self._text += more
        return not more

    def desired(self) -> desired.Desired:
        """Return what it said, after ``read`` has had all, and let the child go.

        Raises Refusal when it broke down, and Unchanged.
        """
        os.close(self.descriptor)
        status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        if status != 0:
            file = self._request.file
            raise desired.Refusal(f"{file}: the configuration reader ended with status {status}, see above")
        text = self._text.decode()
        if text.strip() == UNCHANGED:
            raise Unchanged
        return desired.decode(text)

    def close(self) -> None:
        """End the child, whatever it does."""
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        os.close(self.descriptor)


def load(request: Request) -> desired.Desired:
    """Let a child read the configuration, and wait for it. Raises Refusal, and OSError when there is no child."""
    reader = Reader(request)
    while not reader.read():
        pass
    return reader.desired()
