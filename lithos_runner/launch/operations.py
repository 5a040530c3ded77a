"""What turns a fresh child into an instance, one operation per step.

An operation is a value: ``describe()`` is the step's name in messages and in tests, ``calls()`` are its system calls.
The supervisor works them out before the clone; the child does nothing but make them, one after the other, and stops
at the first that fails. Checks are calls too, with the result they must have.

The child is behind the image's root from ``EnterTemplate`` on. Nothing reads or writes /proc in there, except that
``RestrictProc`` mounts over the instance's own.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import signal
import stat
import struct
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from . import descriptors, kernel
from .kernel import Call


class Operation(Protocol):
    """One step of the set-up."""

    def describe(self) -> str:
        """Return the step as an infinitive phrase that fits behind "cannot"."""

    def calls(self) -> list[Call]:
        """Return the step's system calls in their order."""

    def __hash__(self) -> int:
        """Operations are values: their calls are kept from one start to the next."""


class ResetSignals(NamedTuple):
    """Give every signal its default action and, without an init, unblock all.

    Ignored signals survive execve(2) and Python ignores SIGPIPE and SIGXFSZ. The tiny init is started with all
    signals blocked, as it waits for them with sigwait(3): a stop signal sent meanwhile is then not lost.
    """

    ignored: tuple[int, ...]
    unblock: bool

    def describe(self) -> str:
        return "reset the signals"

    def calls(self) -> list[Call]:
        unblock = [kernel.unblock_signals()] if self.unblock else []
        return [*(kernel.default_signal(number) for number in self.ignored), *unblock]


class ExposeToOomKiller(NamedTuple):
    """Give up the supervisor's oom_score_adj: with OOMScoreAdjust=-900 in its unit everybody else would die first."""

    def describe(self) -> str:
        return "reset oom_score_adj"

    def calls(self) -> list[Call]:
        return [kernel.action(_reset_oom_score, what="/proc/self/oom_score_adj")]


def _reset_oom_score() -> None:
    with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(b"0")


class EnterTemplate(NamedTuple):
    """Enter a private copy of the prepared mount namespace held by ``namespace``; see ``launch.preparation``."""

    root: str
    image: str
    namespace: int

    def describe(self) -> str:
        return f"enter the root made from {os.path.join(self.root, self.image)}"

    def calls(self) -> list[Call]:
        return [kernel.setns(self.namespace, kernel.CLONE_NEWNS), kernel.unshare(kernel.CLONE_NEWNS)]


class Unmount(NamedTuple):
    """Detach what is mounted on ``path`` of the instance, with all that is mounted below."""

    path: str

    def describe(self) -> str:
        return f"detach {self.path}"

    def calls(self) -> list[Call]:
        return [kernel.umount2(self.path.encode(), kernel.MNT_DETACH)]


class Mount(NamedTuple):
    """Mount a new file system of ``kind`` on ``path`` of the instance."""

    kind: str
    path: str
    options: str = ""
    flags: int = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC

    def describe(self) -> str:
        return f"mount {self.kind} on {self.path}"

    def calls(self) -> list[Call]:
        kind = self.kind.encode()
        return [kernel.mount(kind, self.path.encode(), kind, self.flags, self.options.encode())]


class RestrictProc(NamedTuple):
    """Make parts of /proc read-only and empty others, for an application that runs as user 0.

    Without capabilities user 0 still owns these files; for any other user the kernel's own file modes do.
    """

    read_only: tuple[str, ...]
    hidden: tuple[str, ...]

    def describe(self) -> str:
        return "restrict /proc for user 0"

    def calls(self) -> list[Call]:
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC | kernel.MS_BIND
        calls = []
        for path in (f"/proc/{name}".encode() for name in self.read_only):
            calls.append(kernel.mount(path, path, None, kernel.MS_BIND))
            calls.append(kernel.mount(None, path, None, flags | kernel.MS_REMOUNT | kernel.MS_RDONLY))
        hidden = (f"/proc/{name}".encode() for name in self.hidden)
        return [*calls, *(kernel.mount(b"/dev/null", path, None, kernel.MS_BIND) for path in hidden)]


