"""One ``clone3``: from a LaunchSpec to a process that is becoming the instance.

``spawn`` returns at once; the child reports through a close-on-exec pipe: end of file means that execve(2) happened,
anything else is the call that failed. The caller waits for it with epoll, so a slow or hostile file system cannot
stop the supervisor.
"""

from __future__ import annotations

import _signal  # the `signal` module turns every number of a mask into an enum, which takes longer than the call
import ctypes
import errno
import fcntl
import functools
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

from . import kernel
from .operations import Operation
from .sequence import Host, free_numbers, sequence
from .spec import LaunchSpec

# The mount namespace is the fifth: a copy of the prepared one, see EnterTemplate.
NAMESPACES = kernel.CLONE_NEWPID | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS | kernel.CLONE_NEWCGROUP
SETUP_FAILED = 127
_ALL_SIGNALS = frozenset(_signal.valid_signals())
_REPORT_SIZE = 4096


class SetupFailure(NamedTuple):
    """Why an instance could not be started: the step, the kernel's error number (0: refused by us), a sentence."""

    step: str
    errno: int
    sentence: str


Bare = tuple[Callable[..., int], tuple[object, ...], int | None]  # function, arguments, expected result


class Child(NamedTuple):
    """A process that has been created; the descriptors belong to the caller.

    ``status`` becomes readable when the set-up has ended either way; see ``outcome``.
    """

    pid: int
    pidfd: int
    status: int
    operations: list[Operation]


def spawn(
    spec: LaunchSpec, host: Host, namespace: int, cgroup: int, sources: Mapping[int, int], *, kept: bool = False
) -> Child:
    """Create the instance's first process in new namespaces and in the cgroup held by ``cgroup``.

    ``namespace`` is the prepared mount namespace or, with ``kept``, that of an earlier life, see ``mount_namespace``;
    ``sources`` maps each descriptor that the application shall have, 0 to 2 included, to an open one of ours. Raises
    OSError when the kernel refuses the process (EAGAIN, ENOMEM, EBUSY for a cgroup that is not a leaf).
    """
    operations = sequence(spec, host, namespace, sources, kept=kept)
    calls = [call for one in operations for call in _prepare(one)]
    # Above the descriptors that the set-up moves around, so that it can report to its last moment.
    above = free_numbers(spec, host, namespace, sources).stop
    pid, pidfd, status = start(lambda report: _make(calls, report), NAMESPACES, cgroup, above)
    return Child(pid, pidfd, status, operations)


def mount_namespace(child: Child) -> int:
    """Return a descriptor of the mount namespace of an instance, with which its next life can begin.

    It keeps everything that the instance has mounted and belongs to the caller. To be taken between the end of the
    set-up and the exit of the instance, from a child that has not been waited for; raises OSError outside of that.
    """
    return os.open(f"/proc/{child.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


# Kept from start to start, as building them takes longer than the clone (0.8 of 4.9 ms). typed: named tuples of
# different kinds are equal when what they hold is. Bounded: most operations are the same for all instances, but 1,000
# instances have 4,000 that are their own.
@functools.lru_cache(maxsize=64, typed=True)
def _prepare(operation: Operation) -> list[Bare]:
    """Return the operation's calls without what only messages need: what the child does not touch, it does not copy."""
    return [(call.function, call.arguments, call.expected) for call in operation.calls()]


def start(body: Callable[[int], object], namespaces: int, cgroup: int | None, above: int = 3) -> tuple[int, int, int]:
    """Create a process that calls ``body(report)`` and ends; return its pid, pidfd and the other end of ``report``.

    Both ends are close-on-exec, the child's has a number of at least ``above``.
    """
    status, report = _report_pipe(above)
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        pid, pidfd = kernel.clone3(namespaces, cgroup)
        if pid == 0:
            _become(body, report)
    except BaseException:
        os.close(status)
        raise
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
        os.close(report)
    return pid, pidfd, status


def _report_pipe(above: int) -> tuple[int, int]:
    status, low = os.pipe2(os.O_CLOEXEC)
    try:
        return status, fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, above)
    except OSError as error:  # EINVAL, EMFILE
        os.close(status)
        remedy = "raise the supervisor's own limit of open files (LimitNOFILE= in its unit)"
        raise OSError(error.errno, f"cannot open descriptor {above} or one above: {remedy}") from error
    finally:
        os.close(low)


def _become(body: Callable[[int], object], report: int) -> NoReturn:
    """Run ``body`` in the child; never return into the supervisor's frames."""
    try:
        body(report)
    except BaseException as error:
        send_report(report, 0, 0, repr(error))
    finally:
        os._exit(SETUP_FAILED)


def _make(calls: list[Bare], report: int) -> None:
    """Make the calls; the last of them is execve(2), so this returns only after a failure has been reported."""
    index = 0
    for function, arguments, expected in calls:
        result = function(*arguments)
        if result != expected and (expected is not None or result < 0):
            number = ctypes.get_errno() if expected is None else 0
            send_report(report, index, number, "")
            return
        index += 1  # noqa: SIM113 - enumerate would make an object for each call


def send_report(report: int, index: int, number: int, text: str) -> None:
    """Tell the parent which step failed, with which error number."""
    os.write(report, f"{index} {number} {text}".encode("utf-8", "replace")[:_REPORT_SIZE])


