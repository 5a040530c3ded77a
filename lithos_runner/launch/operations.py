"""What turns a fresh child into an instance, one operation per step.

An operation is a value: ``describe()`` is the step's name in messages and in tests, ``apply()`` does it in the
child. Until ``Pivot`` the mounts are made below a descriptor of the new root, and every path is resolved with
``openat2(RESOLVE_IN_ROOT)``, so that an image's symbolic links lead nowhere outside (CVE-2021-30465 and its kin);
behind it the new root is the only one there is. Nothing reads or writes /proc in there.
"""

from __future__ import annotations

import _signal  # the `signal` module turns every number into an enum: 60 µs for a mask, page by copied page
import errno
import os
import resource
import socket
import stat
from typing import NamedTuple, Protocol

from . import descriptors, kernel, seccomp


class Context:
    """What operations hand on to each other inside the child."""

    __slots__ = ("declared", "init", "root", "sources", "status")

    def __init__(self, sources: dict[int, int], init: int | None) -> None:
        self.status = -1
        self.sources = sources
        self.declared = {target: os.fstat(source) for target, source in sources.items()}
        self.init = init
        self.root = -1


class Operation(Protocol):
    """One step of the set-up."""

    def describe(self) -> str:
        """Return the step as an infinitive phrase that fits behind "cannot"."""

    def apply(self, context: Context) -> None:
        """Do the step in the child; raises OSError."""


class SetupRefused(Exception):
    """The set-up found a state in which the application must not be started."""


def _resolve(context: Context, path: str, flags: int = os.O_PATH) -> int:
    resolve = kernel.RESOLVE_IN_ROOT | kernel.RESOLVE_NO_MAGICLINKS
    return kernel.openat2(context.root, path.encode(), flags, resolve)


def _enter(context: Context, path: str) -> None:
    """Make ``path`` of the new root the working directory, so that a mount goes to "." and nowhere else."""
    directory = _resolve(context, path, os.O_PATH | os.O_DIRECTORY)
    os.fchdir(directory)
    os.close(directory)


class ResetSignals(NamedTuple):
    """Give every signal its default action and, without an init, unblock all.

    Ignored signals survive execve(2) and Python ignores SIGPIPE and SIGXFSZ. The tiny init is started with all
    signals blocked, as it waits for them with sigwait(3): a stop signal sent meanwhile is then not lost.
    """

    ignored: tuple[int, ...]
    unblock: bool

    def describe(self) -> str:
        return "reset the signals"

    def apply(self, context: Context) -> None:
        for number in self.ignored:
            _signal.signal(number, _signal.SIG_DFL)
        if self.unblock:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


class PrivatePropagation(NamedTuple):
    """Keep every mount made from here on inside this mount namespace; see mount_namespaces(7)."""

    def describe(self) -> str:
        return "make the mounts private"

    def apply(self, context: Context) -> None:
        kernel.mount(None, b"/", None, kernel.MS_REC | kernel.MS_PRIVATE)


class OpenRoot(NamedTuple):
    """Attach a recursive copy of ``source`` at ``mount_point``, all of it read-only, without set-user-ID and devices.

    ``mount(2)`` can make only the top mount of a recursive bind read-only; mount_setattr(2) does the tree.
    """

    source: str
    mount_point: str

    def describe(self) -> str:
        return f"make a read-only root from {self.source}"

    def apply(self, context: Context) -> None:
        tree = kernel.open_tree(kernel.AT_FDCWD, self.source.encode(), kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE)
        kernel.mount_setattr(
            tree,
            b"",
            kernel.AT_EMPTY_PATH | kernel.AT_RECURSIVE,
            kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV,
        )
        kernel.move_mount(tree, kernel.AT_FDCWD, self.mount_point.encode(), kernel.MOVE_MOUNT_F_EMPTY_PATH)
        context.root = tree


class BindHost(NamedTuple):
    """Bind the host's ``source`` and everything mounted below it read-only on ``path`` of the new root."""

    source: str
    path: str

    def describe(self) -> str:
        return f"bind the host's {self.source} read-only on {self.path}"

    def apply(self, context: Context) -> None:
        tree = kernel.open_tree(kernel.AT_FDCWD, self.source.encode(), kernel.OPEN_TREE_CLONE | kernel.AT_RECURSIVE)
        restrict = (
            kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
        )
        kernel.mount_setattr(tree, b"", kernel.AT_EMPTY_PATH | kernel.AT_RECURSIVE, restrict)
        _attach(context, tree, self.path)


def _attach(context: Context, tree: int, path: str) -> None:
    target = _resolve(context, path)
    kernel.move_mount(tree, target, b"", kernel.MOVE_MOUNT_F_EMPTY_PATH | kernel.MOVE_MOUNT_T_EMPTY_PATH)
    os.close(target)
    os.close(tree)


DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
DEVICE_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