class SetHostname(NamedTuple):
    """Set the host name of the UTS namespace."""

    name: str

    def describe(self) -> str:
        return f"set the host name {self.name}"

    def calls(self) -> list[Call]:
        return [kernel.sethostname(self.name.encode())]


class NewSession(NamedTuple):
    """Leave the supervisor's session and with it its terminal (TIOCSTI, CVE-2017-5226), and its umask."""

    def describe(self) -> str:
        return "start a new session"

    def calls(self) -> list[Call]:
        return [kernel.setsid(), kernel.umask(0o022)]


class PlaceDescriptors(NamedTuple):
    """Put stdin, stdout, stderr and the sockets where they are wanted and let no other descriptor survive."""

    plan: descriptors.Plan

    def describe(self) -> str:
        return f"pass the descriptors {', '.join(str(target) for _, target in self.plan.placed)}"

    def calls(self) -> list[Call]:
        return descriptors.calls(self.plan)


class TakeTerminal(NamedTuple):
    """Make descriptor 0 the controlling terminal of the session; see ioctl_tty(2), TIOCSCTTY.

    A terminal that controls another session is not stolen from it (argument 0) but refused: it must be a new
    pseudoterminal, so that the instance and its user's shell never share one (CVE-2017-5226).
    """

    def describe(self) -> str:
        return "take descriptor 0 as the terminal"

    def calls(self) -> list[Call]:
        return [kernel.ioctl(0, kernel.TIOCSCTTY, 0)]


class LimitFiles(NamedTuple):
    """Set RLIMIT_NOFILE, soft and hard; see getrlimit(2)."""

    limit: int

    def describe(self) -> str:
        return f"set fileno-limit {self.limit}"

    def calls(self) -> list[Call]:
        return [kernel.setrlimit(kernel.RLIMIT_NOFILE, self.limit)]


class ChangeDirectory(NamedTuple):
    """Enter the working directory, as root: it need not be readable for the user; see crun's order."""

    path: str

    def describe(self) -> str:
        return f"enter workdir {self.path}"

    def calls(self) -> list[Call]:
        return [kernel.chdir(os.fsencode(self.path))]


@functools.cache
def _every_capability(option: int, last: int, expected: int | None) -> list[Call]:
    return [
        kernel.prctl(option, number)._replace(what=f"capability {number}", expected=expected)
        for number in range(last + 1)
    ]


class DropRoot(NamedTuple):
    """Empty the bounding set, drop all groups and become ``uid`` and ``gid`` without any capability.

    The order matters: the bounding set needs CAP_SETPCAP and goes first, groups need root and go before the user.
    """

    uid: int
    gid: int
    last_capability: int

    def describe(self) -> str:
        return f"become user {self.uid} and group {self.gid} without capabilities"

    def calls(self) -> list[Call]:
        return [
            *_every_capability(kernel.PR_CAPBSET_DROP, self.last_capability, None),
            kernel.setgroups_none(),
            kernel.setresgid(self.gid),
            kernel.setresuid(self.uid),
            kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL),
            kernel.capset_empty(),
        ]


class DieWithParent(NamedTuple):
    """Let the kernel kill the instance when the process that starts it dies; see PR_SET_PDEATHSIG(2const).

    After ``DropRoot``, as a change of user takes it back. A parent that has died before is seen by its pidfd
    ``parent``: getppid(2) is 0 for every process outside of the PID namespace, alive or dead.
    """

    parent: int

    def describe(self) -> str:
        return "tie the instance to the process that starts it"

    def calls(self) -> list[Call]:
        alive = kernel.poll(self.parent, kernel.POLLIN).expect(0, "the process that starts it lives")
        return [kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL), alive]


