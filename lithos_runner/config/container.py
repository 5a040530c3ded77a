"""The container file: what to run, with which limits, environment and listening sockets."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import yaml

from . import formats, ports
from .declarations import VARIABLES, Declared, PortVariable, faults_of_values, missing_values
from .errors import ConfigErrors, Error, Fault, Path, did_you_mean, quoted
from .files import HostFiles, RootedFiles
from .formats import ABSOLUTE, FLAG, RUNNER
from .id_map import ID_MAPS, IdMap
from .kinds import Found, Integer, ListOf, MapOf, Number, Record, Refused, Tagged, Text, key, keys
from .ownership import check_ownership
from .ports import TCP_PORTS, UDP_PORTS, UNIX_SOCKETS, TcpPort, UdpPort, UnixSocket
from .resolve import Tree, parse_tree
from .scalars import size
from .variables import Variables
from .volumes import VOLUMES, Readonly, Volume, find_prefix
from .walk import Document, read_document
from .yaml_nodes import pairs

_CGROUP_FILE = r"[a-z][a-z0-9_]*(\.[A-Za-z0-9_-]+)+"
# hash of the key, of the namespace, of the secret, and the sealed box: four base64 fields
_SECRET = r"v2(:[A-Za-z0-9+/]+={0,2}){4}"  # noqa: S105 - the form of an encrypted one


def _signal(text: str) -> signal.Signals:
    names = signal.Signals.__members__
    name = text if text.startswith("SIG") else f"SIG{text}"
    if name not in names:
        hint = "" if text.isdecimal() else did_you_mean(name.upper(), names)
        raise ValueError(f"{quoted(text)} is not the name of a signal{hint}")
    if name in ("SIGKILL", "SIGSTOP"):
        raise ValueError(f"{name} never reaches the application (signal(7)): kill-timeout ends in SIGKILL")
    return names[name]


def _cgroup_file(text: str) -> str:
    if text.startswith("cgroup."):
        raise ValueError(f"{text} belongs to the supervisor: only the files of controllers can be set")
    if not re.fullmatch(_CGROUP_FILE, text):
        raise ValueError(f"{quoted(text)} is not the name of a cgroup v2 file such as memory.high")
    return text


def _cgroup_value(text: str) -> str:
    if not text.strip() or "\n" in text:
        raise ValueError(f"expected one line to write into the file, found {quoted(text)}")
    plain = size(text)
    return text if plain is None else str(plain)


def _secret(text: str) -> str:
    if not re.fullmatch(_SECRET, text):
        raise ValueError("expected an encrypted value, which begins with v2: and has four more fields")
    return text


@attrs.frozen(kw_only=True)
class ResolvConf:
    """`resolv-conf`: where the application's /etc/resolv.conf comes from."""

    mount: bool | None = key(
        FLAG,
        "Mount it over the image's file; when not given, if the image has a regular file there.",
        default=None,
    )
    copy_from_host: bool = key(FLAG, "Copy the file that the sandbox names.", default=True)


@attrs.frozen(kw_only=True)
class HostsFile:
    """`hosts-file`: what is in the application's /etc/hosts."""

    mount: bool | None = key(
        FLAG,
        "Mount it over the image's file; when not given, if the image has a regular file there.",
        default=None,
    )
    copy_from_host: bool = key(FLAG, "Copy the file that the sandbox names.", default=True)
    localhost: bool | None = key(
        FLAG, "Add a line for `localhost`; when not given, if nothing is copied.", default=None
    )
    public_hostname: bool | None = key(
        FLAG, "Add this host's name and address; when not given, if nothing is copied.", default=None
    )


@attrs.frozen(kw_only=True)
class Http:
    """`readiness: !Http`: ready when a GET is answered with a status from 200 to 399."""

    path: str = key(ABSOLUTE, "Path of the request.", default="/", origin=RUNNER)
    port: int | None = key(
        Integer(minimum=1, maximum=65535),
        "One of `tcp-ports`; when not given, the only one there is.",
        default=None,
        origin=RUNNER,
    )
    timeout: float = key(
        Number(minimum=0.001, maximum=3600, unit=formats.SECONDS),
        "How long one answer may take.",
        default=1.0,
        origin=RUNNER,
    )


