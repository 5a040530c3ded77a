"""The supervisor's part of the cgroup tree: `lithos.slice/<sandbox>/<process>.<index>`.

Every instance has a group of its own from before its first instruction until it is gone; every limit is written and
read back before anything runs in it. A one-off command is an instance called `cmd.<process>.<pid>`, by the pid of its
`lithos cmd`; the name of a process has no dots.

A sandbox is one supervisor's, see ``claims``, but commands run there, too, and all `lithos run` have one in common: who
ends removes the groups above its own when nobody else is in there, and who needs them makes them anew.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress

import cgroup

from ..launch import kernel
from ..status import processes, store
from .claims import Claims

SLICE = "lithos.slice"
ENFORCE, AVAILABLE, OFF = "enforce", "available", "off"

_NO_LIMIT = {"cpu.max": "max 100000"}  # every other file takes "max" alone
# Enabled wherever the host has them, limits or not: every instance can be measured.
_MEASURED = ("cpu", "io", "memory", "pids")
_COMMAND = "cmd"
_ATTEMPTS = 10  # to go down a path from which others that end remove their groups
_MOST_KILLS = 64


class Tree:
    """Where the instances' groups are; made once per supervisor."""

    def __init__(
        self,
        mode: str,
        name: str = SLICE,
        controllers: Collection[str] = (),
        parent: str | None = None,
        claims: Claims | None = None,
    ) -> None:
        """Find the hierarchy; raises cgroup.CgroupError.

        ``mode`` is one of `--limits`, ``name`` that of the group of all instances; ``controllers`` restricts which
        are used, none of them means all. ``parent`` is the ``parent`` of another process's tree, to share it; None
        for where this process may have one. A supervisor has ``claims``, a command uses what is there.
        """
        self.mode = mode
        self.hierarchy = cgroup.find()
        self._base = cgroup.base(self.hierarchy) if parent is None else cgroup.Base(parent, None)
        self._name = name
        self._controllers = frozenset(controllers)
        self._claims = claims
        self._sandboxes: dict[str, cgroup.Group] = {}
        self._limits: dict[str, dict[str, str]] = {}
        self._kills: int | None = None  # that a group needs so that our clones live in it

    @property
    def parent(self) -> str:
        """The group in which the tree is, as a path below the mount."""
        return self._base.parent

    def not_enforced(self, limits: Iterable[str]) -> list[str]:
        """Return the controllers that ``limits`` (file names) need and that this supervisor will not use."""
        needed = {file.partition(".")[0] for file in limits}
        return sorted(needed if self.mode == OFF else needed - self._usable)

    @property
    def restricted_by(self) -> str:
        """What has it that ``not_enforced`` is not empty, as a user knows it."""
        return "cgroup-controllers" if self.mode == ENFORCE else f"--limits {self.mode}"

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

        May be called again with other limits. Raises cgroup.CgroupError when one cannot be had, claims.Taken when the
        sandbox is another supervisor's; no instance can be made in a sandbox without its limits.
        """
        self.check(limits)
        if self._claims is not None:
            self._claims.claim(self.path(sandbox, ""))
        group = self._sandboxes.get(sandbox)
        if group is None or not group.exists:
            self._discard(sandbox)
            group = self._open(sandbox)
        before = self._limits.get(sandbox, {})
        dropped = {file: _NO_LIMIT.get(file, "max") for file in before if file not in limits}
        try:
            wanted = self._enforced({**dropped, **limits})
            # A reload that changes nothing writes nothing.
            group.apply({file: text for file, text in wanted.items() if not _reads(group, file, text)})
        except BaseException:
            if sandbox not in self._sandboxes:
                _let_go(group)
            raise
        self._sandboxes[sandbox], self._limits[sandbox] = group, dict(limits)

    def join(self, sandbox: str, limits: Mapping[str, str]) -> None:
        """As ``prepare``, to start a process beside a supervisor: where somebody runs, the limits stay as they are.

        They are what the supervisor has last read, and its to change.
        """
        self.check(limits)
        self._sandboxes[sandbox], self._limits[sandbox] = self._open(sandbox), dict(limits)
        if not self._sandboxes[sandbox].populated:
            self.prepare(sandbox, limits)

    def hold(self, sandbox: str) -> None:
        """Have a sandbox's group, with the limits that it has. Raises cgroup.CgroupError."""
        if sandbox not in self._sandboxes:
            self.prepare(sandbox, {})

    def _open(self, sandbox: str) -> cgroup.Group:
        """Open a sandbox's group, made where it is missing, and end the commands that were left there."""
        with cgroup.Group.open(self.hierarchy.path(self._base.parent)) as parent:
            if self._base.leaf:
                parent.vacate(self._base.leaf).close()
            for _ in range(_ATTEMPTS):
                with suppress(cgroup.NoSuchFile, cgroup.GroupRemoved):
                    return self._below(parent, sandbox)
            return self._below(parent, sandbox)

    def _below(self, parent: cgroup.Group, sandbox: str) -> cgroup.Group:
        with self._descend(parent, self._name) as slice_:
            group = self._descend(slice_, sandbox)
        try:
            group.enable(self._useful(group))
            for name in filter(_is_left_command, group.children()):
                with suppress(cgroup.CgroupError):  # somebody else ends it, too; or nobody can, which stops no others
                    _clear(group, name)
                store.forget_command(f"{sandbox}/{name}")
        except BaseException:
            _let_go(group)
            raise
        return group

    def _descend(self, parent: cgroup.Group, name: str) -> cgroup.Group:
        parent.enable(self._useful(parent))
        return parent.create(name, exist_ok=True)

    def _useful(self, group: cgroup.Group) -> frozenset[str]:
        """Return what ``group`` offers of the controllers that measure or may be asked to limit."""
        useful = group.offered & {*_MEASURED, "cpuset", "hugetlb", "rdma", "misc"}
        return useful & self._controllers if self._controllers else useful

    def keep(self, sandboxes: Collection[str]) -> None:
        """Let go of all sandboxes but these; the others must not have instances any more."""
        for sandbox in self._sandboxes.keys() - sandboxes:
            self._discard(sandbox)
        if self._claims is not None:
            self._claims.keep([self.path(sandbox, "") for sandbox in sandboxes])

    def _discard(self, sandbox: str) -> None:
        group = self._sandboxes.pop(sandbox, None)
        self._limits.pop(sandbox, None)
        if group is not None:
            _let_go(group)

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
        group = self._make(sandbox, instance)
        try:
            self._let_clones_live(group)
            group.apply(self._enforced(limits))
        except BaseException:
            group.remove()
            raise
        return group

    def _make(self, sandbox: str, instance: str) -> cgroup.Group:
        for _ in range(_ATTEMPTS):
            parent = self._sandboxes[sandbox]
            try:
                return parent.create(instance)
            except FileExistsError:
                _clear(parent, instance)
            except FileNotFoundError:  # somebody else who used the sandbox has ended, and removed its group
                self.prepare(sandbox, self._limits[sandbox])
        return self._sandboxes[sandbox].create(instance)

    def _let_clones_live(self, group: cgroup.Group) -> None:
        """Make a new and empty group one that our clones live in.

        Since 6.14 Linux kills at once what clone3(2) puts into a group that was killed (cgroup.kill) more or less
        often than that of its parent: cgroup_css_set_fork() compares the counts before it knows the new group. And
        an init may have killed ours before it started us there.
        """
        if self._kills is None:
            self._kills = _kills_until_a_clone_lives(group)
            return
        for _ in range(self._kills):
            group.kill()

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
        self.keep(())
        with suppress(OSError):
            os.rmdir(self.hierarchy.path(self.path("", "")))


