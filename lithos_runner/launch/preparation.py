"""What prepares a root file system once, for all instances that start from a copy of it.

Each step is a value with ``describe()`` and ``apply()``; they run in a child with a mount namespace of its own, see
``launcher``. The mounts are made below a descriptor of the new root, and every path is resolved with
``openat2(RESOLVE_IN_ROOT)``: an image's symbolic links lead nowhere outside (CVE-2021-30465 and its kin). Nothing
reads or writes /proc in there.
"""

from __future__ import annotations

import errno
import os
import signal
import stat
from typing import NamedTuple, Protocol

from . import kernel, trees
from .kernel import perform


class Context:
    """What steps hand on to each other inside the child."""

    __slots__ = ("report", "root")

    def __init__(self, report: int) -> None:
        self.report = report
        self.root = -1


class Preparation(Protocol):
    """One step."""

    def describe(self) -> str:
        """Return the step as an infinitive phrase that fits behind "cannot"."""

    def apply(self, context: Context) -> None:
        """Do the step in the child; raises OSError."""


def _enter(context: Context, path: str) -> None:
    """Make ``path`` of the new root the working directory, so that a mount goes to "." and nowhere else."""
    directory = trees.open_at(context.root, path, trees.DIRECTORY, trees.INSIDE)
    os.fchdir(directory)
    os.close(directory)


def _attach(context: Context, tree: int, path: str) -> None:
    target = trees.open_at(context.root, path, os.O_PATH, trees.INSIDE)
    trees.attach(tree, target)
    os.close(target)
    os.close(tree)


class PrivatePropagation(NamedTuple):
    """Keep every mount made from here on inside this mount namespace; see mount_namespaces(7)."""

    def describe(self) -> str:
        return "make the mounts private"

    def apply(self, context: Context) -> None:
        perform(kernel.mount(None, b"/", None, kernel.MS_REC | kernel.MS_PRIVATE))


class OpenRoot(NamedTuple):
    """Attach a copy of the image at ``mount_point``, all of it read-only, without set-user-ID and devices.

    A link in the directory of images may lead from one image to another, but not out of it. With ``identity`` (device
    and inode) another directory that has taken the image's place is refused: the configuration that was checked is
    that of the one before.
    """

    directory: str
    image: str
    identity: tuple[int, int] | None
    mount_point: str

    def describe(self) -> str:
        return f"make a read-only root from {os.path.normpath(os.path.join(self.directory, self.image))}"

    def apply(self, context: Context) -> None:
        directory = trees.open_directory(kernel.AT_FDCWD, self.directory, trees.TRUSTED)
        image = trees.open_directory(directory, self.image or ".", trees.BENEATH)
        status = os.fstat(image)
        if self.identity not in (None, (status.st_dev, status.st_ino)):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        attributes = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV
        context.root = trees.copy(image, attributes)
        point = self.mount_point.encode()
        perform(kernel.move_mount(context.root, kernel.AT_FDCWD, point, kernel.MOVE_MOUNT_F_EMPTY_PATH))
        os.close(image)
        os.close(directory)


class FindDirectory(NamedTuple):
    """See that ``path`` of the new root is a directory and no symbolic link.

    What instances mount there themselves comes behind their volumes. A link into a volume could be changed by another
    instance between two of these mounts: CVE-2019-19921.
    """

    path: str

    def describe(self) -> str:
        return f"find the directory {self.path}"

    def apply(self, context: Context) -> None:
        os.close(trees.open_at(context.root, self.path, trees.DIRECTORY, kernel.RESOLVE_NO_SYMLINKS))


class BindHost(NamedTuple):
    """Bind the host's ``source`` and everything mounted below it read-only on ``path`` of the new root."""

    source: str
    path: str
    devices: bool = False

    def describe(self) -> str:
        return f"bind the host's {self.source} read-only on {self.path}"

    def apply(self, context: Context) -> None:
        attributes = kernel.MOUNT_ATTR_RDONLY | kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NOEXEC
        attributes |= 0 if self.devices else kernel.MOUNT_ATTR_NODEV
        source = trees.open_directory(kernel.AT_FDCWD, self.source, trees.TRUSTED)
        _attach(context, trees.copy(source, attributes), self.path)
        os.close(source)


class DropMounts(NamedTuple):
    """Detach what the host has mounted on ``path``: an instance gets something of its own there.

    The kernel refuses cgroup2 on top of cgroup2 (EBUSY), and what is only covered would be copied for every instance.
    """

    path: str

    def describe(self) -> str:
        return f"detach what the host has mounted on {self.path}"

    def apply(self, context: Context) -> None:
        while _detach(context, self.path):
            pass


def _detach(context: Context, path: str) -> bool:
    """Detach the top mount with all below it; False when nothing is mounted on ``path``."""
    _enter(context, path)
    try:
        perform(kernel.umount2(b".", kernel.MNT_DETACH))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


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
        perform(kernel.mount(b"tmpfs", b".", b"tmpfs", flags, b"mode=755,size=64k,nr_inodes=32"))
        _enter(context, "dev")
        os.umask(0)
        for name, (major, minor) in DEVICES.items():
            os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        for name, target in DEVICE_LINKS.items():
            os.symlink(target, name)
        os.mkdir("pts", 0o755)
        os.mkdir("shm", 0o755)
        os.umask(0o022)
        perform(kernel.mount(None, b".", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | flags))


class HideRun(NamedTuple):
    """Cover /run, where the host's sockets are, and keep of it only the file that /etc/resolv.conf links to."""

    resolv_conf: str | None

    def describe(self) -> str:
        return "hide the host's /run"

    def apply(self, context: Context) -> None:
        kept = self.resolv_conf and perform(
            kernel.open_tree(context.root, self.resolv_conf.encode(), kernel.OPEN_TREE_CLONE)
        )
        _enter(context, "run")
        flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
        perform(kernel.mount(b"tmpfs", b".", b"tmpfs", flags, b"mode=755,size=64k"))
        if self.resolv_conf and kept:
            _enter(context, ".")
            os.makedirs(os.path.dirname(self.resolv_conf), exist_ok=True)
            os.close(os.open(self.resolv_conf, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
            _attach(context, kept, self.resolv_conf)
        _enter(context, "run")
        perform(kernel.mount(None, b".", None, kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | flags))


class Pivot(NamedTuple):
    """Make the new root the root and let go of the old one; see pivot_root(2), `pivot_root(".", ".")`."""

    def describe(self) -> str:
        return "change to the new root"

    def apply(self, context: Context) -> None:
        os.fchdir(context.root)
        perform(kernel.pivot_root(b".", b"."))
        perform(kernel.umount2(b".", kernel.MNT_DETACH))
        os.chdir("/")
        os.close(context.root)


class EndWithParent(NamedTuple):
    """Be killed when the process ``parent`` ends, at whatever step: we have all its descriptors, its sockets too."""

    parent: int

    def describe(self) -> str:
        return "end with the supervisor"

    def apply(self, context: Context) -> None:
        perform(kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL))
        if os.getppid() != self.parent:  # it ended before we asked, and nobody would tell
            os._exit(1)


class Hold(NamedTuple):
    """Report success and keep the prepared mount namespace alive until the parent holds it and kills us."""

    def describe(self) -> str:
        return "hold the mount namespace"

    def apply(self, context: Context) -> None:
        os.close(context.report)
        signal.pause()
