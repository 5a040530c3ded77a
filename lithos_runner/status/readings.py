"""The reading half: which supervisors and commands live, what is said of their instances, and what the kernel says.

Whatever is missing, half removed, malformed or foreign is passed over: a look at one service must not fail
for the remains of another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Self

from cgroup.errors import NoUnifiedHierarchy
from cgroup.hierarchy import Hierarchy, find
from lithos_runner.status import processes, store
from lithos_runner.status.usage import Group, Memory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

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


class Observation(NamedTuple):
    """One instance at one moment, by what the kernel says of its processes."""

    instance: Instance
    #: The application's process as a host number, None when it does not run.
    pid: int | None
    memory: Memory | None


class Observer:
    """Looks at the supervisors and the instances of this host, once or again and again.

    What the state files said is remembered for as long as they do not change. The files of the first `keep`
    cgroups stay open too: for who looks often, and has the descriptors.
    """

    def __init__(self, *, keep: int = 0) -> None:
        self._keep = keep
        self._known: dict[str, tuple[tuple[int, int], Instance | None]] = {}
        self._parsed = self._known
        self._groups: dict[Life, Group] = {}
        try:
            self._hierarchy: Hierarchy | None = find()
        except NoUnifiedHierarchy:
            self._hierarchy = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close(self._groups)

    def supervisors(self) -> list[Supervisor]:
        """The supervisors that live, in the order of their runtime directories."""
        # What is not seen in this look is not carried into the next one.
        self._known, self._parsed = self._parsed, {}
        found = [supervisor for runtime in store.registered() if (supervisor := self._supervisor(runtime, lives=True))]
        self._close(self._groups.keys() - {life(i) for supervisor in found for i in supervisor.instances})
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
            return Observation(instance, None, None)
        pid = processes.first_child(instance.pid) if instance.init else instance.pid
        group = self.group(instance)
        return Observation(instance, pid, group.memory() if group else None)

    def group(self, instance: Instance) -> Group | None:
        """The cgroup of an instance that runs, None when there is none.

        One that ended may leave its group for a moment, with memory kills that its file counts already.
        """
        if instance.pid is None or self._hierarchy is None:
            return None
        key = life(instance)
        if key not in self._groups:
            path = self._hierarchy.path(instance.cgroup)
            self._groups[key] = Group(path, keep=len(self._groups) < self._keep)
        return self._groups[key]

    def oom_kills(self, instance: Instance, memory: Memory | None) -> int | None:
        """The processes of an instance that were killed for the lack of memory, over all of its lives.

        None without the memory controller: the host may have killed some, but nobody counts them.
        """
        if self._hierarchy is None or "memory" not in self._hierarchy.controllers:
            return None
        return instance.oom_kills + (memory.events.get("oom_kill", 0) if memory else 0)

    def _close(self, lives: Iterable[Life]) -> None:
        for key in list(lives):
            self._groups.pop(key).close()

    def _supervisor(self, runtime: str, *, lives: bool) -> Supervisor | None:
        value = store.read_supervisor(runtime)
        if value is None or _lives(runtime, value) is not lives:
            return None
        try:
            fields = _checked(value, _SUPERVISOR)
        except TypeError:
            return None
        return Supervisor(runtime, **fields, instances=sorted(self._instances(runtime), key=_order))

    def _instances(self, runtime: str) -> Iterator[Instance]:
        for path, status in store.instance_files(runtime):
            # Each write makes a new file, so this names one version of its content.
            version = (status.st_ino, status.st_mtime_ns)
            known, instance = self._known.get(path, (None, None))
            if known != version:
                instance = _instance(store.read_json(path) or {})
            self._parsed[path] = version, instance
            if instance:
                yield instance


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
    pid, start = supervisor.get("pid"), supervisor.get("pid_start")
    return held and isinstance(pid, int) and isinstance(start, int) and processes.is_alive(pid, start)
