"""The sandbox file: what the containers of one sandbox may do. Its name is that of the sandbox."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import attrs

from .errors import Path, quoted
from .formats import (
    ABSOLUTE,
    ADDRESS,
    CPUS,
    FLAG,
    GROUP,
    ID_RANGE,
    MEMORY,
    PATH,
    PIDS,
    PLAIN_PATH,
    PORT_RANGE,
    RUNNER,
    USER,
    Network,
    Range,
    allows,
    network,
    ranges_in_words,
)
from .id_map import ID_MAPS, IdMap
from .kinds import Found, Integer, ListOf, MapOf, Record, Refused, Text, key
from .master import LEVEL
from .variables import Variables


def _secrets_namespace(text: str) -> str:
    if not re.fullmatch("[a-zA-Z0-9_.-]*", text):
        raise ValueError(f"{quoted(text)} is not a namespace: it takes letters, digits, '_', '.' and -")
    return text


def _command_word(text: str) -> str:
    return Variables({"container_ip": ""}, frozenset({"container_ip"}), "only container_ip is known here").put_into(
        text
    )


SECRETS_NAMESPACES = ListOf(Text(words="namespace", parse=_secrets_namespace, schema={"pattern": "^[a-zA-Z0-9_.-]*$"}))


@attrs.frozen(kw_only=True)
class BridgedNetwork:
    """`bridged-network`: a network namespace for every container, joined by a bridge."""

    bridge: str = key(Text(), "An existing bridge device.")
    network: Network = key(  # noqa: RUF009 - key() is attrs.field()
        Text(words="network", parse=network, schema={"pattern": "/[0-9]+$"}), "The network of all containers, as CIDR."
    )
    default_gateway: str | None = key(ADDRESS, "Default route in the containers.", default=None)
    after_setup_command: tuple[str, ...] = key(
        ListOf(Text(parse=_command_word)),
        "Run in the container's network but with the host's files, as root; `@{container_ip}` is replaced.",
        default=(),
    )


def _after_setup(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    first = found.get(("after-setup-command", 0))
    if first is not None and first.value is not None and not first.value.startswith("/"):
        yield ("after-setup-command", 0), f"expected an absolute path, found {quoted(first.value)}"


@attrs.frozen(kw_only=True)
class Sandbox:
    """A sandbox file; attributes are its keys with underscores, sizes are bytes."""

    config_file: str | None = key(
        PATH, "The process file, relative to `processes-dir`; when not given, `NAME.yaml`.", default=None
    )
    image_dir: str = key(ABSOLUTE, "Directory of the images.", default="/var/lib/lithos/containers")
    image_dir_levels: int = key(
        Integer(minimum=1, maximum=16), "Components of an image's name below `image-dir`.", default=1
    )
    used_images_list: str | None = key(PATH, "File that names images to keep when cleaning.", default=None)
    auto_clean: bool = key(FLAG, "Whether images of this sandbox may be cleaned away.", default=True)
    log_file: str | None = key(
        PATH, "The supervisor's log of this sandbox, in `default-log-dir`; when not given, `NAME.log`.", default=None
    )
    log_level: str | None = key(LEVEL, "Level of that log; when not given, the master's.", default=None)
    readonly_paths: Mapping[str, str] = key(
        MapOf(PLAIN_PATH, PLAIN_PATH),
        "Virtual path → directory of the host that volumes may show read-only.",
        default=attrs.Factory(dict),
    )
    writable_paths: Mapping[str, str] = key(
        MapOf(PLAIN_PATH, PLAIN_PATH),
        "Virtual path → directory of the host that volumes may write.",
        default=attrs.Factory(dict),
    )
    allow_users: tuple[Range, ...] = key(
        ListOf(ID_RANGE), "User ids that containers may have: `[1, 99, 1000-2000]`; empty: none.", default=()
    )
    default_user: int | None = key(USER, "User id of containers without `user-id`.", default=None)
    allow_groups: tuple[Range, ...] = key(
        ListOf(ID_RANGE), "Group ids that containers may have; empty: none.", default=()
    )
    default_group: int = key(GROUP, "Group id of containers without `group-id`.", default=0)
    allow_tcp_ports: tuple[Range, ...] = key(
        ListOf(PORT_RANGE), "TCP ports that containers may open in the host's network.", default=()
    )
    allow_udp_ports: tuple[Range, ...] = key(
        ListOf(PORT_RANGE), "UDP ports that containers may open in the host's network.", default=(), origin=RUNNER
    )
    memory_limit: int | None = key(
        MEMORY, "Memory of all instances together.", default=None, origin=RUNNER, sets=("memory.max",)
    )
    cpu_limit: float | None = key(
        CPUS, "CPU time of all instances together.", default=None, origin=RUNNER, sets=("cpu.max",)
    )
    pids_limit: int | None = key(
        PIDS, "Processes and threads of all instances together.", default=None, origin=RUNNER, sets=("pids.max",)
    )
    default_memory_limit: int | None = key(
        MEMORY, "`memory-limit` of containers that have none.", default=None, origin=RUNNER
    )
    max_memory_limit: int | None = key(
        MEMORY, "Most that a container may have; with it, each must have a limit.", default=None, origin=RUNNER
    )
    additional_hosts: Mapping[str, str] = key(
        MapOf(Text(words="host name"), ADDRESS),
        "Host name → IP address for the containers' `/etc/hosts`.",
        default=attrs.Factory(dict),
    )
    resolv_conf: str = key(ABSOLUTE, "File to copy `/etc/resolv.conf` from.", default="/etc/resolv.conf")
    hosts_file: str = key(ABSOLUTE, "File to copy `/etc/hosts` from.", default="/etc/hosts")
    uid_map: tuple[IdMap, ...] = key(
        ID_MAPS, "User ids of a user namespace for every container.", default=(), refused=Refused.ALWAYS
    )
    gid_map: tuple[IdMap, ...] = key(
        ID_MAPS, "Group ids of a user namespace for every container.", default=(), refused=Refused.ALWAYS
    )
    bridged_network: BridgedNetwork | None = key(  # noqa: RUF009 - key() is attrs.field()
        Record(BridgedNetwork, "mapping", checks=(_after_setup,)),
        "A network of their own for the containers; when not given, they have the host's.",
        default=None,
        refused=Refused.ALWAYS,
    )
    secrets_private_key: str | None = key(
        ABSOLUTE, "OpenSSH ed25519 private keys that open secrets.", default=None, refused=Refused.ALWAYS
    )
    secrets_namespaces: tuple[str, ...] = key(
        SECRETS_NAMESPACES, "Namespaces of the secrets that may be opened.", default=("",), refused=Refused.ALWAYS
    )


def _defaults_are_allowed(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    """A default that is written must itself be allowed."""
    for default, allowed in (("default-user", "allow-users"), ("default-group", "allow-groups")):
        number = found.get((default,))
        ranges = found.get((allowed,))
        if number is None or number.value is None or ranges is None or not ranges.value or None in ranges.value:
            continue
        if not allows(ranges.value, number.value):
            yield (default,), f"{number.value} is not in {allowed}, which is {ranges_in_words(ranges.value)}"


def _somebody_is_allowed(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    """A sandbox for nobody is a mistake."""
    for allowed in ("allow-users", "allow-groups"):
        ranges = found.get((allowed,))
        if ranges is None:
            yield (), f"nothing could run here: add {allowed}, for example {allowed}: [1-1000]"
        elif ranges.value == ():
            yield (allowed,), f"nothing could run here: name ids, for example {allowed}: [1-1000]"


def _memory_limits_fit(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    """A default within the bound, a bound within the whole."""
    for lower, upper in (
        ("default-memory-limit", "max-memory-limit"),
        ("default-memory-limit", "memory-limit"),
        ("max-memory-limit", "memory-limit"),
    ):
        less, more = found.get((lower,)), found.get((upper,))
        if less is None or more is None or less.value is None or more.value is None:
            continue
        if less.value > more.value:
            yield (lower,), f"{less.value} is more than {upper}, which is {more.value} (line {more.line})"


SANDBOX = Record(Sandbox, "sandbox file", checks=(_somebody_is_allowed, _defaults_are_allowed, _memory_limits_fit))