READINESS = Tagged(
    words="readiness",
    options={"!Http": Record(Http, "HTTP request")},
    plain=formats.one_of("word", "auto", "notify", "listening", "alive"),
)


@attrs.frozen(kw_only=True)
class Container:
    """A container file. Attributes are its keys with underscores; sizes are bytes, times are seconds."""

    kind: str = key(
        formats.one_of("kind", "Daemon", "Command", "CommandOrDaemon"),
        "`Daemon`: a process that is kept running; `Command`: one that is started by hand; or both.",
        default="Daemon",
    )
    executable: str = key(formats.PROGRAM, "Absolute path of the program; `PATH` is not searched.")
    arguments: tuple[str, ...] = key(ListOf(Text(variables=True)), "Arguments, without the program itself.", default=())
    environ: Mapping[str, str] = key(
        MapOf(
            Text(words="variable name", parse=formats.variable_name, schema={"pattern": "^[^=]+$"}),
            Text(variables=True),
        ),
        "The environment. Nothing but `TERM` comes from outside; a `LISTEN_*` value written here wins over "
        "the generated one.",
        default=attrs.Factory(dict),
    )
    variables: Mapping[str, Declared] = key(
        VARIABLES,
        "Variables whose values the process file or `--set` supplies, see [below](#variables).",
        default=attrs.Factory(dict),
    )
    user_id: int | None = key(formats.USER, "Numeric user id of the application.", default=None)
    group_id: int | None = key(formats.GROUP, "Numeric group id of the application.", default=None)
    workdir: str = key(
        ABSOLUTE,
        "Directory in which the application starts; lithos's overview calls it `work-dir`, which is accepted.",
        default="/",
        also=("work-dir",),
    )
    memory_limit: int | None = key(
        formats.MEMORY,
        "Memory of one instance; no swap beside it.",
        default=None,
        sets=("memory.max", "memory.swap.max"),
    )
    cpu_shares: int = key(
        Integer(minimum=2, maximum=262144, suffixes=True),
        "Weight against other instances when the CPUs are busy; 1024 is `cpu.weight` 100.",
        default=1024,
        sets=("cpu.weight",),
    )
    cpu_limit: float | None = key(
        formats.CPUS,
        "CPU time of one instance, in CPUs: 1.5 is one and a half.",
        default=None,
        origin=RUNNER,
        sets=("cpu.max",),
    )
    pids_limit: int | None = key(
        formats.PIDS,
        "Processes and threads of one instance.",
        default=None,
        origin=RUNNER,
        sets=("pids.max",),
    )
    cgroup: Mapping[str, str] = key(
        MapOf(
            Text(words="file name", parse=_cgroup_file, schema={"pattern": rf"^(?!cgroup\.){_CGROUP_FILE}$"}),
            Text(words="value", parse=_cgroup_value, numbers=True),
        ),
        "Any other file of a cgroup v2 controller and what to write into it; sizes may have units. It is "
        "written last, so it wins over a default.",
        default=attrs.Factory(dict),
        origin=RUNNER,
    )
    fileno_limit: int = key(
        # Three standard descriptors, and one for the dynamic loader to open a library with.
        Integer(minimum=4, maximum=ports.MOST_FILES, suffixes=True),
        "Open descriptors of a process (`RLIMIT_NOFILE`, soft and hard).",
        default=1024,
    )
    restart_timeout: float = key(formats.DAY, "Least time between two starts of an instance.", default=1.0)
    kill_timeout: float = key(
        formats.DAY, "Time between `stop-signal` and the end of every process of the instance.", default=5.0
    )
    stop_signal: int = key(
        Text(
            words="signal name",
            parse=_signal,
            schema={"pattern": "^(SIG)?[A-Z0-9]+$", "not": {"pattern": "^(SIG)?(KILL|STOP)$"}},
        ),
        "Signal that asks the application to end, with or without `SIG`.",
        default=signal.SIGTERM,
        origin=RUNNER,
    )
    drain_timeout: float = key(
        formats.DAY,
        "Time for the connections of an instance to end before `stop-signal`, where they can be drained.",
        default=10.0,
        origin=RUNNER,
    )
    readiness: str | Http = key(  # noqa: RUF009 - key() is attrs.field()
        READINESS,
        "When an instance is ready: `notify` (it says `READY=1`), `listening` (it waits on all its sockets), "
        "`alive` (it runs for a second), [`!Http`](#readiness), or `auto`, see [Readiness](readiness.md).",
        default="auto",
        origin=RUNNER,
    )
    readiness_timeout: float = key(
        formats.DAY,
        "Time to become ready; after that the start has failed.",
        default=30.0,
        origin=RUNNER,
    )
    init: bool = key(
        FLAG,
        "Run a tiny init as PID 1 of the instance, to reap orphans; with `false` the application is PID 1.",
        default=True,
        origin=RUNNER,
    )
    instances: int = key(
        Integer(minimum=0, maximum=10_000),
        "How many instances to run when the file is used on its own.",
        default=1,
        origin=RUNNER,
    )
    tcp_ports: Mapping[int, TcpPort] = key(
        TCP_PORTS, "Ports to open for the application, see [below](#tcp-ports).", default=attrs.Factory(dict)
    )
    udp_ports: Mapping[int, UdpPort] = key(
        UDP_PORTS,
        "UDP ports to open for the application, see [below](#udp-ports).",
        default=attrs.Factory(dict),
        origin=RUNNER,
    )
    unix_sockets: Mapping[str, UnixSocket] = key(
        UNIX_SOCKETS,
        "UNIX sockets to open for the application, see [below](#unix-sockets).",
        default=attrs.Factory(dict),
        origin=RUNNER,
        refused=Refused.BY_RUN,
    )
    volumes: Mapping[str, Volume] = key(
        VOLUMES, "What to mount where, see [below](#volumes).", default=attrs.Factory(dict), refused=Refused.BY_RUN
    )
    resolv_conf: ResolvConf = key(  # noqa: RUF009 - key() is attrs.field()
        Record(ResolvConf, "mapping"),
        "The file `/etc/resolv.conf`, see [below](#resolv-conf-and-hosts-file).",
        default=ResolvConf(),
    )
    hosts_file: HostsFile = key(  # noqa: RUF009 - key() is attrs.field()
        Record(HostsFile, "mapping"),
        "The file `/etc/hosts`, see [below](#resolv-conf-and-hosts-file).",
        default=HostsFile(),
    )
    stdout_stderr_file: str | None = key(
        formats.PLAIN_PATH,
        "File on a writable volume that takes the output instead of the sandbox's log.",
        default=None,
        refused=Refused.BY_RUN,
    )
    interactive: bool = key(
        FLAG,
        "For commands: somebody types at them, on [a terminal of their own](operating.md#one-off-commands).",
        default=False,
    )
    restart_process_only: bool = key(
        FLAG,
        "Start only the process again when it ends, in the same mounts and namespaces.",
        default=False,
    )
    normal_exit_codes: tuple[int, ...] = key(
        ListOf(Integer(minimum=0, maximum=255)),
        "Exit codes that are no failure.",
        default=(),
    )
    uid_map: tuple[IdMap, ...] = key(
        ID_MAPS,
        "User ids of a user namespace of the container's own.",
        default=(),
        refused=Refused.ALWAYS,
    )
    gid_map: tuple[IdMap, ...] = key(
        ID_MAPS,
        "Group ids of a user namespace of the container's own.",
        default=(),
        refused=Refused.ALWAYS,
    )
    secret_environ: Mapping[str, tuple[str, ...]] = key(
        MapOf(
            Text(words="variable name", parse=formats.variable_name, schema={"pattern": "^[^=]+$"}),
            ListOf(Text(words="encrypted value", parse=_secret, schema={"pattern": f"^{_SECRET}$"}), single=True),
        ),
        "Encrypted values for the environment.",
        default=attrs.Factory(dict),
        refused=Refused.ALWAYS,
    )
    secret_environ_file: str | None = key(
        formats.PATH,
        "File beside this one that holds the mapping of `secret-environ` instead.",
        default=None,
        refused=Refused.ALWAYS,
    )


