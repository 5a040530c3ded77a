"""What /proc says of a process, see proc(5), and the names of signals that end one.

A process may be gone at any time: that is None, no error.
"""

from __future__ import annotations

import os
from signal import Signals

_PAGE = os.sysconf("SC_PAGE_SIZE")

# Positions in /proc/PID/stat behind "PID (COMMAND) ": field 3 is the first there, and field 22 the start.
_STATE = 0
_START = 22 - 3


def start_time(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot; with the pid it names one process for good."""
    fields = _stat(pid)
    return int(fields[_START]) if fields else None


def is_alive(pid: int, start: int | None) -> bool:
    """Whether the process that had `pid` and `start` runs still; a zombie does not."""
    fields = _stat(pid)
    return fields is not None and int(fields[_START]) == start and fields[_STATE] not in (b"Z", b"X")


def lives(pid: int) -> bool:
    """Whether any process has ``pid`` now; a zombie does not count."""
    return is_alive(pid, start_time(pid))


def first_child(pid: int) -> int | None:
    """The oldest child of the main thread: of an init with one service, that service."""
    children = _read(f"/proc/{pid}/task/{pid}/children")
    return next((int(child) for child in (children or b"").split()), None)


def memory(pid: int) -> int | None:
    """Bytes of memory that a process has, each shared page by its share (PSS).

    The kernel shows the PSS to those who may trace the process only; others get the resident size, which
    counts a shared page whole.
    """
    try:
        text = _read_or_raise(f"/proc/{pid}/smaps_rollup")
    except PermissionError:
        return _resident(pid)
    except OSError:
        return None
    _, _, behind = text.partition(b"\nPss:")
    return int(behind.split(maxsplit=1)[0]) * 1024 if behind else None


def of_cgroup(path: str) -> list[int]:
    """The processes in the cgroup whose directory is `path`; none when it is gone."""
    try:
        # Many come in several parts, unlike what the other files here say.
        with open(f"{path}/cgroup.procs", "rb", buffering=0) as file:
            return [int(pid) for pid in file.readall().split()]
    except OSError:
        return []


def signal_name(number: int) -> str:
    """SIGTERM for 15; most real-time signals have no name."""
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def _resident(pid: int) -> int | None:
    pages = _read(f"/proc/{pid}/statm")
    return int(pages.split()[1]) * _PAGE if pages else None


def _stat(pid: int) -> list[bytes] | None:
    text = _read(f"/proc/{pid}/stat")
    # The command is the process's own choice and may hold spaces and brackets.
    return text.rpartition(b") ")[2].split() if text else None


def _read(path: str) -> bytes | None:
    try:
        return _read_or_raise(path)
    except OSError:
        return None


def _read_or_raise(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(file, 4096)
    finally:
        os.close(file)
