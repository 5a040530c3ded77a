"""What a group uses, read over and over: descriptors are opened once, each reading is one pread(2) a file."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NamedTuple, Self

from cgroup.errors import refused
from cgroup.files import Stall, parse_flat, parse_limit, parse_pressure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cgroup.group import Group

_PRESSURE_FILES = {resource: f"{resource}.pressure" for resource in ("cpu", "io", "memory")}

#: What `Usage.memory` is made of.
MEMORY_FILES = ("memory.current", "memory.peak", "memory.max", "memory.events")

#: What a `Usage` is made of.
USAGE_FILES = (*MEMORY_FILES, "cpu.stat", "pids.current", *_PRESSURE_FILES.values())

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
        """How many processes the OOM killer has ended. Raises KeyError when memory.events was not read."""
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
    """One reading, understood as far as it is asked for; None is what was not read, or what the kernel does not tell.

    Two readings that say the same are equal.
    """

    #: What each file said, by its name.
    texts: Mapping[str, bytes]

    @property
    def memory(self) -> MemoryUsage | None:
        """`memory.current`, `.peak`, `.max` and `.events`; None without the memory controller."""
        if "memory.current" not in self.texts:
            return None
        peak = self._text("memory.peak")
        return MemoryUsage(
            current=int(self._text("memory.current")),
            peak=int(peak) if peak else None,
            max=parse_limit(self._text("memory.max") or "max"),
            events=parse_flat(self._text("memory.events")),
        )

    @property
    def cpu(self) -> CpuUsage | None:
        """`cpu.stat`."""
        stat = parse_flat(self._text("cpu.stat"))
        if not stat:
            return None
        return CpuUsage(
            stat["usage_usec"],
            stat["user_usec"],
            stat["system_usec"],
            stat.get("nr_throttled"),
            stat.get("throttled_usec"),
        )

    @property
    def cpu_usec(self) -> int | None:
        """Only `cpu.usage_usec`, in a tenth of the time."""
        _, found, behind = self.texts.get("cpu.stat", b"").partition(b"usage_usec ")
        return int(behind[: behind.index(b"\n")]) if found else None

    @property
    def pids(self) -> int | None:
        """`pids.current`, processes and threads; None without the pids controller."""
        text = self._text("pids.current")
        return int(text) if text else None

    @property
    def pressure(self) -> dict[str, dict[str, Stall]]:
        """By resource (`cpu`, `io`, `memory`) and kind (`some`, `full`); empty when the kernel keeps no PSI."""
        return {
            resource: parse_pressure(text) for resource, file in _PRESSURE_FILES.items() if (text := self._text(file))
        }

    @property
    def stalled_usec(self) -> dict[tuple[str, str], int]:
        """Only the totals of `pressure`, by resource and kind, in a quarter of the time."""
        totals = {}
        for resource, file in _PRESSURE_FILES.items():
            words = self._text(file).split()
            # A line is "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
            for kind, total in zip(words[::5], words[4::5], strict=True):
                totals[resource, kind] = int(total[len("total=") :])
        return totals

    def _text(self, name: str) -> str:
        return self.texts.get(name, b"").decode()


class UsageReader:
    """Reads what a group uses.

    `group` is a group, or the path of its directory. The reader opens those of `files` that are there, and holds one
    descriptor for each, which takes a page of the kernel's memory too; the group itself it does not hold.
    Raises `Refused` when a file cannot be opened.
    """

    __slots__ = ("_fds", "_path")

    def __init__(self, group: Group | str, files: Iterable[str] = USAGE_FILES) -> None:
        self._path = group if isinstance(group, str) else group.path
        self._fds: dict[str, int] = {}
        directory = None if isinstance(group, str) else group.fd
        prefix = f"{group}/" if isinstance(group, str) else ""
        for name in files:
            try:
                self._fds[name] = os.open(prefix + name, os.O_RDONLY, dir_fd=directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                self.close()
                raise refused("open", f"{self._path}/{name}", error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptors; may be called twice."""
        self._drop([*self._fds])

    def _drop(self, files: Iterable[str]) -> bool:
        """Close those of these files that are open; returns whether there are any."""
        fds = [self._fds.pop(name) for name in files if name in self._fds]
        for fd in fds:
            os.close(fd)
        return bool(fds)

    def read(self) -> Usage:
        """Read all files. Raises `GroupRemoved` once the group is gone, or one of the files (see cgroup.pressure)."""
        try:
            return Usage({name: os.pread(fd, _LONGEST, 0) for name, fd in self._fds.items()})
        except OSError as error:
            # A kernel booted with psi=0 shows files that it does not read (before Linux 6.1).
            if error.errno == errno.EOPNOTSUPP and self._drop(_PRESSURE_FILES.values()):
                return self.read()
            raise refused("read the usage of", self._path, error) from error