def command_name(process: str, pid: int) -> str:
    """Return the name of the group of a one-off command, ``pid`` being that of its `lithos cmd`."""
    return f"{_COMMAND}.{process}.{pid}"


def _is_left_command(name: str) -> bool:
    """Whether a group is that of a command whose `lithos cmd` was killed."""
    kind, _, rest = name.partition(".")
    pid = rest.rpartition(".")[2]
    return kind == _COMMAND and "." in rest and pid.isdecimal() and not processes.lives(int(pid))


def _let_go(group: cgroup.Group) -> None:
    """Close a sandbox's group, and remove it if nobody is in there."""
    group.close()
    # EBUSY and ENOTEMPTY: another supervisor, or a command, is.
    with suppress(OSError):
        os.rmdir(group.path)


def _reads(group: cgroup.Group, file: str, text: str) -> bool:
    return cgroup.limits.agrees(file, text, group.read(file))


def _kills_until_a_clone_lives(group: cgroup.Group) -> int:
    for kills in range(_MOST_KILLS):
        if _clone_lives(group):
            return kills
        group.kill()
    return 0  # it is not that what kills them


def _clone_lives(group: cgroup.Group) -> bool:
    pid, pidfd = kernel.clone3(0, group.fd)
    if pid == 0:
        os._exit(0)
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
    finally:
        os.close(pidfd)
    return result is not None and result.si_status != signal.SIGKILL


def _clear(parent: cgroup.Group, name: str) -> None:
    group = parent.child(name)
    group.kill()
    group.remove()
