"""One ``clone3``: from a LaunchSpec to a process that is becoming the instance.

``spawn`` returns at once; the child reports through a close-on-exec pipe: end of file means that execve(2) happened,
anything else is the step that failed. The caller waits for it with epoll, so a slow or hostile file system cannot
stop the supervisor.
"""

from __future__ import annotations

import _signal  # see operations: the enums of `signal` cost more than the system calls
import errno
import os
from collections.abc import Mapping
from typing import NamedTuple, NoReturn

from . import kernel
from .operations import Context, Operation, SetupRefused
from .sequence import Host, sequence
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


class Child(NamedTuple):
    """A process that has been created; the descriptors belong to the caller.

    ``status`` becomes readable when the set-up has ended either way; see ``outcome``.
    """

    pid: int
    pidfd: int
    status: int
    steps: list[Operation]


def spawn(spec: LaunchSpec, host: Host, template: int, cgroup: int, sources: Mapping[int, int]) -> Child:
    """Create the instance's first process in new namespaces and in the cgroup held by ``cgroup``.

    ``template`` is the prepared mount namespace; ``sources`` maps each descriptor that the application shall have,
    0 to 2 included, to an open one of ours. Raises OSError when the kernel refuses the process (EAGAIN, ENOMEM,
    EBUSY for a cgroup that is not a leaf).
    """
    context = Context(dict(sources), host.init if spec.init else None)
    return start(sequence(spec, host, template), context, NAMESPACES, cgroup)


def start(steps: list[Operation], context: Context, namespaces: int, cgroup: int | None) -> Child:
    """Create a process that does ``steps``, and ends if they do not replace it."""
    status, context.status = os.pipe2(os.O_CLOEXEC)
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        pid, pidfd = kernel.clone3(namespaces, cgroup)
        if pid == 0:
            _become(steps, context)
    except BaseException:
        os.close(status)
        raise
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
        os.close(context.status)
    return Child(pid, pidfd, status, steps)


def _become(steps: list[Operation], context: Context) -> NoReturn:
    """Run the steps in the child; never return into the supervisor's frames."""
    index, code = 0, SETUP_FAILED
    try:
        for index, step in enumerate(steps):  # noqa: B007
            step.apply(context)
        code = 0
    except OSError as error:
        _report(context, index, error.errno or 0, _object(error))
    except SetupRefused as refused:
        _report(context, index, 0, str(refused))
    except BaseException as error:
        _report(context, index, 0, repr(error))
    finally:
        os._exit(code)


def _object(error: OSError) -> str:
    name = error.filename
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else ""


def _report(context: Context, index: int, number: int, text: str) -> None:
    message = f"{index} {number} {text}".encode("utf-8", "replace")
    os.write(context.status, message[:_REPORT_SIZE])


def outcome(name: str, child: Child) -> SetupFailure | None:
    """Read the set-up's end from ``child.status`` (readable by now); None: it went well."""
    report = os.read(child.status, _REPORT_SIZE).decode("utf-8", "replace")
    if not report:
        return None
    index, number, text = report.split(" ", 2)
    return explain(name, child.steps[int(index)], int(number), text)


_HINTS = {
    ("CheckExecutable", errno.ENOENT): "give `executable` a path that exists inside the instance",
    ("CheckExecutable", errno.EACCES): "make it executable and its directories searchable for that user",
    ("CheckExecutable", errno.EISDIR): "give `executable` the path of a program",
    ("Execute", errno.ENOENT): "give `executable` a path that exists inside the instance",
    ("Execute", errno.EACCES): "make it executable and its directories searchable for that user",
    ("Execute", errno.ENOEXEC): "it is neither a binary for this machine nor a script that begins with #!",
    ("ChangeDirectory", errno.ENOENT): "give `workdir` a directory that exists inside the instance",
    ("PlaceDescriptors", errno.EMFILE): "raise the supervisor's own limit of open files (LimitNOFILE= in its unit)",
}


def explain(name: str, step: Operation, number: int, text: str) -> SetupFailure:
    """Put a failed step into one sentence: what was tried, on what, what the kernel said, what to do."""
    phrase = step.describe()
    if number == 0:
        return SetupFailure(phrase, 0, f"{name}: cannot {phrase}: refused, as these are not as promised: {text}")
    where = f" ({text})" if text and text not in phrase and text != "." else ""
    hint = _HINTS.get((type(step).__name__, number), "")
    sentence = f"{name}: cannot {phrase}: {os.strerror(number)}{where}{'; ' if hint else ''}{hint}"
    return SetupFailure(phrase, number, sentence)
