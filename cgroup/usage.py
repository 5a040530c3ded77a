"""What a group uses, read over and over: descriptors are opened once, each reading is one pread(2) a file."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple, Self

from cgroup.errors import refused
from cgroup.files import Stall, parse_flat, parse_limit, parse_pressure

if TYPE_CHECKING:
    from cgroup.group import Group

_FILES = (
    *("memory.current", "memory.peak", "memory.max", "memory.events"),
    *("cpu.stat", "pids.current"),
    *("cpu.pressure", "io.pressure", "memory.pressure"),
)

# All of these are far shorter: a dozen lines at most.
_LONGEST = 4096


class MemoryUsage(NamedTuple):
    """The memory of a group and all below it, in bytes."""

    current: int
    #: The most that was ever used; None before Linux 5.19.
    peak: int | None
    #: None: no limit.
    max: int | None
    #: How often each line of memory.events happened: `low`, `high`, `max`, `oom`, `oom_kill` …
    events: dict[str, int]

    @property
    def oom_kills(self) -> int:
        """How many processes the OOM killer has ended."""
        return self.events["oom_kill"]


class CpuUsage(NamedTuple):
    """CPU time in microseconds, which the kernel counts without the cpu controller too."""

    usage_usec: int
    user_usec: int
    system_usec: int
    #: How often `cpu.max` stopped the group, and for how long; None without the cpu controller.
    nr_throttled: int | None
    throttled_usec: int | None


class Usage(NamedTuple):
    """One reading; None is what the group's controllers do not tell."""

    memory: MemoryUsage | None
    cpu: CpuUsage | None
    #: Processes and threads.
    pids: int | None
    #: By resource (`cpu`, `io`, `memory`) and kind (`some`, `full`); empty when the kernel keeps no PSI.
    pressure: dict[str, dict[str, Stall]]


class UsageReader:
    """Reads the usage of a group.

    The files that exist when the reader is made are those it reads; it keeps up to nine descriptors, and not
    the group. Each method raises `GroupRemoved` once the group is gone.
    """

    __slots__ = ("_fds", "_path")

    def __init__(self, group: Group) -> None:
        self._path = group.path
        self._fds: dict[str, int] = {}
        for name in _FILES:
            self._open(group, name)

    def _open(self, group: Group, name: str) -> None:
        try:
            fd = self._fds[name] = os.open(name, os.O_RDONLY, dir_fd=group.fd)
            os.pread(fd, 1, 0)
        except FileNotFoundError:
            return
        except OSError as error:
            # A kernel booted with psi=0 shows the file but does not read it (before Linux 6.1).
            if error.errno != errno.EOPNOTSUPP:
                self.close()
                raise refused("read", f"{self._path}/{name}", error) from error
            os.close(self._fds.pop(name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors; may be called twice."""
        while self._fds:
            os.close(self._fds.popitem()[1])

    def read(self) -> Usage:
        """Read everything."""
        return Usage(self.read_memory(), self.read_cpu(), self.read_pids(), self.read_pressure())

    def read_memory(self) -> MemoryUsage | None:
        """Read `memory.current`, `.peak`, `.max` and `.events`; None without the memory controller."""
        if "memory.current" not in self._fds:
            return None
        return MemoryUsage(
            current=int(self._text("memory.current")),
            peak=int(self._text("memory.peak")) if "memory.peak" in self._fds else None,
            max=parse_limit(self._text("memory.max")),
            events=parse_flat(self._text("memory.events")),
        )

    def read_cpu(self) -> CpuUsage | None:
        """Read `cpu.stat`."""
        if "cpu.stat" not in self._fds:
            return None
        stat = parse_flat(self._text("cpu.stat"))
        return CpuUsage(
            stat["usage_usec"],
            stat["user_usec"],
            stat["system_usec"],
            stat.get("nr_throttled"),
            stat.get("throttled_usec"),
        )

    def read_pids(self) -> int | None:
        """Read `pids.current`; None without the pids controller."""
        return int(self._text("pids.current")) if "pids.current" in self._fds else None

    def read_pressure(self) -> dict[str, dict[str, Stall]]:
        """Read the `*.pressure` files that there are."""
        return {
            resource: parse_pressure(self._text(f"{resource}.pressure"))
            for resource in ("cpu", "io", "memory")
            if f"{resource}.pressure" in self._fds
        }

    def _text(self, name: str) -> str:
        try:
            return os.pread(self._fds[name], _LONGEST, 0).decode()
        except OSError as error:
            raise refused("read", f"{self._path}/{name}", error) from error
