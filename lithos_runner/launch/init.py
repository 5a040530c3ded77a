"""The tiny init: dumb-init, copied into a sealed memory file once per supervisor.

It forwards signals, reaps orphans, never polls and ends with the application's exit code (128 + signal when that
was killed).
"""

from __future__ import annotations

import fcntl
import os
import sys

from ..status import processes

# An owner that no instance can have: who owns a memory file may chmod(2) it, and all instances run the same one.
_NOT_AN_INSTANCE = 2**32 - 2
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
NAME = "dumb-init"
STARTS = 0.005  # seconds between two looks at one that has only just been started


def find() -> str:
    """Return the path of the installed dumb-init: beside this Python, where pip puts it, else on the system path.

    Raises FileNotFoundError with what to do.
    """
    for directory in (os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin"):
        path = os.path.join(directory, NAME)
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError(2, f"the init program is not installed: pip install {NAME}, or set `init: false`", NAME)


def seal(path: str) -> int:
    """Return a close-on-exec descriptor of an unchangeable copy of ``path``; see memfd_create(2)."""
    memory = os.memfd_create("lithos-init", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(path, "rb") as file:
        os.sendfile(memory, file.fileno(), 0, os.fstat(file.fileno()).st_size)
    os.fchmod(memory, 0o555)
    os.fchown(memory, _NOT_AN_INSTANCE, _NOT_AN_INSTANCE)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    return memory


def has_started(pid: int) -> bool:
    """Whether the child of the init ``pid`` is the application by now.

    dumb-init catches every signal, and so does its child until execve(2): what is sent before is lost.
    """
    child = processes.first_child(pid)
    try:
        return child is not None and os.readlink(f"/proc/{child}/exe") != os.readlink(f"/proc/{pid}/exe")
    except OSError:  # one of them has ended
        return False


def exit_status(code: int) -> tuple[int | None, int | None]:
    """Translate the init's exit code into the application's (exit code, signal).

    An application that itself exits with 128 + n is taken for one killed by signal n, as shells do.
    """
    return (None, code - 128) if 128 < code <= 128 + 64 else (code, None)