class MountDev(NamedTuple):
    """Build /dev on a fresh tmpfs: six devices, the usual links, read-only when done (CVE-2026-41579 and its kin)."""

    def describe(self) -> str:
        return "build /dev"

    def apply(self, context: Context) -> None:
        _enter(context, "dev")
        flags = kernel.MS_NOSUID | kernel.MS_NOEXEC
        kernel.mount(b"tmpfs", b".", b"tmpfs", flags, b"mode=755,size=64k,nr_inodes=32")
        _enter(context, "dev")
        os.umask(0)
        for name, (major, minor) in DEVICES.items():
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        for name, target in DEVICE_LINKS.items():
            os.symlink(target, name)
        os.mkdir("pts", 0o755)
        os.mkdir("shm", 0o755)
        os.umask(0o022)
        kernel.mount(None, b".", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | flags)


class HideRun(NamedTuple):
    """Cover /run, where the host's sockets are, and keep of it only the file that /etc/resolv.conf links to."""

    resolv_conf: str | None

    def describe(self) -> str:
        return "hide the host's /run"

    def apply(self, context: Context) -> None:
        kept = None
        if self.resolv_conf is not None:
            kept = kernel.open_tree(context.root, self.resolv_conf.encode(), kernel.OPEN_TREE_CLONE)
        _enter(context, "run")
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        kernel.mount(b"tmpfs", b".", b"tmpfs", flags, b"mode=755,size=64k")
        if self.resolv_conf is not None and kept is not None:
            _enter(context, ".")
            os.makedirs(os.path.dirname(self.resolv_conf), exist_ok=True)
            os.close(os.open(self.resolv_conf, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
            _attach(context, kept, self.resolv_conf)
        _enter(context, "run")
        kernel.mount(None, b".", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | flags)


class Pivot(NamedTuple):
    """Make the new root the root and let go of the old one; see pivot_root(2), `pivot_root(".", ".")`."""

    def describe(self) -> str:
        return "change to the new root"

    def apply(self, context: Context) -> None:
        os.fchdir(context.root)
        kernel.pivot_root(b".", b".")
        kernel.umount2(b".", kernel.MNT_DETACH)
        os.chdir("/")
        os.close(context.root)


class Hold(NamedTuple):
    """Report success and keep the prepared mount namespace alive until the parent holds it and kills us."""

    def describe(self) -> str:
        return "hold the mount namespace"

    def apply(self, context: Context) -> None:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, _signal.SIGKILL)
        os.close(context.status)
        _signal.pause()


class EnterTemplate(NamedTuple):
    """Enter a private copy of the prepared mount namespace held by ``namespace``; see ``launch.template``."""

    root: str
    namespace: int

    def describe(self) -> str:
        return f"enter the root made from {self.root}"

    def apply(self, context: Context) -> None:
        kernel.setns(self.namespace, kernel.CLONE_NEWNS)
        kernel.unshare(kernel.CLONE_NEWNS)


class Mount(NamedTuple):
    """Mount a new file system of ``kind`` on ``path`` of the instance."""

    kind: str
    path: str
    options: str = ""
    flags: int = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC

    def describe(self) -> str:
        return f"mount {self.kind} on {self.path}"

    def apply(self, context: Context) -> None:
        kind = self.kind.encode()
        kernel.mount(kind, self.path.encode(), kind, self.flags, self.options.encode())


class RestrictProc(NamedTuple):
    """Make parts of /proc read-only and empty others, for an application that runs as user 0.

    Without capabilities user 0 still owns these files; for any other user the kernel's own file modes do.
    """

    read_only: tuple[str, ...]
    hidden: tuple[str, ...]

    def describe(self) -> str:
        return "restrict /proc for user 0"

    def apply(self, context: Context) -> None:
        for name in self.read_only:
            path = f"/proc/{name}".encode()
            part = kernel.open_tree(kernel.AT_FDCWD, path, kernel.OPEN_TREE_CLONE)
            kernel.mount_setattr(part, b"", kernel.AT_EMPTY_PATH, kernel.MOUNT_ATTR_RDONLY)
            kernel.move_mount(part, kernel.AT_FDCWD, path, kernel.MOVE_MOUNT_F_EMPTY_PATH)
            os.close(part)
        for name in self.hidden:
            kernel.mount(b"/dev/null", f"/proc/{name}".encode(), None, kernel.MS_BIND)


class SetHostname(NamedTuple):
    """Set the host name of the UTS namespace."""

    name: str

    def describe(self) -> str:
        return f"set the host name {self.name}"

    def apply(self, context: Context) -> None:
        socket.sethostname(self.name)


class PlaceDescriptors(NamedTuple):
    """Put stdin, stdout, stderr and the sockets at ``targets`` and mark all others close-on-exec."""

    targets: tuple[int, ...]

    def describe(self) -> str:
        return f"pass the descriptors {', '.join(map(str, self.targets))}"

    def apply(self, context: Context) -> None:
        kept = [context.status, *([] if context.init is None else [context.init])]
        moved = descriptors.place(context.sources, tuple(kept))
        context.status = moved[0]
        if context.init is not None:
            context.init = moved[1]


class LimitFiles(NamedTuple):
    """Set RLIMIT_NOFILE, soft and hard; see getrlimit(2)."""

    limit: int

    def describe(self) -> str:
        return f"set fileno-limit {self.limit}"

    def apply(self, context: Context) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.limit, self.limit))


