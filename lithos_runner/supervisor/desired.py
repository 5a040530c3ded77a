"""What should run: the values that the loader hands to the supervisor, and their form on the wire (JSON)."""

from __future__ import annotations

import json
from typing import Any, NamedTuple, TypeVar

from ..launch.spec import LaunchSpec
from ..plan.instance import Policy
from ..plan.rollout import Upgrade
from .messages import Logs
from .messages import decode as decode_logs
from .readiness.watch import Readiness

_T = TypeVar("_T")
RUN_SANDBOX = "run"  # of what `lithos run` starts
EVERYTHING = ""  # in `Desired.broken`: nothing at all could be read


class Port(NamedTuple):
    """One socket that the application gets at the descriptor ``fd``; what its kind does not have keeps its default.

    ``kind`` is "tcp", "udp" or "unix"; ``name`` is what the application finds in LISTEN_FDNAMES; ``path`` is that of a
    UNIX socket on the host, with ``mode``, ``user`` and ``group``. With ``reuse_port`` every instance has a socket of
    its own. ``ipv6_only`` false means that `::` takes IPv4, too.
    """

    kind: str
    fd: int
    name: str
    host: str = ""
    port: int = 0
    path: str = ""
    backlog: int = 128
    reuse_addr: bool = False
    reuse_port: bool = False
    ipv6_only: bool = False
    non_block: bool = False
    mode: int = 0o666
    user: int = 0
    group: int = 0

    @property
    def identity(self) -> tuple[str, str, int]:
        """What makes it the same socket for every process that names it, whatever its sandbox and its options."""
        return self.kind, self.path or self.host, self.port

    @property
    def address(self) -> str:
        """The address as people write it."""
        if self.kind == "unix":
            return self.path
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'udp ' if self.kind == 'udp' else ''}{host}:{self.port}"


class Group(NamedTuple):
    """One process entry: ``instances`` equal instances of one program.

    ``limits`` maps files of the instance's cgroup to what is written there, in that order. ``launch`` lacks only
    the instance's own name. ``facts`` is the configuration as people know it, key → text; ``spec`` is a hash over
    those of them that make an instance what it is: two groups with one ``spec`` start equal instances.
    """

    sandbox: str
    process: str
    instances: int
    launch: LaunchSpec
    policy: Policy
    stop_signal: int
    limits: dict[str, str]
    ports: tuple[Port, ...]
    upgrade: Upgrade
    readiness: Readiness
    normal_exit_codes: tuple[int, ...]
    restart_process_only: bool
    facts: dict[str, str]
    spec: str

    @property
    def name(self) -> str:
        """`sandbox/process`."""
        return f"{self.sandbox}/{self.process}"

    def with_instances(self, instances: int) -> Group:
        """Return the same group of so many instances."""
        return self._replace(instances=instances)

    def under(self, spec: str) -> Group:
        """Return the same group, as another version in the eyes of roll-outs."""
        return self._replace(spec=spec)


class Host(NamedTuple):
    """What a master file says about the supervisor itself; it holds from start to end."""

    runtime: str  # directory of its state
    mounts: str  # empty directory to attach roots at
    log_directory: str  # of what instances print
    cgroup_name: str | None  # None: instances have no limits
    controllers: tuple[str, ...]  # those to use; empty for all
    logs: Logs | None = None  # where messages go beside stderr


class Desired(NamedTuple):
    """A configuration as it was read.

    ``sandboxes`` has the limits of each sandbox as a whole, as ``Group.limits``. ``broken`` names what ``faults``
    concern (`sandbox`, `sandbox/process`, or EVERYTHING); it is missing in ``groups``, and what runs of it goes on.
    ``remarks`` are faults of nothing that runs, such as a history that cannot be written.
    """

    groups: list[Group]
    sandboxes: dict[str, dict[str, str]]
    faults: list[str]
    broken: frozenset[str] = frozenset()
    host: Host | None = None
    remarks: tuple[str, ...] = ()

    def is_broken(self, group: Group) -> bool:
        """Whether a group that runs is missing only because its files are wrong."""
        return not self.broken.isdisjoint((EVERYTHING, group.sandbox, group.name))


class Refusal(Exception):
    """The configuration cannot be used; the message has one line for each of its faults."""


def encode(desired: Desired) -> str:
    """Write a configuration as JSON."""
    plain = desired._asdict()
    plain["groups"] = [plain_group(group) for group in desired.groups]
    plain["broken"] = sorted(desired.broken)
    plain["host"] = desired.host and desired.host._asdict()
    return json.dumps(plain)


def decode(text: str) -> Desired:
    """Read what ``encode`` wrote."""
    fields: dict[str, Any] = json.loads(text)
    host = fields["host"]
    return Desired(
        groups=[group_of(each) for each in fields["groups"]],
        sandboxes=fields["sandboxes"],
        faults=fields["faults"],
        broken=frozenset(fields["broken"]),
        host=host and host_of(host),
        remarks=tuple(fields["remarks"]),
    )


def host_of(fields: dict[str, Any]) -> Host:
    """Return the host that was made JSON of as a dictionary."""
    logs = fields["logs"]
    known = {**fields, "controllers": tuple(fields["controllers"]), "logs": logs and decode_logs(logs)}
    return _make(Host, known)


def plain_group(group: Group) -> dict[str, Any]:
    """Return the group as JSON takes it."""
    return {
        **group._asdict(),
        "launch": group.launch._asdict(),
        "policy": group.policy._asdict(),
        "upgrade": group.upgrade._asdict(),
        "readiness": group.readiness._asdict(),
        "ports": [port._asdict() for port in group.ports],
    }


def group_of(fields: dict[str, Any]) -> Group:
    """Return the group that ``plain_group`` made JSON of."""
    known = {
        **fields,
        "launch": LaunchSpec.decode(_known(LaunchSpec, fields["launch"])),
        "policy": _make(Policy, fields["policy"]),
        "upgrade": _make(Upgrade, fields["upgrade"]),
        "readiness": _readiness(fields["readiness"]),
        "ports": tuple(_make(Port, port) for port in fields["ports"]),
        "normal_exit_codes": tuple(fields["normal_exit_codes"]),
    }
    return _make(Group, known)


def _readiness(fields: dict[str, Any]) -> Readiness:
    address = fields["address"]
    return _make(Readiness, {**fields, "address": address and tuple(address)})


def _make(cls: type[_T], fields: dict[str, Any]) -> _T:
    return cls(**_known(cls, fields))


def _known(cls: type, fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out what only another version of this program knows: state files outlive an upgrade."""
    known: tuple[str, ...] = getattr(cls, "_fields", ())
    return {name: value for name, value in fields.items() if name in known}
