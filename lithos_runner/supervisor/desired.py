"""What should run: the values that the loader hands to the supervisor, and their form on the wire (JSON)."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..launch.spec import LaunchSpec
from ..plan.instance import Policy


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

    @property
    def fixed(self) -> Port:
        """The port without what a living socket can change: a difference here takes new instances."""
        return self._replace(backlog=0, reuse_addr=False, non_block=False, mode=0, user=0, group=0)


class Group(NamedTuple):
    """One process entry: ``instances`` equal instances of one program.

    ``limits`` maps files of the instance's cgroup to what is written there, in that order. ``launch`` lacks only
    the instance's own name. ``spec`` is a hash over everything that makes an instance what it is.
    """

    sandbox: str
    process: str
    instances: int
    launch: LaunchSpec
    policy: Policy
    stop_signal: int
    limits: dict[str, str]
    ports: tuple[Port, ...]
    spec: str

    @property
    def name(self) -> str:
        """`sandbox/process`."""
        return f"{self.sandbox}/{self.process}"


class Refusal(Exception):
    """The configuration cannot be used; the message has one line for each of its faults."""


def encode(groups: list[Group]) -> str:
    """Write the groups as JSON."""
    return json.dumps({"groups": [_plain(group) for group in groups]})


def refuse(faults: list[str]) -> str:
    """Write the faults of a configuration as JSON."""
    return json.dumps({"faults": faults})


def decode(text: str) -> list[Group]:
    """Read what ``encode`` or ``refuse`` wrote; raises Refusal for the latter."""
    document: dict[str, Any] = json.loads(text)
    if "faults" in document:
        raise Refusal("\n".join(document["faults"]))
    return [_group(fields) for fields in document["groups"]]


def _plain(group: Group) -> dict[str, Any]:
    return {
        **group._asdict(),
        "launch": group.launch._asdict(),
        "policy": group.policy._asdict(),
        "ports": [port._asdict() for port in group.ports],
    }


def _group(fields: dict[str, Any]) -> Group:
    launch = fields["launch"]
    pairs = {key: tuple(tuple(pair) for pair in launch[key]) for key in ("environ", "sockets")}
    return Group(
        **{
            **fields,
            "launch": LaunchSpec(**{**launch, "arguments": tuple(launch["arguments"]), **pairs}),
            "policy": Policy(**fields["policy"]),
            "ports": tuple(Port(**port) for port in fields["ports"]),
        }
    )
