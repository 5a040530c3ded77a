"""The supervisor's part of the cgroup tree: `lithos.slice/<sandbox>/<process>.<index>`.

Every instance has a group of its own from before its first instruction until it is gone; every limit is written and
read back before anything runs in it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

import cgroup

SLICE = "lithos.slice"
ENFORCE, AVAILABLE, OFF = "enforce", "available", "off"

# Enabled wherever the host has them, limits or not: every instance can be measured.
_MEASURED = ("cpu", "io", "memory", "pids")


class Tree:
    """Where the instances' groups are; made once per supervisor."""

    def __init__(self, mode: str) -> None:
        """Find the hierarchy. ``mode`` is one of `--limits`; raises cgroup.CgroupError."""
        self.mode = mode
        self.hierarchy = cgroup.find()
        self._base = cgroup.base(self.hierarchy)
        self._sandboxes: dict[str, cgroup.Group] = {}

    def not_enforced(self, limits: Iterable[str]) -> list[str]:
        """Return the controllers that ``limits`` (file names) need and that this supervisor will not use."""
        needed = {file.partition(".")[0] for file in limits}
        return sorted(needed if self.mode == OFF else needed - self._offered)

    def check(self, limits: Iterable[str]) -> None:
        """Raise cgroup.ControllerMissing when a limit must be enforced and cannot be."""
        if self.mode == ENFORCE:
            for controller in self.not_enforced(limits):
                raise cgroup.hierarchy.explain_missing(controller, self.hierarchy.path(self._base.parent))

    @functools.cached_property
    def _offered(self) -> frozenset[str]:
        with cgroup.Group.open(self.hierarchy.path(self._base.parent)) as parent:
            return parent.offered

    def prepare(self, sandboxes: Iterable[str]) -> None:
        """Create the groups above the instances and hand them every controller that is there."""
        parent = cgroup.Group.open(self.hierarchy.path(self._base.parent))
        if self._base.leaf:
            parent.vacate(self._base.leaf).close()
        with parent, _descend(parent, SLICE) as slice_:
            for name in sandboxes:
                sandbox = _descend(slice_, name)
                sandbox.enable(_useful(sandbox))
                self._sandboxes[name] = sandbox

    def path(self, sandbox: str, instance: str) -> str:
        """Return an instance's group as a path below the mount, without a leading slash."""
        return "/".join(part for part in (self._base.parent.strip("/"), SLICE, sandbox, instance) if part)

    def create(self, sandbox: str, instance: str, limits: Mapping[str, str]) -> cgroup.Group:
        """Make an instance's group, empty and with ``limits`` in force.

        Raises cgroup.CgroupError, and leaves nothing behind, when it or one of its limits cannot be had.
        """
        parent = self._sandboxes[sandbox]
        try:
            group = parent.create(instance)
        except FileExistsError:
            _clear(parent, instance)
            group = parent.create(instance)
        try:
            group.apply(self._enforced(limits))
        except BaseException:
            group.remove()
            raise
        return group

    def _enforced(self, limits: Mapping[str, str]) -> dict[str, str]:
        # With ENFORCE nothing is left out, whoever forgot `check`: what cannot be written is an error.
        skipped = [] if self.mode == ENFORCE else self.not_enforced(limits)
        return {file: text for file, text in limits.items() if file.partition(".")[0] not in skipped}

    def sweep(self, sandbox: str, process: str) -> list[str]:
        """Kill and remove what an earlier supervisor of ``process`` left; return its instances ("hello.0")."""
        parent = self._sandboxes[sandbox]
        left = [name for name in parent.children() if name.rpartition(".")[0] == process]
        for name in left:
            _clear(parent, name)
        return left

    def close(self) -> None:
        """Remove the groups above the instances that nobody else uses."""
        for sandbox in self._sandboxes.values():
            path = sandbox.path
            sandbox.close()
            # EBUSY and ENOTEMPTY: another supervisor has instances in there.
            with suppress(OSError):
                os.rmdir(path)
        self._sandboxes.clear()
        with suppress(OSError):
            os.rmdir(self.hierarchy.path(self.path("", "")))


def _clear(parent: cgroup.Group, name: str) -> None:
    group = parent.child(name)
    group.kill()
    group.remove()


def _descend(parent: cgroup.Group, name: str) -> cgroup.Group:
    parent.enable(_useful(parent))
    return parent.create(name, exist_ok=True)


def _useful(group: cgroup.Group) -> frozenset[str]:
    """Return what ``group`` offers of the controllers that measure or may be asked to limit."""
    return group.offered & {*_MEASURED, "cpuset", "hugetlb", "rdma", "misc"}
