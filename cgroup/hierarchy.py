"""Where cgroup v2 is mounted, which controllers it offers, and where a tree of our own may grow."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from cgroup.errors import ControllerMissing, NoUnifiedHierarchy, OutsideNamespace, refused

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

#: The child group into which the calling process moves where its own group must become an inner node.
SUPERVISOR_LEAF = "supervisor"

UNIFIED_ONLY = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all"

# The controllers that v1 and v2 both have: the v1 name, which mounts and /proc/cgroups use, and the v2 name.
_V2_NAMES = {
    **{name: name for name in ("cpu", "cpuset", "hugetlb", "memory", "misc", "perf_event", "pids", "rdma")},
    "blkio": "io",
}

# systemd sets both on a delegated unit: user.* so that anyone can see it, trusted.* so that only root can
# forge it. https://systemd.io/CGROUP_DELEGATION
_DELEGATE_MARKS = ("trusted.delegate", "user.delegate")


class Mount(NamedTuple):
    """One line of mountinfo, see proc_pid_mountinfo(5)."""

    id: int
    parent: int
    root: str
    point: str
    kind: str
    options: str


class Hierarchy(NamedTuple):
    """The unified hierarchy as this process sees it."""

    #: The mount point.
    mount: str
    #: The group that is mounted there, "/" when it is all that our cgroup namespace has.
    root: str
    #: The controllers that the mounted group offers.
    controllers: frozenset[str]
    #: Controllers that are bound to a v1 hierarchy (by v2 name), and its mount point.
    legacy: dict[str, str]

    def path(self, group: str) -> str:
        """The directory of a group, `group` being its path below the mount ("/lithos.slice")."""
        return os.path.join(self.mount, group.lstrip("/")).rstrip("/")


class Base(NamedTuple):
    """Where groups of our own go."""

    #: The group below which they are created, a path below the mount.
    parent: str
    #: The child of it into which all processes of `parent` must move first, None when they may stay.
    leaf: str | None


class KernelController(NamedTuple):
    """One line of /proc/cgroups, see cgroups(7)."""

    #: The v1 hierarchy that has the controller; 0: none, it is free for v2.
    hierarchy: int
    enabled: bool


def find(mountinfo: str = "/proc/self/mountinfo") -> Hierarchy:
    """Find the cgroup v2 mount.

    A mount that another one hides is passed over; of several visible ones, one that shows the whole
    hierarchy is preferred. Raises `NoUnifiedHierarchy` when there is none.
    """
    mounts = parse_mountinfo(_read(mountinfo))
    unified = visible(mounts, "cgroup2")
    if not unified:
        raise NoUnifiedHierarchy(
            errno.ENOENT,
            f"no cgroup v2 file system is mounted according to {mountinfo}: {UNIFIED_ONLY}, "
            "or mount one with 'mount -t cgroup2 cgroup2 DIRECTORY'",
            mountinfo,
        )
    mount = min(unified, key=lambda mount: mount.root != "/")
    controllers = _read(os.path.join(mount.point, "cgroup.controllers")).split()
    return Hierarchy(mount.point, mount.root, frozenset(controllers), _legacy(visible(mounts, "cgroup")))


def own_cgroup(hierarchy: Hierarchy, pid: int | str = "self") -> str:
    """The v2 group of a process as a path below the mount.

    Raises `OutsideNamespace` when the mount does not show that group.
    """
    path = f"/proc/{pid}/cgroup"
    return below_root(unified_path(_read(path)), hierarchy.root, path)


def is_delegated(path: str) -> bool:
    """Whether systemd marked the group at the directory `path` as delegated to its processes.

    The mark is the extended attribute `trusted.delegate`, which only root sees, or `user.delegate`
    (since systemd 251), with the value "1".
    """
    return any(_attribute(path, mark) == b"1" for mark in _DELEGATE_MARKS)


def base(hierarchy: Hierarchy) -> Base:
    """Where the calling process may create groups, see `choose_base`."""
    own = own_cgroup(hierarchy)
    delegated = [group for group in lineage(own) if is_delegated(hierarchy.path(group))]
    # Only the root of the whole hierarchy has no cgroup.type; that of a namespace is an ordinary group.
    return choose_base(own, delegated, ordinary_root=os.path.exists(f"{hierarchy.mount}/cgroup.type"))


def choose_base(own: str, delegated: Collection[str], *, ordinary_root: bool) -> Base:
    """Decide where groups go: below the nearest delegated group, else below the root of the mount.

    `own` is the group of the calling process, `delegated` those of its lineage that are marked.
    A group with processes cannot give controllers to its children (cgroup-v2.rst, "No Internal Process
    Constraint"), so when the base is our own group its processes must move to a leaf. The real root is
    exempt from that rule; the root of a cgroup namespace is not (`ordinary_root`).
    """
    parent = next((group for group in lineage(own) if group in delegated), "/")
    must_move = parent == own and (own != "/" or ordinary_root)
    return Base(parent, SUPERVISOR_LEAF if must_move else None)


def explain_missing(controller: str, group: str) -> ControllerMissing:
    """Why the group at the directory `group` lacks `controller`, by what this host says now."""
    hierarchy = find()
    kernel = parse_controllers(_read("/proc/cgroups"))
    return diagnose(controller, group, hierarchy, kernel)


def diagnose(
    controller: str, group: str, hierarchy: Hierarchy, kernel: dict[str, KernelController]
) -> ControllerMissing:
    """The first reason of the table that applies, as an error to raise."""
    known = kernel.get(controller)
    v1_mount = hierarchy.legacy.get(controller)
    switch = _not_enabled_in(controller, group, hierarchy)
    if v1_mount:
        where, reason = v1_mount, f"it is bound to the v1 hierarchy at {v1_mount}"
        remedy = UNIFIED_ONLY
    elif known and known.hierarchy:
        where, reason = None, f"it is bound to the v1 hierarchy number {known.hierarchy}, mounted elsewhere"
        remedy = UNIFIED_ONLY
    elif known and not known.enabled:
        where, reason = None, "the kernel was booted with it disabled"
        remedy = f"take cgroup_disable={controller} off the kernel command line"
    elif switch:
        where, reason = switch, f"it is not enabled in {switch}"
        remedy = f"write '+{controller}' there, or have it delegated with Delegate=yes in the systemd unit"
    else:
        where, reason = None, f"neither this kernel nor its cgroup namespace offers it at {hierarchy.mount}"
        remedy = "use a kernel that has it, or have it passed into this container"
    sentence = f"{group} has no {controller} controller because {reason}: {remedy}"
    return ControllerMissing(controller, where, sentence, group)


def _not_enabled_in(controller: str, group: str, hierarchy: Hierarchy) -> str | None:
    """The topmost subtree_control above `group` that withholds a controller which the root offers."""
    below = os.path.relpath(group, hierarchy.mount)
    if controller not in hierarchy.controllers or below.startswith(".."):
        return None
    for ancestor in reversed([*lineage(os.path.dirname(f"/{below}"))]):
        switch = os.path.join(hierarchy.path(ancestor), "cgroup.subtree_control")
        if controller not in _read(switch).split():
            return switch
    return None


def lineage(group: str) -> Iterator[str]:
    """A group and all its ancestors up to "/", nearest first."""
    while group != "/":
        yield group
        group = os.path.dirname(group)
    yield group


def unified_path(text: str) -> str:
    """The v2 path in the text of /proc/PID/cgroup: the one line of hierarchy 0 (cgroups(7))."""
    return next(line for line in text.splitlines() if line.startswith("0::")).removeprefix("0::")


def below_root(group: str, root: str, source: str) -> str:
    """`group` of /proc/PID/cgroup relative to `root`, the group that is mounted.

    The kernel writes paths relative to the reader's cgroup namespace, and "/.." for what lies outside
    (cgroup_namespaces(7)). `source` is named in the `OutsideNamespace` that this raises then.
    """
    prefix = root.rstrip("/")
    if not group.startswith("/..") and f"{group}/".startswith(f"{prefix}/"):
        return group.removeprefix(prefix) or "/"
    raise OutsideNamespace(
        errno.EXDEV,
        f"{source} names the group {group}, which the cgroup v2 mount of {root} does not show: "
        "move the process into this cgroup namespace, or mount the hierarchy that has it",
        source,
    )


def parse_mountinfo(text: str) -> list[Mount]:
    """The lines of mountinfo; any number of optional fields ends with a lone dash."""
    mounts = []
    for line in text.splitlines():
        head, _, tail = line.partition(" - ")
        number, parent, _, root, point, *_ = head.split(" ")
        kind, _, options = tail.split(" ", 2)
        mounts.append(Mount(int(number), int(parent), unescape(root), unescape(point), kind, options))
    return mounts


def unescape(field: str) -> str:
    r"""Undo the octal escapes of mountinfo: ``\040`` is a space."""
    first, *rest = field.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def visible(mounts: Sequence[Mount], kind: str) -> list[Mount]:
    """Those mounts of a file system type that one reaches by their own path, in the order of mountinfo."""
    ids = {mount.id for mount in mounts}
    # What the root is mounted on is not listed (in a chroot: what it is part of), or is the root itself.
    children = {(mount.parent if mount.parent in ids - {mount.id} else None, mount.point): mount for mount in mounts}
    return [mount for mount in mounts if mount.kind == kind and _reached(mount.point, children) == mount]


def _reached(path: str, children: dict[tuple[int | None, str], Mount]) -> Mount | None:
    """The mount in which a walk along `path` ends; each step enters all that is mounted there."""
    here: Mount | None = None
    for step in reversed([*lineage(path)]):
        while above := children.get((here.id if here else None, step)):
            here = above
    return here


def _legacy(mounts: Sequence[Mount]) -> dict[str, str]:
    return {
        _V2_NAMES[option]: mount.point for mount in mounts for option in mount.options.split(",") if option in _V2_NAMES
    }


def parse_controllers(text: str) -> dict[str, KernelController]:
    """The lines of /proc/cgroups by v2 name, without those that v2 has not."""
    rows = (line.split() for line in text.splitlines())
    return {
        _V2_NAMES[name]: KernelController(int(hierarchy), enabled == "1")
        for name, hierarchy, _, enabled in rows
        if name in _V2_NAMES
    }


def _attribute(path: str, name: str) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise refused(f"read the attribute {name} of", path, error) from error


def _read(path: str) -> str:
    """All of a file; names in it may be any bytes."""
    with open(path, "rb") as file:
        return os.fsdecode(file.read())