class OpenOutput(NamedTuple):
    """Make a file of the instance its descriptors 1 and 2, as the application's user.

    The application decides what is behind that path: as root it could be led to /proc/sysrq-trigger, through a magic
    link to a directory that the supervisor has open, and by a FIFO into waiting for ever. Only a regular file will do.
    """

    path: str

    def describe(self) -> str:
        return f"open stdout-stderr-file {self.path}"

    def calls(self) -> list[Call]:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        resolve = kernel.RESOLVE_NO_MAGICLINKS
        return [
            kernel.action(_open_output, kernel.openat2(kernel.AT_FDCWD, os.fsencode(self.path), flags, resolve, 0o644))
        ]


def _open_output(opening: Call) -> None:
    output = kernel.perform(opening)
    if not stat.S_ISREG(os.fstat(output).st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    os.set_blocking(output, True)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)


class RestrictSystemCalls(NamedTuple):
    """Set no_new_privs, then the seccomp filter; see seccomp(2)."""

    program: kernel.sock_fprog

    def describe(self) -> str:
        return "install the seccomp filter"

    def calls(self) -> list[Call]:
        return [kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1), kernel.seccomp_filter(self.program)]


class CheckExecutable(NamedTuple):
    """See, as the application's user, what execve(2) will find at ``path``.

    For the tiny init, which could tell of a missing program only by its exit code. And, ``strict``, for programs that
    others may have put there, in an image or a volume: a link to /proc/self/exe, or a script that names it, would
    start the supervisor's Python where the application can write to it (CVE-2019-5736). A program that its user
    cannot read might be such a script, and a format of binfmt_misc has an interpreter that only the kernel knows, so
    these must do without both. In an ``image`` neither may be on a volume nor be reached through one, where another
    instance could still change what has been checked.
    """

    path: str
    uid: int
    strict: bool
    image: bool

    def describe(self) -> str:
        return f"execute {self.path} as user {self.uid}"

    def calls(self) -> list[Call]:
        path = os.fsencode(self.path)
        resolve = kernel.RESOLVE_NO_MAGICLINKS | (kernel.RESOLVE_NO_XDEV if self.image else 0)
        check = kernel.action(_follow_scripts, _open(path, resolve), resolve, self.strict, what=self.path)
        return [kernel.faccessat2(path, kernel.X_OK), check]


def _open(path: bytes, resolve: int) -> Call:
    flags = os.O_RDONLY | os.O_NONBLOCK  # a FIFO must not stop us
    return kernel.openat2(kernel.AT_FDCWD, path, flags, resolve)


_SCRIPTS = 6  # a script, and how many scripts the kernel follows from there: exec_binprm() in fs/exec.c


def _follow_scripts(opening: Call, resolve: int, strict: bool) -> None:
    """Go from a script to its interpreter until that is a binary, as the kernel will; raises OSError."""
    for depth in range(_SCRIPTS):
        try:
            head = _head(opening)
        except FileNotFoundError as error:
            # What execve(2) answers for such a script, too; "no such file" would be taken for the script itself.
            raise OSError(errno.ELIBBAD, "no interpreter") if depth else error from None
        except PermissionError:  # it may be executed all the same
            if strict:
                raise
            return
        if not head.startswith(b"#!"):
            if not head.startswith(b"\x7fELF") or head[18:20] != kernel.ELF_MACHINE:
                raise OSError(errno.ENOEXEC, "not a program")  # the init would try it with /bin/sh, as execvp(3) does
            return
        opening = _open(_interpreter(head), resolve)
    raise OSError(errno.ELOOP, "too many scripts")


def _head(opening: Call) -> bytes:
    """Return the first bytes of a file, as many as the kernel looks at (BINPRM_BUF_SIZE); EISDIR for a directory."""
    file = kernel.perform(opening)
    try:
        return os.read(file, 256)
    finally:
        os.close(file)


def _interpreter(head: bytes) -> bytes:
    """Return the path behind #! exactly as load_script() in fs/binfmt_script.c does: the two must not disagree."""
    line = head[2:].split(b"\n", 1)[0].lstrip(b" \t")
    return line.replace(b"\t", b" ").replace(b"\0", b" ").split(b" ", 1)[0]


