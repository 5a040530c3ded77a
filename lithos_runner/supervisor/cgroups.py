"""The supervisor's part of the cgroup tree: `lithos.slice/<sandbox>/<process>.<index>`.

Every instance has a group of its own from before its first instruction until it is gone; every limit is written and
read back before anything runs in it.
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

import cgroup

SLICE = "lithos.slice"
ENFORCE, AVAILABLE, OFF = "enforce", "available", "off"

_NO_LIMIT = {"cpu.max": "max 100000"}  # every other file takes "max" alone
# Enabled wherever the host has them, limits or not: every instance can be measured.
_MEASURED = ("cpu", "io", "memory", "pids")


class Tree:
    """Where the instances' groups are; made once per supervisor."""

    def __init__(self, mode: str, name: str = SLICE, controllers: Collection[str] = ()) -> None:
        """Find the hierarchy; raises cgroup.CgroupError.

        ``mode`` is one of `--limits`, ``name`` that of the group of all instances; ``controllers`` restricts which
        are used, none of them means all.
        """
        self.mode = mode
        self.hierarchy = cgroup.find()
        self._base = cgroup.base(self.hierarchy)
        self._name = name
        self._controllers = frozenset(controllers)
        self._sandboxes: dict[str, cgroup.Group] = {}
        self._limits: dict[str, dict[str, str]] = {}

    def not_enforced(self, limits: Iterable[str]) -> list[str]:
        """Return the controllers that ``limits`` (file names) need and that this supervisor will not use."""
        needed = {file.partition(".")[0] for file in limits}
        return sorted(needed if self.mode == OFF else needed - self._usable)

    def check(self, limits: Iterable[str]) -> None:
        """Raise cgroup.ControllerMissing when a limit must be enforced and cannot be."""
        if self.mode == ENFORCE:
            for controller in self._missing(limits):
                raise cgroup.hierarchy.explain_missing(controller, self.hierarchy.path(self._base.parent))

    def _missing(self, limits: Iterable[str]) -> list[str]:
        """The controllers that are not there, as against those that the configuration does without."""
        unused = {name for name in self.not_enforced(limits) if self._controllers and name not in self._controllers}
        return sorted({*self.not_enforced(limits)} - unused)

    @functools.cached_property
    def _usable(self) -> frozenset[str]:
        with cgroup.Group.open(self.hierarchy.path(self._base.parent)) as parent:
            return parent.offered & self._controllers if self._controllers else parent.offered

    def prepare(self, sandbox: str, limits: Mapping[str, str]) -> None:
        """Create a sandbox's group, hand it every controller that is there, and put ``limits`` into force.

        May be called again with other limits. Raises cgroup.CgroupError when one cannot be had; no instance can be
        made in a sandbox without its limits.
        """
        group = self._sandboxes.get(sandbox) or self._open(sandbox)
        before = self._limits.get(sandbox, {})
        dropped = {file: _NO_LIMIT.get(file, "max") for file in before if file not in limits}
        try:
            self.check(limits)
            group.apply(self._enforced({**dropped, **limits}))
        except BaseException:
            if sandbox not in self._sandboxes:
                group.close()
            raise
        self._sandboxes[sandbox], self._limits[sandbox] = group, dict(limits)

    def hold(self, sandbox: str) -> None:
        """Have a sandbox's group, with the limits that it has. Raises cgroup.CgroupError."""
        if sandbox not in self._sandboxes:
            self.prepare(sandbox, {})

    @property
    def sandboxes(self) -> frozenset[str]:
        """The sandboxes that have been prepared and not been discarded."""
        return frozenset(self._sandboxes)

    def _open(self, sandbox: str) -> cgroup.Group:
        parent = cgroup.Group.open(self.hierarchy.path(self._base.parent))
        if self._base.leaf:
            parent.vacate(self._base.leaf).close()
        with parent, self._descend(parent, self._name) as slice_:
            group = self._descend(slice_, sandbox)
        group.enable(self._useful(group))
        return group

    def _descend(self, parent: cgroup.Group, name: str) -> cgroup.Group:
        parent.enable(self._useful(parent))
        return parent.create(name, exist_ok=True)

    def _useful(self, group: cgroup.Group) -> frozenset[str]:
        """Return what ``group`` offers of the controllers that measure or may be asked to limit."""
        useful = group.offered & {*_MEASURED, "cpuset", "hugetlb", "rdma", "misc"}
        return useful & self._controllers if self._controllers else useful

    def discard(self, sandbox: str) -> None:
        """Remove the group of a sandbox that has no instances any more."""
        group = self._sandboxes.pop(sandbox, None)
        self._limits.pop(sandbox, None)
        if group is not None:
            group.close()
            # EBUSY and ENOTEMPTY: another supervisor has instances in there.
            with suppress(OSError):
                os.rmdir(group.path)

    def path(self, sandbox: str, instance: str) -> str:
        """Return an instance's group as a path below the mount, without a leading slash."""
        return "/".join(part for part in (self._base.parent.strip("/"), self._name, sandbox, instance) if part)

    def owner(self, path: str) -> tuple[str, str] | None:
        """Return sandbox and instance ("hello.0") of a cgroup of ours, by its path below the mount; else None."""
        above = self.path("", "")
        parts = path.strip("/").removeprefix(f"{above}/").split("/")
        return (parts[0], parts[1]) if path.strip("/").startswith(f"{above}/") and len(parts) > 1 else None

    def create(self, sandbox: str, instance: str, limits: Mapping[str, str]) -> cgroup.Group:
        """Make an instance's group, empty and with ``limits`` in force.

        Raises cgroup.CgroupError, and leaves nothing behind, when it or one of its limits cannot be had.
        """
        try:
            group = self._create(sandbox, instance)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            # Another supervisor of the same sandbox has removed the group when it was empty.
            self._sandboxes.pop(sandbox).close()
            self.prepare(sandbox, self._limits[sandbox])
            group = self._create(sandbox, instance)
        try:
            group.apply(self._enforced(limits))
        except BaseException:
            group.remove()
            raise
        return group

    def _create(self, sandbox: str, instance: str) -> cgroup.Group:
        parent = self._sandboxes[sandbox]
        try:
            return parent.create(instance)
        except FileExistsError:
            _clear(parent, instance)
            return parent.create(instance)

    def _enforced(self, limits: Mapping[str, str]) -> dict[str, str]:
        # With ENFORCE nothing is left out, whoever forgot `check`: what cannot be written is an error.
        skipped = {*self.not_enforced(limits)} - {*(self._missing(limits) if self.mode == ENFORCE else ())}
        return {file: text for file, text in limits.items() if file.partition(".")[0] not in skipped}

    def open(self, sandbox: str, instance: str) -> cgroup.Group:
        """Open the group of an instance that an earlier supervisor made. Raises cgroup.CgroupError."""
        return cgroup.Group.open(self.hierarchy.path(self.path(sandbox, instance)))

    def instances(self, sandbox: str) -> list[str]:
        """Return the instances ("hello.0") of a sandbox that have a group, whoever made it."""
        return [name for name in self._sandboxes[sandbox].children() if name.rpartition(".")[2].isdecimal()]

    def sweep(self, sandbox: str, instance: str) -> bool:
        """Kill and remove what an earlier supervisor left of an instance; return whether there was anything.

        Raises cgroup.CgroupError.
        """
        try:
            _clear(self._sandboxes[sandbox], instance)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Remove the groups above the instances that nobody else uses."""
        for sandbox in list(self._sandboxes):
            self.discard(sandbox)
        with suppress(OSError):
            os.rmdir(self.hierarchy.path(self.path("", "")))


def _clear(parent: cgroup.Group, name: str) -> None:
    group = parent.child(name)
    group.kill()
    group.remove()
