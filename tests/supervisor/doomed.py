"""Run `lithos ARGUMENTS` and be killed just before the N-th change that it makes to the host.

doomed.py ARMED N EVENT ARGUMENTS…: changes are counted from the moment at which the file ARMED exists. They are what
Python reports to audit hooks (https://docs.python.org/3/library/audit_events.html): every file that is opened for
writing, cgroups included, every directory, rename and removal, every bind, every child; and, before and after,
clone3(2), which is called by number. EVENT is one of these events, or "any". The program knows nothing of it.
"""

from __future__ import annotations

import os
import signal
import sys

from lithos_runner.commands.main import main
from lithos_runner.launch import kernel

CHANGES = frozenset(
    (
        *("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.chown", "os.chmod"),
        *("socket.bind", "os.posix_spawn", "clone3"),
    )
)


class Doom:
    """Counts changes, and ends this process before the last one that it may make."""

    def __init__(self, armed: str, last: int, counted: str) -> None:
        self._armed = armed
        self._counted = counted
        self._left = last
        self._pid = os.getpid()
        self._is_armed = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._counts(event, arguments) and self._has_begun() and os.getpid() == self._pid:
            self._count()

    def _counts(self, event: str, arguments: tuple[object, ...]) -> bool:
        is_change = event in CHANGES or (event == "open" and _writes(arguments))
        return is_change and self._counted in (event, "any")

    def _count(self) -> None:
        self._left -= 1
        if self._left <= 0:
            os.kill(self._pid, signal.SIGKILL)

    def _has_begun(self) -> bool:
        self._is_armed = self._is_armed or os.access(self._armed, os.F_OK)
        return self._is_armed


def _writes(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2]
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _audit_clone3() -> None:
    clone3 = kernel.clone3

    def audited(namespaces: int, cgroup: int | None) -> tuple[int, int]:
        sys.audit("clone3")
        pid, pidfd = clone3(namespaces, cgroup)
        sys.audit("clone3")
        return pid, pidfd

    kernel.clone3 = audited


if __name__ == "__main__":
    doom = Doom(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    _audit_clone3()
    sys.addaudithook(doom)
    sys.exit(main(sys.argv[4:]))
