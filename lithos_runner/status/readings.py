"""The reading half: which supervisors and commands live, what is said of their instances, and what the kernel says.

Whatever is missing, half removed, malformed or foreign is passed over: a look at one service must not fail
for the remains of another.
"""

from __future__ import annotations

import errno
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from cgroup.errors import CgroupError, NoUnifiedHierarchy
from cgroup.hierarchy import Hierarchy, find
from cgroup.usage import USAGE_FILES, Usage, UsageReader
from lithos_runner.status import processes, store

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

#: What `Instance.state` may be, from the first to the last.
STATES = ("starting", "ready", "draining", "stopping", "backoff", "failed", "stopped")
#: What it is for a one-off command, which has no supervisor: there is nothing but that it runs.
COMMAND = "command"

#: cgroup, pid, start time of the pid.
Life = tuple[str, int | None, int | None]


class Exit(NamedTuple):
    """How a life of an instance ended: `code` or the number of a `signal`, at epoch seconds."""

    code: int | None
    signal: int | None
    oom_killed: bool
    at: float


class Instance(NamedTuple):
    """What the supervisor says of one instance, the fields of its file."""

    name: str
    sandbox: str
    process: str
    index: int  # type: ignore[assignment]  # hides tuple.index(), which has no use here
    state: str
    #: Process 1 of the instance as a host number, and its start in clock ticks since boot.
    pid: int | None
    pid_start: int | None
    #: Process 1 is the tiny init, and the application its first child.
    init: bool
    uid: int
    gid: int
    generation: int
    #: Epoch seconds.
    started: float | None
    restarts: int
    last_exit: Exit | None
    #: A path below the cgroup mount, with no leading slash.
    cgroup: str
    ports: list[int]
    #: The directory of the image; "" with the host's own root file system.
    image: str
    #: The sum over the earlier lives of this instance.
    oom_kills: int
    #: What the application says that it is doing, its own words: STATUS of sd_notify(3).
    status: str


class Supervisor(NamedTuple):
    """What a supervisor says of itself, and of its instances."""

    runtime: str
    pid: int
    config: str
    #: Epoch seconds.
    started: float
    log_dir: str
    #: "enforce", "available" or "off"; `not_enforced` has the controllers that "available" did without.
    limits: str
    not_enforced: list[str]
    #: What is wrong in the configuration: of what it concerns, the last good one is in force.
    faults: list[str]
    instances: list[Instance]


_NUMBER = (int, float)
_NONE = type(None)

_EXIT: dict[str, tuple[type, ...]] = {
    "code": (int, _NONE),
    "signal": (int, _NONE),
    "oom_killed": (bool,),
    "at": _NUMBER,
}
_INSTANCE: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "sandbox": (str,),
    "process": (str,),
    "index": (int,),
    "state": (str,),
    "pid": (int, _NONE),
    "pid_start": (int, _NONE),
    "init": (bool,),
    "uid": (int,),
    "gid": (int,),
    "generation": (int,),
    "started": (*_NUMBER, _NONE),
    "restarts": (int,),
    "last_exit": (dict, _NONE),
    "cgroup": (str,),
    "ports": (list,),
    "image": (str,),
    "oom_kills": (int,),
    "status": (str,),
}
_SUPERVISOR: dict[str, tuple[type, ...]] = {
    "pid": (int,),
    "config": (str,),
    "started": _NUMBER,
    "log_dir": (str,),
    "limits": (str,),
    "not_enforced": (list,),
    "faults": (list,),
}


