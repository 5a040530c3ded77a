"""What is written, as the kernel tells it."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress
from pathlib import Path

_EVENT = struct.Struct("iIII")  # struct inotify_event, without its name
_WRITES = 0x2 | 0x4 | 0x8 | 0x40 | 0x80 | 0x100 | 0x200  # IN_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_*, _CREATE, _DELETE


class Writes:
    """What is written, made or removed below some directories; inotify(7) sees writes to files of cgroups, too."""

    def __init__(self, *directories: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self._names = {}
        for directory in (inner for outer in directories for inner, _, _ in os.walk(outer)):
            watch = libc.inotify_add_watch(self._fd, os.fsencode(directory), _WRITES)
            assert watch > 0, os.strerror(ctypes.get_errno())
            self._names[watch] = directory

    def seen(self) -> list[str]:
        """The files since the last question."""
        found = []
        with suppress(BlockingIOError):
            while events := os.read(self._fd, 1 << 16):
                while events:
                    watch, _, _, length = _EVENT.unpack_from(events)
                    name = events[_EVENT.size : _EVENT.size + length].rstrip(b"\0")
                    found.append(os.path.join(self._names.get(watch, ""), os.fsdecode(name)))
                    events = events[_EVENT.size + length :]
        return found

    def close(self) -> None:
        os.close(self._fd)
