"""Reading /proc of hostile processes: bounded, and a process or thread that has gone is nothing special."""

from __future__ import annotations

import os
from collections.abc import Iterator

GONE = (FileNotFoundError, ProcessLookupError)  # ESRCH: it has ended since it was listed or opened


class TooMuch(Exception):
    """There is more to look at than one look may cost."""


class Budget:
    """How much more may be looked at, in objects: a thread or a descriptor is one, and takes some 10 µs."""

    def __init__(self, objects: int) -> None:
        self._left = objects

    def spend(self, objects: int = 1) -> None:
        """Take some objects; raises TooMuch when they are not left."""
        self._left -= objects
        if self._left < 0:
            raise TooMuch


def names(directory: str) -> Iterator[str]:
    """List a directory of /proc, a page at a time: who stops early has not paid for the rest. Raises OSError."""
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                yield entry.name
    except GONE:
        return


def link(path: str) -> str:
    """Return what a descriptor is ("socket:[812]", see proc_pid_fd(5)), "" when it has gone. Raises OSError."""
    try:
        return os.readlink(path)
    except GONE:
        return ""


def read(path: str, most: int) -> bytes:
    """Return the first ``most`` bytes of a file, b"" when its process has gone. Raises OSError."""
    text = b""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while len(text) < most and (more := os.read(file, most - len(text))):
                text += more
        finally:
            os.close(file)
    except GONE:
        return b""
    except OSError as error:
        error.filename = path  # read(2) does not know it
        raise
    return text


def socket_inode(target: str) -> int | None:
    """Return the inode that a link of /proc/PID/fd names when it is a socket's."""
    digits = target.removeprefix("socket:[").removesuffix("]")
    return int(digits) if len(digits) == len(target) - len("socket:[]") and digits.isdecimal() else None
