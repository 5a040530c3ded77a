"""The files of each controller as attributes: ``group.memory.max = 80 << 20``.

Nothing is cached: each read and each write is one on the kernel's file. An attribute that names no file
cannot be set (`__slots__`), so that a misspelt limit is an error and not a limit that is never set.
cgroupspy's own `Controller` is not inherited: its `tasks`, `notify_on_release` and `clone_children` are v1.

Meaning and units of every file: https://docs.kernel.org/admin-guide/cgroup-v2.html#controllers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cgroup.files import (
    CpuMax,
    CpuSetFile,
    FlagFile,
    FlatKeyedFile,
    IntegerFile,
    IntegersFile,
    LimitFile,
    NestedKeyedFile,
    PressureFile,
    TypedFile,
    WordFile,
    WordsFile,
)

if TYPE_CHECKING:
    from cgroup.group import Group


class Controller:
    """The files of one controller in one group.

    Reading or writing a file that the group has not raises `ControllerMissing` when its controller is not
    on offer, else `NoSuchFile`; every other refusal of the kernel raises `Refused`.
    """

    __slots__ = ("_group",)

    def __init__(self, group: Group) -> None:
        self._group = group

    def get_property(self, name: bytes) -> str:
        """Read a file, for cgroupspy's descriptors."""
        return self._group.read(name.decode())

    def set_property(self, name: bytes, value: object) -> None:
        """Write a file, for cgroupspy's descriptors."""
        self._group.write(name.decode(), str(value))


class Core(Controller):
    """The ``cgroup.*`` files, which every group but the root has."""

    __slots__ = ()

    controllers = WordsFile("cgroup.controllers")
    subtree_control = WordsFile("cgroup.subtree_control")
    procs = IntegersFile("cgroup.procs")
    type = WordFile("cgroup.type")
    events = FlatKeyedFile("cgroup.events", readonly=True)
    stat = FlatKeyedFile("cgroup.stat", readonly=True)
    freeze = FlagFile("cgroup.freeze")
    kill = FlagFile("cgroup.kill", writeonly=True)
    max_depth = LimitFile("cgroup.max.depth")
    max_descendants = LimitFile("cgroup.max.descendants")


class Memory(Controller):
    """Memory in bytes; the kernel rounds limits down to whole pages. `peak` needs Linux 5.19."""

    __slots__ = ()

    current = IntegerFile("memory.current", readonly=True)
    peak = IntegerFile("memory.peak", readonly=True)
    min = LimitFile("memory.min")
    low = LimitFile("memory.low")
    high = LimitFile("memory.high")
    max = LimitFile("memory.max")
    swap_current = IntegerFile("memory.swap.current", readonly=True)
    swap_max = LimitFile("memory.swap.max")
    oom_group = FlagFile("memory.oom.group")
    events = FlatKeyedFile("memory.events", readonly=True)
    events_local = FlatKeyedFile("memory.events.local", readonly=True)
    stat = FlatKeyedFile("memory.stat", readonly=True)
    pressure = PressureFile("memory.pressure")


class Cpu(Controller):
    """CPU time: `weight` 1 to 10000 (100 by default), the rest in microseconds."""

    __slots__ = ()

    weight = IntegerFile("cpu.weight")
    max = TypedFile[CpuMax]("cpu.max", CpuMax)
    stat = FlatKeyedFile("cpu.stat", readonly=True)
    pressure = PressureFile("cpu.pressure")


class Pids(Controller):
    """The number of processes and threads."""

    __slots__ = ()

    current = IntegerFile("pids.current", readonly=True)
    max = LimitFile("pids.max")
    events = FlatKeyedFile("pids.events", readonly=True)


class Io(Controller):
    """Block devices by ``MAJOR:MINOR``; `weight` has the key ``default`` as well."""

    __slots__ = ()

    stat = NestedKeyedFile("io.stat", readonly=True)
    max = NestedKeyedFile("io.max")
    weight = FlatKeyedFile("io.weight")
    pressure = PressureFile("io.pressure")


class Cpuset(Controller):
    """CPUs and memory nodes by number; an empty set in `cpus` or `mems` takes those of the parent."""

    __slots__ = ()

    cpus = CpuSetFile("cpuset.cpus")
    mems = CpuSetFile("cpuset.mems")
    cpus_effective = CpuSetFile("cpuset.cpus.effective", readonly=True)
    mems_effective = CpuSetFile("cpuset.mems.effective", readonly=True)