class VerifyDescriptors(NamedTuple):
    """Assert that each descriptor is the file declared for it, by device and inode, and survives execve(2)."""

    files: tuple[tuple[int, tuple[int, int]], ...]

    def describe(self) -> str:
        return "verify the instance's descriptors"

    def calls(self) -> list[Call]:
        return [call for target, identity in self.files for call in _same_file(target, identity)]


class Verify(NamedTuple):
    """Assert what the operations before have promised of the process, from the kernel's own answers."""

    uid: int
    gid: int
    last_capability: int

    def describe(self) -> str:
        return "verify the instance's privileges"

    def calls(self) -> list[Call]:
        return [
            *_ids(kernel.getresuid, self.uid, "user"),
            *_ids(kernel.getresgid, self.gid, "group"),
            kernel.getgroups_count().expect(0, "supplementary groups"),
            *_no_capabilities(),
            *_every_capability(kernel.PR_CAPBSET_READ, self.last_capability, 0),
            kernel.prctl(kernel.PR_GET_NO_NEW_PRIVS).expect(1, "no_new_privs"),
            kernel.prctl(kernel.PR_GET_SECCOMP).expect(kernel.SECCOMP_MODE_FILTER, "seccomp"),
            kernel.getsid().expect(1, "session"),  # we are PID 1 of the namespace and its leader
            *_inside_root(),
        ]


def _ids(query: Callable[[ctypes.Array[ctypes.c_uint]], Call], number: int, what: str) -> list[Call]:
    found = (ctypes.c_uint * 3)()
    wanted = (ctypes.c_uint * 3)(number, number, number)
    return [query(found), _equal(found, wanted, what)]


def _no_capabilities() -> list[Call]:
    found = (kernel.cap_user_data * 2)()
    ctypes.memset(found, 0xFF, ctypes.sizeof(found))
    return [kernel.capget(found), _equal(found, (kernel.cap_user_data * 2)(), "capabilities")]


def _inside_root() -> list[Call]:
    found = ctypes.create_string_buffer(4096)
    return [kernel.getcwd(found), _equal(found, ctypes.create_string_buffer(b"/", 1), "working directory")]


def _same_file(target: int, identity: tuple[int, int]) -> list[Call]:
    found = ctypes.create_string_buffer(kernel.SIZEOF_STAT)
    wanted = ctypes.create_string_buffer(struct.pack("QQ", *identity), 16)
    return [
        kernel.fstat(target, found),
        _equal(found, wanted, f"descriptor {target}"),
        kernel.get_descriptor_flags(target).expect(0, f"descriptor {target} (close-on-exec)"),
    ]


def _equal(found: ctypes.Array[Any], wanted: ctypes.Array[Any], what: str) -> Call:
    size = ctypes.sizeof(wanted)
    return kernel.memcmp(ctypes.byref(found), ctypes.byref(wanted), size).expect(0, what)


# -c: signals go to the application only, as lithos does, not to all that it has started.
INIT_COMMAND = (b"lithos-init", b"-c", b"--")
# Without it the init leaves the terminal to a session of the application's own, which Ctrl-C then reaches alone.
TERMINAL_INIT_COMMAND = (b"lithos-init", b"--")


class Execute(NamedTuple):
    """Replace the set-up by the application, or by the tiny init in ``init`` that starts it.

    The init runs from a sealed memfd: an application can neither reach nor change the host's copy (CVE-2019-5736).
    """

    executable: str
    arguments: tuple[str, ...]
    environ: tuple[bytes, ...]
    init: int | None
    terminal: bool = False

    def describe(self) -> str:
        return f"execute {self.executable}"

    def calls(self) -> list[Call]:
        command = tuple(os.fsencode(word) for word in (self.executable, *self.arguments))
        if self.init is None:
            call = kernel.execveat(kernel.AT_FDCWD, command[0], command, self.environ, 0)
        else:
            command = (*(TERMINAL_INIT_COMMAND if self.terminal else INIT_COMMAND), *command)
            call = kernel.execveat(self.init, b"", command, self.environ, kernel.AT_EMPTY_PATH)
        return [call._replace(what=self.executable)]
