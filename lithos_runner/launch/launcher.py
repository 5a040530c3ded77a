"""The launcher that a supervisor keeps: facts about the host and one prepared mount namespace per root.

Preparing once what all instances on a root have in common (a read-only root, /dev, a hidden /run) takes the longest
third out of every start: an instance begins with a copy of that mount namespace and adds only what is its own.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from collections.abc import Iterable, Mapping

from . import kernel
from .preparation import Context, EndWithParent, Hold, Preparation
from .sequence import Host, survey, template_sequence
from .spawn import Child, explain, read_report, send_report, spawn, start
from .spec import LaunchSpec, Root

_PREPARATION_TIMEOUT = 30.0  # seconds; a root on a network file system may take its time


class RootUnusable(Exception):
    """The root file system of an instance could not be prepared; the message is a whole sentence."""


class Launcher:
    """Starts instances; not thread-safe, the process must have one thread."""

    def __init__(self, mount_point: str) -> None:
        """Look at the host; see ``survey`` for ``mount_point`` and for what is raised."""
        self.host: Host = survey(mount_point)
        self._templates: dict[Root, int] = {}
        # The mount table reports POLLPRI when it has changed: the copies would miss what was mounted since.
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._changes = select.poll()
        self._changes.register(self._mounts, select.POLLPRI)
        self._table = self._read_mounts()

    def spawn(self, spec: LaunchSpec, cgroup: int, sources: Mapping[int, int], earlier: int | None = None) -> Child:
        """Start one instance; see ``spawn.spawn``. Raises OSError and RootUnusable.

        With ``earlier``, a descriptor from ``spawn.mount_namespace`` that stays the caller's, it finds the mounts of
        that life with all that is in them; what ``spec`` says of its root, volumes and files is then without effect.
        """
        if earlier is not None:
            return spawn(spec, self.host, earlier, cgroup, sources, kept=True)
        return spawn(spec, self.host, self._template(spec.file_system), cgroup, sources)

    def keep(self, specs: Iterable[LaunchSpec]) -> None:
        """Let go of the prepared roots that none of ``specs`` uses: each one holds its image's file system."""
        used = {spec.file_system for spec in specs}
        for root in self._templates.keys() - used:
            os.close(self._templates.pop(root))

    def close(self) -> None:
        """Let go of everything that is kept between starts."""
        self._forget_templates()
        os.close(self._mounts)
        os.close(self.host.init)
        os.close(self.host.parent)

    def _forget_templates(self) -> None:
        for namespace in self._templates.values():
            os.close(namespace)
        self._templates.clear()

    def _template(self, root: Root) -> int:
        if self._mounts_changed():
            self._forget_templates()
        if root not in self._templates:
            self._templates[root] = self._prepare(root)
        return self._templates[root]

    def _mounts_changed(self) -> bool:
        """Whether the mount table is another one than at the last look.

        Container runtimes mount and unmount on the way; an event that leaves no trace must not cost the 4 ms of a
        preparation. Equal lines are the same file systems: the templates hold the old ones, so that no device number
        is given to another.
        """
        if not self._changes.poll(0):
            return False
        before, self._table = self._table, self._read_mounts()
        return self._table != before

    def _read_mounts(self) -> bytes:
        os.lseek(self._mounts, 0, os.SEEK_SET)
        return b"".join(iter(lambda: os.read(self._mounts, 65536), b""))

    def _prepare(self, root: Root) -> int:
        """Let a child make the mount namespace, keep the namespace, let the child go."""
        steps = [EndWithParent(os.getpid()), *template_sequence(root, self.host), Hold()]
        pid, pidfd, status = start(lambda report: _apply(steps, report), kernel.CLONE_NEWNS, None)
        try:
            _await(root.path, steps, status)
            return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(status)
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(pidfd)


def _apply(steps: list[Preparation], report: int) -> None:
    """Do the steps in the child; the last one does not return."""
    context = Context(report)
    for index, step in enumerate(steps):
        try:
            step.apply(context)
        except OSError as error:
            name = error.filename or ""
            send_report(report, index, error.errno or errno.EIO, os.fsdecode(name))
            return


def _await(root: str, steps: list[Preparation], status: int) -> None:
    waiting = select.poll()
    waiting.register(status, select.POLLIN)
    if not waiting.poll(_PREPARATION_TIMEOUT * 1000):
        raise RootUnusable(f"cannot prepare the root {root}: no answer from its file system for 30 s")
    report = read_report(status)
    if report is not None:
        index, number, what = report
        kind, phrase = type(steps[index]).__name__, steps[index].describe()
        raise RootUnusable(explain(f"root {root}", kind, phrase, number, what))