# Rules between keys


def _descriptors(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    """Every declared descriptor has one owner and fits into the descriptor table."""
    limit = _value(found, "fileno-limit")
    owners: dict[int, tuple[str, int]] = {}
    for path, fd in found.items():
        if len(path) != 3 or path[0] not in _SOCKETS or path[2] != "fd" or fd.value is None:
            continue
        if fd.value in owners:
            owner, line = owners[fd.value]
            yield path, f"descriptor {fd.value} belongs to {owner} already (line {line})"
        owners.setdefault(fd.value, (f"{_SOCKETS[str(path[0])]} {path[1]}", fd.line))
        if limit is not None and fd.value >= limit:
            yield path, f"descriptor {fd.value} must be below fileno-limit, which is {limit} (getrlimit(2))"


_SOCKETS = {"tcp-ports": "port", "udp-ports": "UDP port", "unix-sockets": "socket"}


def _activation(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    """The descriptors and variables of socket activation are nobody else's."""
    names = _activated(_value(found, "variables") or {})
    if not names:
        return
    taken = {fd.value: path for path, fd in found.items() if path[:1] and path[0] in _SOCKETS and path[2:] == ("fd",)}
    for fd, name in enumerate(names, start=3):
        if fd in taken:
            path = taken[fd]
            yield path, f"descriptor {fd} belongs to the variable {quoted(name)}, which has activation: systemd"
    for variable in ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"):
        if ("environ", variable) in found:
            yield ("environ", variable), f"{variable} is set for the variable {quoted(names[0])}: remove it"


def _cgroup_files(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    """No cgroup file is set by two keys that are both written."""
    for setter in keys(Container):
        if (setter.name,) not in found:
            continue
        line = found[setter.name,].line
        for file in setter.sets:
            if ("cgroup", file) in found:
                yield (
                    ("cgroup", file),
                    f"{file} is set by {setter.name} too (line {line}): keep one of the two",
                )


def _http_port(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    """An HTTP request for readiness has one port to go to."""
    if not isinstance(_value(found, "readiness"), Http):
        return
    at = found.get(("readiness", "port"))
    declared = [path for path in found if len(path) == 2 and path[0] == "tcp-ports"]
    known = {found[path].key for path in declared}
    if None in known:
        return  # wrong, or a variable without a value
    if at is None and len(declared) != 1:
        yield ("readiness",), f"there are {len(declared)} tcp-ports: name one with port"
    elif at is not None and at.value is not None and at.value not in known:
        yield ("readiness", "port"), f"port {at.value} is none of tcp-ports"


def _output_file(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    """The image is read-only, so the output goes to a volume that is not."""
    path = _value(found, "stdout-stderr-file")
    volumes = _value(found, "volumes") or {}
    if path is None or None in volumes.values():
        return
    mount = find_prefix(path, list(volumes))
    if mount is None or isinstance(volumes[mount], Readonly):
        yield ("stdout-stderr-file",), f"{path} is not on a writable volume, and the image is read-only"


def _secrets(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    if ("secret-environ",) in found and ("secret-environ-file",) in found:
        line = found["secret-environ",].line
        yield ("secret-environ-file",), f"secret-environ is there too (line {line}): keep one of the two"


def _value(found: Mapping[Path, Found], name: str) -> Any:
    """The value of a key; its default when the file does not hold it, None when it is wrong."""
    at = found.get((name,))
    return _DEFAULTS[name] if at is None else at.value


_DEFAULTS = {each.name: each.default for each in keys(Container)}

CONTAINER = Record(
    Container,
    "container file",
    ignored={"metadata": "Anything; for other tools, as in lithos."},
    checks=(_descriptors, _activation, _cgroup_files, _http_port, _output_file, _secrets),
)


# Reading


class ContainerFile:
    """A container file that was read once and is checked for each set of variables that it is used with."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.declared = _declared(tree)

    def document(self, variables: Variables) -> Document[Container]:
        """The file with variables put in, and with the ports that they activate."""
        document: Document[Container] = read_document(self.tree, CONTAINER, variables)
        if document.value is None or not document.is_sound():
            return document
        return _with_activated_ports(document, variables.values)


def _with_activated_ports(document: Document[Container], values: Mapping[str, str]) -> Document[Container]:
    container = document.value
    activated: dict[int, TcpPort] = {}
    faults: list[Fault] = []
    for fd, name in enumerate(_activated(container.variables), start=3):
        port = int(values.get(name, 0))
        if port in container.tcp_ports:
            message = f"port {port} is in tcp-ports too: remove one of the two"
        elif port in activated:
            message = (
                f"port {port} is that of the variable {quoted(activated[port].name or '')} too: change one of them"
            )
        else:
            activated |= {port: TcpPort(fd=fd, name=name)} if port else {}
            continue
        at = ("variables", name)
        faults.append(Fault.at(document.place(at), at, message))
    ports = {**activated, **container.tcp_ports}
    return document._replace(value=attrs.evolve(container, tcp_ports=ports), faults=(*document.faults, *faults))


def _declared(tree: Tree) -> Mapping[str, Declared]:
    """The variables that are declared rightly; what is wrong with others is said when the file is read as a whole."""
    if not isinstance(tree.root, yaml.MappingNode):
        return {}
    declared: dict[str, Declared | None] = {}
    for name, node in pairs(tree.root):
        if name.value == "variables":
            declared |= read_document(Tree(tree.file, node, ()), VARIABLES).value or {}
    return {name: kind for name, kind in declared.items() if kind is not None}


def _activated(declared: Mapping[str, Declared | None]) -> list[str]:
    """The names of the variables whose ports are handed over in systemd's way, in the order of descriptors."""
    return sorted(name for name, kind in declared.items() if isinstance(kind, PortVariable) and kind.activation)


def load_container(path: str, variables: Mapping[str, str] | None = None) -> Container:
    """The container file at `path` for `lithos run`, with `@{name}` replaced by the given variables.

    The built-in variables stay in `arguments` and `environ`: they differ between instances, see
    `substitute`. Raises ConfigErrors with every fault of the file, one that cannot be read included, with
    every key that `lithos run` cannot honour yet, and with every file it includes that others could have
    written; of the file itself the caller asks that with `check_ownership`.
    """
    return _load(path, variables or {}, to_run=True)


def check_container(path: str, variables: Mapping[str, str] | None = None) -> Container:
    """As `load_container`, for a file that nothing runs: also with keys that only a master file brings to life.

    A declared variable may be without a value; what depends on it is left out of the container.
    """
    return _load(path, variables or {}, to_run=False)


def _load(path: str, values: Mapping[str, str], *, to_run: bool) -> Container:
    text = HostFiles(secure=False).read(path, [])
    directory = os.path.dirname(path)
    with RootedFiles(directory or ".", shown=directory, distrust=_distrust if to_run else None) as beside:
        # Only the file itself was named by somebody trusted; what it includes stays in its directory.
        file = ContainerFile(parse_tree(beside, f"/{os.path.basename(path)}", path, text))
    missing = missing_values(file.declared, values)
    wrong = dict(faults_of_values(file.declared, values))
    open_names = frozenset((*missing, *wrong))
    given = {name: value for name, value in values.items() if name not in wrong}
    document = file.document(Variables(given, open_names))
    errors = document.errors(by_run=to_run)
    errors += [document.error(("variables", name), f"the value given is wrong: {why}") for name, why in wrong.items()]
    if to_run:
        errors += [_missing(document, name) for name in missing]
        errors += _by_hand(document)
    if errors:
        raise ConfigErrors(errors)
    return document.value


def _distrust(path: str, _: os.stat_result) -> list[Error]:
    return check_ownership(path)


def _by_hand(document: Document[Container]) -> list[Error]:
    kind = document.found.get(("kind",))
    if kind is None or kind.value != "Command":
        return []
    message = "a Command is started by hand, with `lithos cmd` and a process file: make it a CommandOrDaemon"
    return [document.error(("kind",), message)]


def _missing(document: Document[Container], name: str) -> Error:
    return document.error(("variables", name), f"has no value: give it with --set {name}=VALUE")