class NewSession(NamedTuple):
    """Leave the supervisor's session and with it its terminal (TIOCSTI, CVE-2017-5226)."""

    def describe(self) -> str:
        return "start a new session"

    def apply(self, context: Context) -> None:
        os.setsid()


class ChangeDirectory(NamedTuple):
    """Enter the working directory, as root: it need not be readable for the user; see crun's order."""

    path: str

    def describe(self) -> str:
        return f"enter workdir {self.path}"

    def apply(self, context: Context) -> None:
        os.chdir(self.path)


class DropRoot(NamedTuple):
    """Empty the bounding set, drop all groups and become ``uid`` and ``gid`` without any capability.

    The order matters: the bounding set needs CAP_SETPCAP and goes first, groups need root and go before the user.
    """

    uid: int
    gid: int
    last_capability: int

    def describe(self) -> str:
        return f"become user {self.uid} and group {self.gid} without capabilities"

    def apply(self, context: Context) -> None:
        kernel.drop_bounding_set(self.last_capability)
        os.setgroups(())
        os.setresgid(self.gid, self.gid, self.gid)
        os.setresuid(self.uid, self.uid, self.uid)
        kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
        kernel.capset_empty()


class RestrictSystemCalls(NamedTuple):
    """Set no_new_privs, then the seccomp filter; see seccomp(2)."""

    program: seccomp.Filter

    def describe(self) -> str:
        return "install the seccomp filter"

    def apply(self, context: Context) -> None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.install(self.program)


class CheckExecutable(NamedTuple):
    """See, as the application's user, that the tiny init will be able to start the program.

    The init could tell only by its exit code; here the reason still reaches the supervisor as an error number.
    """

    path: str
    uid: int

    def describe(self) -> str:
        return f"execute {self.path} as user {self.uid}"

    def apply(self, context: Context) -> None:
        _executable(self.path)
        interpreter = _interpreter(self.path)
        if interpreter:
            _executable(interpreter)


def _executable(path: str) -> None:
    """Raise the OSError that execve(2) would raise for a file of this kind and mode."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EISDIR, "Not a regular file", path)
    if not os.access(path, os.X_OK, effective_ids=True):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)


def _interpreter(path: str) -> str | None:
    """Return the program named in a script's first line; None for a binary or an unreadable file."""
    try:
        program = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        return None
    with open(program, "rb", buffering=0) as file:
        head = file.read(256)
    if not head.startswith(b"#!"):
        return None
    words = head[2:].split(b"\n", 1)[0].split(None, 1)
    return os.fsdecode(words[0]) if words else None


class Verify(NamedTuple):
    """Assert what the operations before have promised, from the kernel's own answers, or refuse to execute."""

    uid: int
    gid: int
    targets: tuple[int, ...]
    last_capability: int

    def describe(self) -> str:
        return "verify the instance's privileges"

    def apply(self, context: Context) -> None:
        promises = (
            ("user", os.getresuid() == (self.uid,) * 3),
            ("group", os.getresgid() == (self.gid,) * 3),
            ("supplementary groups", os.getgroups() == []),
            ("capabilities", kernel.capget() == (0, 0, 0)),
            ("bounding set", kernel.bounding_set_empty(self.last_capability)),
            ("no_new_privs", kernel.prctl(kernel.PR_GET_NO_NEW_PRIVS) == 1),
            ("seccomp", kernel.prctl(kernel.PR_GET_SECCOMP) == kernel.SECCOMP_MODE_FILTER),
            ("working directory", os.getcwd().startswith("/")),
            ("session", os.getsid(0) == os.getpid()),
            ("descriptors", all(self._passed(context, target) for target in self.targets)),
        )
        broken = [name for name, kept in promises if not kept]
        if broken:
            raise SetupRefused(", ".join(broken))

    @staticmethod
    def _passed(context: Context, target: int) -> bool:
        """Whether ``target`` is the very file that was declared and survives execve(2)."""
        same = os.path.samestat(os.fstat(target), context.declared[target])
        return same and os.get_inheritable(target)


class Execute(NamedTuple):
    """Replace the set-up by the application, or by the tiny init that starts it.

    The init runs from a sealed memfd: an application can neither reach nor change the host's copy (CVE-2019-5736).
    """

    executable: str
    arguments: tuple[str, ...]
    environ: tuple[bytes, ...]

    def describe(self) -> str:
        return f"execute {self.executable}"

    def apply(self, context: Context) -> None:
        command = tuple(os.fsencode(word) for word in (self.executable, *self.arguments))
        environ = kernel.string_array(self.environ)
        if context.init is None:
            kernel.execveat(kernel.AT_FDCWD, command[0], kernel.string_array(command), environ, 0)
        else:
            argv = kernel.string_array((*INIT_COMMAND, *command))
            kernel.execveat(context.init, b"", argv, environ, kernel.AT_EMPTY_PATH)


# -c: signals go to the application only, as lithos does, not to all that it has started.
INIT_COMMAND = (b"lithos-init", b"-c", b"--")