def _checked(value: Mapping[str, object], types: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    """The fields that are in the table; raises `TypeError` when one is missing or has another type."""
    for key, allowed in types.items():
        if key not in value or not isinstance(value[key], allowed):
            raise TypeError(f"{key} is {value.get(key)!r}")
    return {key: value[key] for key in types}


def _instance(value: Mapping[str, object]) -> Instance | None:
    try:
        fields = _checked(value, _INSTANCE)
        last_exit = fields.pop("last_exit")
        return Instance(**fields, last_exit=last_exit and Exit(**_checked(last_exit, _EXIT)))
    except TypeError:
        return None


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


class Observation(NamedTuple):
    """One instance at one moment, by what the kernel says of its processes."""

    instance: Instance
    #: The application's process as a host number, None when it does not run.
    pid: int | None = None
    memory: Memory | None = None
    #: CPU time of all processes that its cgroup ever had, in microseconds.
    cpu_usec: int | None = None


#: Inode and time of change of a file, and what it says when that is an instance.
_Parsed = tuple[tuple[int, int], Instance | None]


class _Listing(NamedTuple):
    """What the state files of one supervisor said, by their paths, and the same in order."""

    mark: store.Mark | None
    files: Mapping[str, _Parsed]
    instances: list[Instance]


_NEVER = _Listing(None, {}, [])

#: What a group says that is gone, or was not asked.
NOTHING = Usage({})


class Observer:
    """Looks at the supervisors and the instances of this host, once or again and again.

    It reads `files` of the instances' cgroups. What the state files said is remembered for as long as they do not
    change. The files of the first `keep` cgroups stay open too: for who looks often, and has the descriptors.
    """

    def __init__(self, files: Collection[str] = USAGE_FILES, *, keep: int = 0) -> None:
        self._files = files
        self._keep = keep
        self._listings: dict[str, _Listing] = {}
        self._seen: list[list[Instance]] = []
        self._readers: dict[Life, UsageReader] = {}
        try:
            self._hierarchy: Hierarchy | None = find()
        except NoUnifiedHierarchy:
            self._hierarchy = None
        #: Whether the memory controller is there, which counts OOM kills.
        self.counts_oom_kills = self._hierarchy is not None and "memory" in self._hierarchy.controllers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close(self._readers)

    def supervisors(self) -> list[Supervisor]:
        """The supervisors that live, in the order of their runtime directories."""
        found = [supervisor for runtime in store.registered() if (supervisor := self._supervisor(runtime, lives=True))]
        seen = [supervisor.instances for supervisor in found]
        if seen != self._seen:
            self._close(self._readers.keys() - {life(instance) for instances in seen for instance in instances})
            self._seen = seen
            self._listings = {supervisor.runtime: self._listings[supervisor.runtime] for supervisor in found}
        return found

    def commands(self) -> list[Instance]:
        """The one-off commands that run: instances whose number is the pid of their `lithos cmd`."""
        said = filter(None, map(_instance, store.read_commands()))
        return sorted((one for one in said if one.pid and processes.is_alive(one.pid, one.pid_start)), key=_order)

    def killed(self) -> list[Supervisor]:
        """Those that died without having stopped their instances, which the next one of each will take over."""
        return [supervisor for runtime in store.registered() if (supervisor := self._supervisor(runtime, lives=False))]

    def observe(self, instance: Instance) -> Observation:
        """Look at the processes of an instance."""
        if instance.pid is None or not processes.is_alive(instance.pid, instance.pid_start):
            return Observation(instance)
        pid = processes.first_child(instance.pid) if instance.init else instance.pid
        usage = self.usage(instance)
        return Observation(instance, pid, self.memory(instance, usage), usage.cpu_usec)

    def usage(self, instance: Instance) -> Usage:
        """What the cgroup of an instance that runs says; `NOTHING` when there is none, or it cannot be read.

        Raises `OSError` when there are no descriptors left to read it with.
        One that ended may leave its group for a moment, with memory kills that its file counts already.
        """
        if instance.pid is None or self._hierarchy is None:
            return NOTHING
        key = life(instance)
        try:
            if reader := self._readers.get(key):
                return reader.read()
        except CgroupError:
            # Gone is the group, or a file only: whoever writes 0 to cgroup.pressure takes three of them away.
            self._close([key])
        return self._read_anew(key, self._hierarchy.path(instance.cgroup))

    def _read_anew(self, key: Life, path: str) -> Usage:
        try:
            reader = UsageReader(path, self._files)
            if len(self._readers) < self._keep:
                self._readers[key] = reader
                return reader.read()
            with reader:
                return reader.read()
        except CgroupError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # nothing is wrong with the group
                raise
            return NOTHING

    def memory(self, instance: Instance, usage: Usage) -> Memory | None:
        """The memory of an instance whose cgroup says `usage`; of its processes, without the memory controller."""
        if memory := usage.memory:
            return Memory(*memory)
        size = self.memory_of_processes(instance)
        return None if size is None else Memory(size, source="proc")

    def memory_of_processes(self, instance: Instance) -> int | None:
        """Bytes of memory that the processes in the cgroup of an instance have; None when there are none."""
        if instance.pid is None or self._hierarchy is None:
            return None
        pids = processes.of_cgroup(self._hierarchy.path(instance.cgroup))
        sizes = [size for pid in pids if (size := processes.memory(pid)) is not None]
        return sum(sizes) if sizes else None

    def oom_kills(self, instance: Instance, memory: Memory | None) -> int | None:
        """The processes of an instance that were killed for the lack of memory, over all of its lives.

        None without the memory controller: the host may have killed some, but nobody counts them.
        """
        if not self.counts_oom_kills:
            return None
        return instance.oom_kills + (memory.events.get("oom_kill", 0) if memory else 0)

    def _close(self, lives: Iterable[Life]) -> None:
        for key in list(lives):
            self._readers.pop(key).close()

    def _supervisor(self, runtime: str, *, lives: bool) -> Supervisor | None:
        value = store.read_supervisor(runtime)
        if value is None or _lives(runtime, value) is not lives:
            return None
        try:
            fields = _checked(value, _SUPERVISOR)
        except TypeError:
            return None
        return Supervisor(runtime, **fields, instances=self._instances(runtime))

    def _instances(self, runtime: str) -> list[Instance]:
        last = self._listings.get(runtime, _NEVER)
        mark = store.mark(runtime)
        if mark is None or mark != last.mark:
            files = dict(_parsed(runtime, last.files))
            instances = sorted((one for _, one in files.values() if one), key=_order)
            last = self._listings[runtime] = _Listing(mark, files, instances)
        return last.instances


def _parsed(runtime: str, known: Mapping[str, _Parsed]) -> Iterator[tuple[str, _Parsed]]:
    for path, status in store.instance_files(runtime):
        # Each write makes a new file, so this names one version of its content.
        version = (status.st_ino, status.st_mtime_ns)
        if path in known and known[path][0] == version:
            yield path, known[path]
        else:
            yield path, (version, _instance(store.read_json(path) or {}))


def life(instance: Instance) -> Life:
    """What tells one life of an instance, and so its cgroup, from the next."""
    return instance.cgroup, instance.pid, instance.pid_start


def _order(instance: Instance) -> tuple[str, str, int]:
    return instance.sandbox, instance.process, instance.index


def _lives(runtime: str, supervisor: Mapping[str, object]) -> bool:
    """Whether somebody has the lock, as far as we may know, and it is the one that wrote `supervisor`.

    Between taking the lock and removing what a killed predecessor said of itself, a supervisor is not that one.
    """
    try:
        held = store.is_held(runtime)
    except PermissionError:
        held = True
    except OSError:
        return False
    process = store.process_of(supervisor)
    return held and process is not None and processes.is_alive(*process)
