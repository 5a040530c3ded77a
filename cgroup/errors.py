"""What can go wrong, as one tree.

::

    OSError
    └── CgroupError            `errno`, `filename`, and one sentence as its text
        ├── NoUnifiedHierarchy no cgroup v2 mount is visible
        ├── OutsideNamespace   our own group lies outside of what the mount shows
        ├── ControllerMissing  a controller is not on offer: where it is instead, and the remedy
        ├── LimitNotApplied    the kernel took a value and reads back another
        └── Refused            the kernel refused an operation
            ├── NoSuchFile     also a FileNotFoundError
            ├── GroupExists    also a FileExistsError
            └── GroupRemoved   the group is gone, its descriptor is still held

A wrong *name* (a path where one component is asked for) is the caller's mistake and raises `ValueError`.
"""

from __future__ import annotations

import errno
import os


class CgroupError(OSError):
    """The base of all errors of this package; its text is one sentence that says what to do."""

    def __init__(self, code: int, sentence: str, path: str) -> None:
        super().__init__(code, sentence, path)

    def __str__(self) -> str:
        return str(self.strerror)


class NoUnifiedHierarchy(CgroupError):
    """No cgroup v2 file system is visible in this mount namespace."""


class OutsideNamespace(CgroupError):
    """The group of a process lies outside of the cgroup namespace or of the mounted subtree."""


class ControllerMissing(CgroupError):
    """A controller is not on offer in a group.

    `controller` is its v2 name, `bound_to` the place that has it instead: a v1 mount point, a
    `cgroup.subtree_control` file where it is not enabled, or None when this host has no such place.
    """

    def __init__(self, controller: str, bound_to: str | None, sentence: str, path: str) -> None:
        super().__init__(errno.ENOENT, sentence, path)
        self.controller = controller
        self.bound_to = bound_to


class LimitNotApplied(CgroupError):
    """The kernel accepted `wrote`, yet the file `reads` something that is not the same limit."""

    def __init__(self, path: str, wrote: str, reads: str) -> None:
        sentence = (
            f"wrote {wrote!r} to {path}, but it reads {reads!r}: the limit does not hold, "
            "write a value that the kernel can keep"
        )
        super().__init__(errno.EINVAL, sentence, path)
        self.wrote = wrote
        self.reads = reads


class Refused(CgroupError):
    """The kernel refused an operation; `errno` says how."""


class NoSuchFile(Refused, FileNotFoundError):
    """A group has no file or child of this name."""


class GroupExists(Refused, FileExistsError):
    """A group of this name is there already."""


class GroupRemoved(Refused):
    """The group was removed while its descriptor was held (ENODEV)."""


_KINDS: dict[int, type[Refused]] = {
    errno.ENOENT: NoSuchFile,
    errno.EEXIST: GroupExists,
    errno.ENODEV: GroupRemoved,
}

# By file name and errno, then by errno alone.
# https://docs.kernel.org/admin-guide/cgroup-v2.html#core-interface-files names these codes.
_ADVICE: dict[tuple[str, int], str] = {
    ("cgroup.subtree_control", errno.EBUSY): (
        "a group that holds processes cannot give controllers to its children, move them into a leaf first"
    ),
    (
        "cgroup.subtree_control",
        errno.ENOENT,
    ): "its parent does not offer this controller, enable it there first",
    ("cgroup.subtree_control", errno.EOPNOTSUPP): "threaded groups take threaded controllers only",
    ("cgroup.procs", errno.EBUSY): "its children have controllers, so only they may hold processes",
    ("cgroup.procs", errno.EINVAL): "it takes one process a time, and no kernel thread",
    ("cgroup.procs", errno.EOPNOTSUPP): "the group is threaded, attach the process to its domain",
    ("cgroup.procs", errno.ESRCH): "the process has ended",
    ("", errno.EACCES): "run as root, or have the group delegated to this user",
    ("", errno.EPERM): "run as root, or have the group delegated to this user",
    ("", errno.EROFS): "mount the cgroup file system read-write",
    ("", errno.EAGAIN): "raise cgroup.max.depth or cgroup.max.descendants of the groups above",
    ("", errno.ENOSPC): "the kernel has run out of group ids, remove groups that are not used",
    ("", errno.EBUSY): "end its processes and remove its children first",
    ("", errno.EINVAL): "write a value of the form that the kernel documents for this file",
    ("", errno.ERANGE): "write a value in the range that the kernel documents for this file",
    ("", errno.ENOENT): "check the name; the root group has no limits, and some files need a newer kernel",
    ("", errno.EEXIST): "choose another name, or take over the group that is there",
    ("", errno.ENODEV): "the group has been removed, open its successor",
}


def refused(attempt: str, path: str, error: OSError) -> Refused:
    """The error for `attempt` ("write '1' to") on `path`, with what the kernel said and what to do."""
    code = error.errno or 0
    advice = _ADVICE.get((os.path.basename(path), code)) or _ADVICE.get(("", code))
    sentence = f"cannot {attempt} {path}: {os.strerror(code)}"
    return _KINDS.get(code, Refused)(code, f"{sentence}: {advice}" if advice else sentence, path)
