"""What an earlier supervisor has left alive: found by its state files, believed only as far as the kernel agrees.

A supervisor that dies takes nothing with it: its instances have the listening sockets, their output waits in named
pipes, their groups are in the tree. The state file of an instance is written before its process is created, so that
one whose supervisor was killed in between is found by its group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import cgroup

from ..launch import kernel
from ..status import processes, store
from .cgroups import Tree


class Survivor(NamedTuple):
    """A living instance; the descriptors belong to whoever adopts it."""

    record: dict[str, Any]  # its state file, see Supervised.snapshot
    pid: int  # its first process
    pidfd: int
    group: cgroup.Group

    @property
    def name(self) -> str:
        """`sandbox/process.N`."""
        return f"{self.service}.{self.record['index']}"

    @property
    def service(self) -> str:
        """`sandbox/process`."""
        return f"{self.record['sandbox']}/{self.record['process']}"

    def close(self) -> None:
        """Let go of it."""
        os.close(self.pidfd)
        self.group.close()


# What there has to be in the state file of an instance; Supervised.snapshot has more.
_NUMBER_OR_NONE = (int, float, type(None))
_FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("sandbox", "process", "cgroup", "state", "version", "status"), str),
    **dict.fromkeys(("index", "generation", "restarts", "oom_kills"), int),
    **dict.fromkeys(("pid", "pid_start", "started", "watchdog"), _NUMBER_OR_NONE),
    "last_exit": (dict, type(None)),
}
# What a record that is damaged, or of a version that wrote others, makes happen to who reads it.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError)


def survivors(runtime: str, tree: Tree) -> Iterator[Survivor]:
    """Find the instances that live; the groups of those that do not are left to ``Tree.sweep``."""
    for record in store.read_instances(runtime):
        if all(isinstance(record.get(key), kind) for key, kind in _FIELDS.items()):
            with suppress(OSError):
                survivor = _survivor(record, tree)
                if survivor is not None:
                    yield survivor


def _survivor(record: dict[str, Any], tree: Tree) -> Survivor | None:
    leaf = f"{record['process']}.{record['index']}"
    if record["cgroup"] != tree.path(record["sandbox"], leaf):
        return None  # another delegation than today's: nothing of ours is there
    group = tree.open(record["sandbox"], leaf)
    pid = _first_process(record, group)
    if pid is not None:
        pidfd = os.pidfd_open(pid)
        # Only now is the number nobody else's.
        if _is_first(pid) and pid in group.core.procs:
            return Survivor(record, pid, pidfd, group)
        os.close(pidfd)
    group.close()
    return None


def _first_process(record: dict[str, Any], group: cgroup.Group) -> int | None:
    """Return the instance's process 1: the one on record, or, from before there was one, the one in its group."""
    pid, started = record["pid"], record["pid_start"]
    if isinstance(pid, int) and processes.is_alive(pid, started):
        return pid
    return next((each for each in group.core.procs if _is_first(each)), None)


def _is_first(pid: int) -> bool:
    """Whether a process is number 1 of a PID namespace of its own; see proc_pid_status(5)."""
    try:
        with open(f"/proc/{pid}/status") as file:
            numbers = next(line.split()[1:] for line in file if line.startswith("NSpid:"))
    except (OSError, StopIteration):
        return False
    return len(numbers) > 1 and numbers[-1] == "1"


def take_descriptor(survivor: Survivor, number: int) -> int | None:
    """Return a duplicate of a descriptor of the instance: of the tiny init, which never closes one, or of the app."""
    for pidfd in _processes(survivor):
        with suppress(OSError):
            return kernel.perform(kernel.pidfd_getfd(pidfd, number))
    return None


def _processes(survivor: Survivor) -> Iterator[int]:
    yield survivor.pidfd
    for pid in survivor.group.core.procs:
        with suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                yield pidfd
            finally:
                os.close(pidfd)
