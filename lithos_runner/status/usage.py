"""What the kernel says of one cgroup, read from its files: https://docs.kernel.org/admin-guide/cgroup-v2.html.

A group may lack any file (no controller, an old kernel, no PSI) and may be gone: that is None or an empty
mapping, never a zero.
"""

from __future__ import annotations

import os
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from lithos_runner.status import processes

if TYPE_CHECKING:
    from collections.abc import Mapping

# The largest of the files that are read here, cpu.stat, has some 300 bytes.
_BUFFER = 4096

PRESSURES = ("cpu", "memory", "io")


class Memory(NamedTuple):
    """Memory in bytes, and what happened for the lack of it."""

    current: int
    peak: int | None = None
    #: None: unlimited, or not known.
    max: int | None = None
    #: memory.events, how often each event came.
    events: Mapping[str, int] = MappingProxyType({})
    #: "cgroup", or "proc": the sum over the processes, on a host without the memory controller.
    source: str = "cgroup"


class Group:
    """One cgroup, by its directory.

    With `keep`, files stay open between readings: reading 1,000 groups again then takes a third of the time.
    """

    def __init__(self, path: str, *, keep: bool = False) -> None:
        self._path = path
        self._keep = keep
        self._files: dict[str, int | None] = {}

    def close(self) -> None:
        """Close all that was kept open."""
        for file in self._files.values():
            if file is not None:
                os.close(file)
        self._files.clear()

    def read(self, name: str) -> bytes | None:
        """What a file says now; None when there is none, or the group is gone."""
        if name in self._files:
            file = self._files[name]
        else:
            file = self._open(name)
            if self._keep:
                self._files[name] = file
        if file is None:
            return None
        try:
            return os.pread(file, _BUFFER, 0)
        except OSError:
            return None
        finally:
            if not self._keep:
                os.close(file)

    def _open(self, name: str) -> int | None:
        with suppress(FileNotFoundError, PermissionError):
            return os.open(f"{self._path}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        return None

    def number(self, name: str) -> int | None:
        """The number in a file; None also for "max"."""
        text = self.read(name)
        return int(text) if text and text != b"max\n" else None

    def counters(self, name: str) -> dict[str, int]:
        """The lines "KEY NUMBER" of a file."""
        words = iter((self.read(name) or b"").decode().split())
        return {key: int(next(words)) for key in words}

    def memory(self) -> Memory | None:
        """The memory of the group; of its processes, when it has no memory controller."""
        current = self.number("memory.current")
        if current is None:
            return self._memory_of_processes()
        return Memory(
            current=current,
            peak=self.number("memory.peak"),
            max=self.number("memory.max"),
            events=self.counters("memory.events"),
        )

    def _memory_of_processes(self) -> Memory | None:
        sizes = [size for pid in self._pids() if (size := processes.memory(pid)) is not None]
        return Memory(sum(sizes), source="proc") if sizes else None

    def _pids(self) -> list[int]:
        # A list of many processes comes in several parts, unlike the other files.
        with suppress(OSError), open(os.path.join(self._path, "cgroup.procs"), "rb") as file:
            return [int(pid) for pid in file.read().split()]
        return []

    def cpu_seconds(self) -> float | None:
        """CPU time of all processes that the group ever had, in seconds."""
        usage = self.counters("cpu.stat").get("usage_usec")
        return None if usage is None else usage / 1e6

    def pressure(self) -> dict[tuple[str, str], float]:
        """Seconds for which some or all tasks waited, by (resource, "some" | "full").

        The form: https://docs.kernel.org/accounting/psi.html
        """
        totals = {}
        for resource in PRESSURES:
            words = (self.read(f"{resource}.pressure") or b"").decode().split()
            # A line is "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
            for kind, total in zip(words[::5], words[4::5], strict=True):
                totals[resource, kind] = int(total[len("total=") :]) / 1e6
        return totals
