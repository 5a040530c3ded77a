"""Whose a sandbox's cgroup is: of those supervisors that run at the same time, only one sets its limits and fills it.

Their runtime directories differ, their `cgroup-name` is the same. What decides is a lock on a file for each cgroup:
the kernel gives it to one of them, and takes it back however that one ends. Record locks do what flock(2) does not:
a child that is being set up has none of them, the program that execve(2) starts has all, and the kernel says who has
one; see fcntl(2).

The files are where only root can open them, since who can open a file can lock it; a cgroup is open to everybody.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import cgroup

from ..status import store

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_FLOCK = "hhqqi0q"  # struct flock of fcntl(2): l_type, l_whence, l_start, l_len, l_pid


class Taken(cgroup.CgroupError):
    """The cgroup is that of another supervisor, which lives."""


class Claims:
    """The cgroups of this process; ``shared``: others that share have them, too, as all `lithos run` have `run`."""

    def __init__(self, *, shared: bool, held: Mapping[str, int]) -> None:
        """``held``: what this process had before it replaced its program, cgroup → descriptor."""
        self._kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        self._held = dict(held)

    @property
    def held(self) -> dict[str, int]:
        """What to hand over to another program: cgroup → descriptor."""
        return dict(self._held)

    def claim(self, group: str) -> None:
        """Have a cgroup, by its path below the mount; it may not be there yet. May be called again.

        Raises Taken, and cgroup.CgroupError when nobody can tell whose it is.
        """
        while group not in self._held:
            try:
                self._try(group)
            except FileNotFoundError:  # somebody who ended has removed the directory under our feet
                continue
            except Taken:
                raise
            except OSError as error:
                sentence = f"cannot lock {_file(group)}, which says whose the cgroup {group} is: {error.strerror}"
                raise cgroup.CgroupError(error.errno or errno.EIO, sentence, group) from error

    def _try(self, group: str) -> None:
        os.makedirs(_directory(), 0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(_file(group), flags, 0o600)
        try:
            if not _lock(descriptor, self._kind):
                self._complain(descriptor, group)
            elif os.fstat(descriptor).st_nlink:  # else who had it before has removed the file meanwhile
                self._held[group] = descriptor
        finally:
            if self._held.get(group) != descriptor:
                os.close(descriptor)

    def _complain(self, descriptor: int, group: str) -> None:
        """Raise Taken, unless nobody has it any more."""
        owner = _owner(descriptor, self._kind)
        if owner is not None:
            raise Taken(
                errno.EBUSY,
                f"cannot have the cgroup {group}: the supervisor with pid {owner} has it, "
                "give one of the two another cgroup-name in its master file, or the sandbox another name",
                group,
            )

    def keep(self, groups: Collection[str]) -> None:
        """Let go of all cgroups but these."""
        dropped = self._held.keys() - groups
        for group in dropped:
            self._release(group)
        if dropped:
            with suppress(OSError):  # there are others
                os.rmdir(_directory())

    def _release(self, group: str) -> None:
        descriptor = self._held.pop(group)
        if _lock(descriptor, fcntl.F_WRLCK):  # nobody shares it
            with suppress(FileNotFoundError):
                os.unlink(_file(group))
        os.close(descriptor)


def _directory() -> str:
    return os.path.join(store.root(), "cgroups")


def _file(group: str) -> str:
    return os.path.join(_directory(), store.escaped(group))


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, fcntl(2)
        return False
    return True


def _owner(descriptor: int, kind: int) -> int | None:
    """The pid of a process that keeps us from such a lock; None when nobody does any more."""
    answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0))
    found, _, _, _, pid = struct.unpack(_FLOCK, answer)
    return None if found == fcntl.F_UNLCK else pid
