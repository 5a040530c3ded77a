"""What should run: the values that the loader hands to the supervisor, and their form on the wire (JSON)."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from ..launch.spec import LaunchSpec
from ..plan.instance import Policy


class Port(NamedTuple):
    """One entry of `tcp-ports`."""

    port: int
    fd: int
    host: str
    backlog: int
    reuse_addr: bool
    non_block: bool

    @property
    def name(self) -> str:
        """What the application finds in LISTEN_FDNAMES."""
        return f"tcp-{self.port}"


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
    return Group(
        **{
            **fields,
            "launch": LaunchSpec.decode(fields["launch"]),
            "policy": Policy(**fields["policy"]),
            "ports": tuple(Port(**port) for port in fields["ports"]),
        }
    )