def read_report(status: int) -> tuple[int, int, str] | None:
    """Return what ``send_report`` sent (step, error number, text); None when the pipe was closed without a word."""
    report = os.read(status, _REPORT_SIZE).decode("utf-8", "replace")
    if not report:
        return None
    index, number, text = report.split(" ", 2)
    return int(index), int(number), text


def outcome(name: str, child: Child) -> SetupFailure | None:
    """Read the set-up's end from ``child.status`` (readable by now); None: the program runs."""
    report = read_report(child.status)
    if report is None:
        return None
    index, number, text = report
    calls = [(operation, call) for operation in child.operations for call in operation.calls()]
    operation, call = calls[index]
    kind, phrase = type(operation).__name__, operation.describe()
    return SetupFailure(phrase, number, explain(name, kind, phrase, number, text or call.what))


_IMAGE = "a root file system must have the directories dev, proc, sys and tmp"
_DIRECTORIES = "make it executable and its directories searchable for that user"
_FORMAT = "it is neither a binary for this machine nor a script that begins with #!"
_INSIDE = "it and its interpreter must be in the image itself, not on a volume or behind /proc"
_OUTSIDE = "a symbolic link leads out of the directory that the administrator named"
_FILE = "the image must have a regular file there, in real directories"
_OUTPUT = "it must be a regular file that no symbolic link or /proc leads to"
_HINTS = {
    ("CheckExecutable", errno.ENOENT): "give `executable` a path that exists inside the instance",
    ("CheckExecutable", errno.EACCES): "make it readable and executable and its directories searchable for that user",
    ("CheckExecutable", errno.EISDIR): "give `executable` the path of a program",
    ("CheckExecutable", errno.ELIBBAD): "the interpreter in its first line does not exist inside the instance",
    ("CheckExecutable", errno.ELOOP): "neither it nor an interpreter may be reached through /proc or in a circle",
    ("CheckExecutable", errno.ENOEXEC): _FORMAT,
    ("CheckExecutable", errno.EXDEV): _INSIDE,
    ("Execute", errno.ENOENT): "it, its interpreter or (for `init: true`) a C library is missing inside the instance",
    ("Execute", errno.EACCES): _DIRECTORIES,
    ("Execute", errno.ENOEXEC): _FORMAT,
    ("OpenRoot", errno.EXDEV): _OUTSIDE,
    ("OpenRoot", errno.ELOOP): _OUTSIDE,
    ("OpenRoot", errno.ESTALE): "another directory has taken its place since it was checked: reload the configuration",
    ("FindDirectory", errno.ENOENT): _IMAGE,
    ("FindDirectory", errno.ENOTDIR): _IMAGE,
    ("FindDirectory", errno.ELOOP): "it must not be a symbolic link",
    ("BindHost", errno.ENOENT): _IMAGE,
    ("DropMounts", errno.ENOENT): _IMAGE,
    ("HideRun", errno.ENOENT): "a root file system must have the directory run",
    ("Mount", errno.ENOENT): "`devfs-dir` must have the directories pts and shm",
    ("TakeDirectory", errno.ENOENT): "create it on the host, or give the volume `mkdir: true`",
    ("TakeDirectory", errno.ENOTDIR): "a volume is a directory",
    ("TakeDirectory", errno.EXDEV): _OUTSIDE,
    ("TakeDirectory", errno.ELOOP): _OUTSIDE,
    ("TakeDirectory", errno.EAGAIN): "somebody changes its directories at this moment",
    ("ReadFile", errno.ENOENT): "create it on the host, or set `copy-from-host: false`",
    ("ReadFile", errno.EFBIG): "at most 1 MiB is copied",
    ("MakeState", errno.ENOTDIR): "a state volume has the name of a file there",
    ("AttachVolume", errno.ENOENT): "make that directory in the image",
    ("AttachVolume", errno.ENOTDIR): "a volume is mounted on a directory",
    ("AttachVolume", errno.EBUSY): "that is, or the image links it to, a place where lithos mounts something itself",
    ("AttachFile", errno.ENOENT): _FILE,
    ("AttachFile", errno.ENOTDIR): _FILE,
    ("AttachFile", errno.ELOOP): _FILE,
    ("TakeTerminal", errno.EPERM): "it controls another session: make a new pseudoterminal",
    ("TakeTerminal", errno.ENOTTY): "make a new pseudoterminal",
    ("OpenOutput", errno.ENOENT): "its directory must exist inside the instance",
    ("OpenOutput", errno.EACCES): "the user of the instance must be able to write it",
    ("OpenOutput", errno.EROFS): "it must be on a writable volume",
    ("OpenOutput", errno.ELOOP): _OUTPUT,
    ("OpenOutput", errno.ENXIO): _OUTPUT,
    ("OpenOutput", errno.EINVAL): _OUTPUT,
    ("OpenOutput", errno.EISDIR): _OUTPUT,
    ("ChangeDirectory", errno.ENOENT): "give `workdir` a directory that exists inside the instance",
}
_HINTS |= {("MountTmpfs", number): hint for (kind, number), hint in _HINTS.items() if kind == "AttachVolume"}


def explain(name: str, kind: str, phrase: str, number: int, what: str) -> str:
    """Put a failed step into one sentence: what was tried, on what, what the kernel said, what to do."""
    if number == 0:
        return f"{name}: cannot {phrase}: refused, as this is not as promised: {what}"
    where = f" ({what})" if what and what not in phrase and what != "." else ""
    hint = _HINTS.get((kind, number), "")
    return f"{name}: cannot {phrase}: {os.strerror(number)}{where}{'; ' if hint else ''}{hint}"
