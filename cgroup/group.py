"""One group: made, limited, filled, watched, emptied and removed through one directory descriptor."""

from __future__ import annotations

import errno
import os
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from cgroup import limits
from cgroup.controllers import Core, Cpu, Cpuset, Io, Memory, Pids
from cgroup.errors import CgroupError, GroupRemoved, LimitNotApplied, NoSuchFile, Refused, refused
from cgroup.files import parse_flat
from cgroup.hierarchy import explain_missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# These stand in every group, whatever controllers it has.
_WITHOUT_CONTROLLER = frozenset({"cpu.stat", "cpu.stat.local"})


class Group:
    """A control group, held by a descriptor of its directory.

    The descriptor is close-on-exec and can be handed to clone3(2) for CLONE_INTO_CGROUP. It stays with the
    group even when the path gets a new one. Use `with` or `close()`; closing leaves the group itself alone.

    Operations that the kernel refuses raise `Refused`; names that are not one path component `ValueError`.
    """

    __slots__ = ("_events", "fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self._events = -1

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the group at a directory of a cgroup v2 file system.

        Raises `Refused` when there is none, or when it is no v2 group (it has no cgroup.controllers).
        """
        group = cls._at(path, path, None)
        if not group.exists:
            group.close()
            sentence = f"{path} has no cgroup.controllers: give a directory of a cgroup v2 file system"
            raise NoSuchFile(errno.ENOENT, sentence, path)
        return group

    @classmethod
    def _at(cls, path: str, name: str, parent: int | None) -> Self:
        # Not O_PATH: listing the directory and reading its extended attributes are EBADF with that.
        flags = os.O_RDONLY | os.O_DIRECTORY
        try:
            return cls(path, os.open(name, flags, dir_fd=parent))
        except OSError as error:
            raise refused("open the group", path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Group({self.path!r})"

    def fileno(self) -> int:
        """The directory descriptor."""
        return self.fd

    def close(self) -> None:
        """Close the descriptors; may be called twice."""
        for fd in (self.fd, self._events):
            if fd >= 0:
                os.close(fd)
        self.fd = self._events = -1

    # The tree.

    def create(self, name: str, *, exist_ok: bool = False) -> Self:
        """Make a child group and open it; with `exist_ok` take over one that is there.

        Raises `GroupExists`, which is a FileExistsError as well.
        """
        path = self._path(name)
        try:
            os.mkdir(name, 0o755, dir_fd=self.fd)
        except FileExistsError as error:
            if not exist_ok:
                raise refused("create the group", path, error) from error
        except OSError as error:
            raise refused("create the group", path, error) from error
        return self.child(name)

    def child(self, name: str) -> Self:
        """Open a child group. Raises `NoSuchFile` (a FileNotFoundError) when there is none."""
        return self._at(self._path(name), name, self.fd)

    def children(self) -> list[str]:
        """The names of the child groups, in no order."""
        with os.scandir(self.fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    @property
    def exists(self) -> bool:
        """Whether the group is there still; the descriptor outlives it."""
        try:
            os.stat("cgroup.controllers", dir_fd=self.fd)
        except FileNotFoundError:
            return False
        return True

    def remove(self, timeout: float = 5.0) -> None:
        """Remove the group with all groups below it, then close it; one that is gone already is no error.

        Waits at most `timeout` seconds for its processes to end; it does not end them, see `kill`.
        Raises `Refused` with EBUSY when some are left.
        """
        with suppress(OSError):  # EBUSY: it has processes or children; ENOENT: it is gone
            os.rmdir(self.path)
            self.close()
            return
        if not self.wait_empty(timeout):
            sentence = f"cannot remove {self.path}: processes are in it after {timeout} s: end them, see kill()"
            raise Refused(errno.EBUSY, sentence, self.path)
        for directory, _, _ in os.walk(self.path, topdown=False):
            _rmdir(directory)
        self.close()

    # Controllers and limits.

    @property
    def offered(self) -> frozenset[str]:
        """The controllers that this group has and can give to its children."""
        return frozenset(self.core.controllers)

    @property
    def enabled(self) -> frozenset[str]:
        """The controllers that its children have."""
        return frozenset(self.core.subtree_control)

    def enable(self, controllers: Iterable[str]) -> None:
        """Give controllers to the children; those that they have already are left alone.

        All or none: raises `ControllerMissing` for the first that is not on offer here, and `Refused` with
        EBUSY when the group holds processes (see `vacate`).
        """
        wanted = sorted(set(controllers) - self.enabled)
        for absent in (name for name in wanted if name not in self.offered):
            raise explain_missing(absent, self.path)
        if wanted:
            self.write("cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))

    def apply(self, values: Mapping[str, str | int]) -> None:
        """Write limits by file name and read every one back.

        A value is what the kernel takes: an integer, `max`, ``50000 100000``; several lines are several
        writes. Raises `LimitNotApplied` when a file reads as another limit than was asked for (rounding to
        whole pages apart), `ControllerMissing` or `Refused` when one cannot be written. The limits before
        that one stay written: use the group only when this returns.
        """
        for name, value in values.items():
            self.write(name, str(value))
            reads = self.read(name)
            if not limits.agrees(name, str(value), reads):
                raise LimitNotApplied(self._path(name), str(value), reads)

    @property
    def core(self) -> Core:
        """The files that need no controller."""
        return Core(self)

    @property
    def memory(self) -> Memory:
        """The files of the memory controller."""
        return Memory(self)

    @property
    def cpu(self) -> Cpu:
        """The files of the cpu controller."""
        return Cpu(self)

    @property
    def pids(self) -> Pids:
        """The files of the pids controller."""
        return Pids(self)

    @property
    def io(self) -> Io:
        """The files of the io controller."""
        return Io(self)

    @property
    def cpuset(self) -> Cpuset:
        """The files of the cpuset controller."""
        return Cpuset(self)

    # Processes.

    def attach(self, pid: int) -> None:
        """Move a process here with all its threads. Raises `Refused` (ESRCH: it has ended)."""
        self.write("cgroup.procs", str(pid))

    def vacate(self, leaf: str) -> Self:
        """Move all processes of this group, the calling one among them, to its child `leaf`; return that.

        A process that ends meanwhile is no error. Raises `Refused` (EXDEV) for processes that this PID
        namespace cannot name.
        """
        child = self.create(leaf, exist_ok=True)
        while pids := self.core.procs:
            if 0 in pids:  # how the kernel lists them; written back, 0 would mean ourselves
                sentence = f"cannot empty {self.path}: it holds processes of another PID namespace: move them there"
                raise Refused(errno.EXDEV, sentence, self.path)
            for pid in pids:
                _attach_if_alive(child, pid)
        return child

    def kill(self) -> None:
        """SIGKILL every process in the group and below, frozen and forking ones too (Linux 5.14)."""
        self.write("cgroup.kill", "1")

    def freeze(self) -> None:
        """Ask for a stop of all processes; `wait_frozen` tells when they stand."""
        self.write("cgroup.freeze", "1")

    def thaw(self) -> None:
        """Let frozen processes go on."""
        self.write("cgroup.freeze", "0")

    # Events.

    @property
    def events_fd(self) -> int:
        """A descriptor of cgroup.events that the group keeps until it is closed.

        Register it with epoll(7) for EPOLLPRI: it reports when the group gets empty or frozen, and once
        right after it was opened. `populated` reads it and so re-arms it.
        """
        if self._events < 0:
            self._events = self._open("cgroup.events", os.O_RDONLY)
        return self._events

    @property
    def populated(self) -> bool:
        """Whether a process that has not ended is in the group or below; False for a removed group."""
        try:
            return bool(self._event("populated"))
        except GroupRemoved:
            return False

    def wait_empty(self, timeout: float | None = None) -> bool:
        """Wait until no process is in the group or below; False when `timeout` seconds pass before."""
        try:
            return self._wait("populated", 0, timeout)
        except GroupRemoved:
            return True

    def wait_frozen(self, timeout: float | None = None) -> bool:
        """Wait until every process stands still; False when `timeout` seconds pass before."""
        return self._wait("frozen", 1, timeout)

    def _wait(self, key: str, wanted: int, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        poller = select.poll()
        poller.register(self.events_fd, select.POLLPRI)
        while self._event(key) != wanted:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            poller.poll(None if left is None else left * 1000)
        return True

    def _event(self, key: str) -> int:
        fd = self.events_fd
        try:
            return parse_flat(os.pread(fd, 4096, 0).decode())[key]
        except OSError as error:
            raise refused("read", self._path("cgroup.events"), error) from error

    # Files by name.

    def read(self, name: str) -> str:
        """The text of a file without its last newline.

        Raises `ControllerMissing` when its controller is not on offer, `NoSuchFile` when only it is missing.
        """
        fd = self._open(name, os.O_RDONLY)
        try:
            # A long cgroup.procs comes a page at a time, so read to the end.
            return b"".join(iter(lambda: os.read(fd, 65536), b"")).decode().strip()
        except OSError as error:
            raise refused("read", self._path(name), error) from error
        finally:
            os.close(fd)

    def write(self, name: str, text: str) -> None:
        """Write text to a file, one call per line: the kernel takes one key or one process id a time."""
        fd = self._open(name, os.O_WRONLY)
        try:
            for line in text.splitlines() or [""]:
                _write_line(fd, line, self._path(name))
        finally:
            os.close(fd)

    def _open(self, name: str, flags: int) -> int:
        path = self._path(name)
        try:
            # Without O_CREAT, which kernfs answers with EACCES, a wrong name is a clear ENOENT.
            return os.open(name, flags, dir_fd=self.fd)
        except FileNotFoundError as error:
            raise self._why_absent(name, error) from error
        except OSError as error:
            raise refused("open", path, error) from error

    def _why_absent(self, name: str, error: FileNotFoundError) -> CgroupError:
        controller = name.partition(".")[0]
        if not self.exists:
            # Opening a file says ENOENT then, reading an open one ENODEV: the latter is the truth.
            return refused("open", self._path(name), OSError(errno.ENODEV, os.strerror(errno.ENODEV)))
        if _needs_controller(name) and controller not in self.offered:
            return explain_missing(controller, self.path)
        return refused("open", self._path(name), error)

    def _path(self, name: str) -> str:
        return f"{self.path}/{component(name)}"


def component(name: str) -> str:
    """Return `name` if it is one path component that can name a group or file, else raise ValueError.

    The kernel refuses newlines in names of groups, since /proc/PID/cgroup is read by lines.
    """
    if name in ("", ".", "..") or not {"/", "\0", "\n"}.isdisjoint(name):
        raise ValueError(f"{name!r} cannot name a cgroup or a file of one: give one path component")
    return name


def _needs_controller(name: str) -> bool:
    return not name.startswith("cgroup.") and not name.endswith(".pressure") and name not in _WITHOUT_CONTROLLER


def _write_line(fd: int, line: str, path: str) -> None:
    try:
        os.write(fd, f"{line}\n".encode())
    except OSError as error:
        raise refused(f"write {line!r} to", path, error) from error


def _attach_if_alive(group: Group, pid: int) -> None:
    try:
        group.attach(pid)
    except Refused as error:
        if error.errno != errno.ESRCH:
            raise


def _rmdir(directory: str) -> None:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused("remove", directory, error) from error
