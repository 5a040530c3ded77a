"""The container file: what to run, with which limits, environment and listening sockets."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator, Mapping

import attrs

from .errors import Path, did_you_mean, quoted
from .kinds import Flag, Found, Integer, ListOf, MapOf, Number, Record, Text, key, keys
from .scalars import size
from .walk import load

RUNNER = "lithos-runner"

_CGROUP_FILE = r"[a-z][a-z0-9_]*(\.[A-Za-z0-9_-]+)+"


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"expected an absolute path, found {quoted(text)}: it is not searched for in PATH")
    return text


def _variable_name(text: str) -> str:
    if not text or "=" in text:
        raise ValueError(f"{quoted(text)} cannot name an environment variable: it is empty or holds '='")
    return text


def _address(text: str) -> str:
    """An IP address in the kernel's spelling, so that one address has one identity."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, text))
        except OSError:
            continue
    raise ValueError(
        f'{quoted(text)} is not an IPv4 or IPv6 address: names are not looked up, write 0.0.0.0, 127.0.0.1 or "::"'
    )


def _signal(text: str) -> signal.Signals:
    names = signal.Signals.__members__
    name = text if text.startswith("SIG") else f"SIG{text}"
    if name not in names:
        hint = "" if text.isdecimal() else did_you_mean(name.upper(), names)
        raise ValueError(f"{quoted(text)} is not the name of a signal{hint}")
    if name in ("SIGKILL", "SIGSTOP"):
        raise ValueError(f"{name} never reaches the application (signal(7)): kill-timeout ends in SIGKILL")
    return names[name]


def _kind(text: str) -> str:
    if text in ("Command", "CommandOrDaemon"):
        raise ValueError(f"{text} is not supported yet: only Daemon is")
    if text != "Daemon":
        raise ValueError(f"expected Daemon, found {quoted(text)}")
    return text


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


def _number_of_user(name: str) -> str:
    import pwd

    try:
        return f"which is {pwd.getpwnam(name).pw_uid} on this host: write the number"
    except KeyError:
        return "which this host does not know: write the number"


def _number_of_group(name: str) -> str:
    import grp

    try:
        return f"which is {grp.getgrnam(name).gr_gid} on this host: write the number"
    except KeyError:
        return "which this host does not know: write the number"


_UNCHANGED = {(1 << 32) - 1: "setresuid(2) and setresgid(2) take it as 'leave the id unchanged'"}
_LOG = "descriptors 1 and 2 are the instance's log"
_EPHEMERAL = "the kernel would pick another port at every start; name one between 1 and 65535"
_BYTES = "bytes"
_SECONDS = "seconds"

_PORT = Integer(minimum=1, maximum=65535, refused={0: _EPHEMERAL}, variables=True)
_USER = Integer(minimum=0, maximum=(1 << 32) - 2, refused=_UNCHANGED, named=_number_of_user)
_GROUP = Integer(minimum=0, maximum=(1 << 32) - 2, refused=_UNCHANGED, named=_number_of_group)
# sysctl_nr_open_max of the kernel (fs/file.c): no process can have more descriptors on a 64-bit host.
_MOST_FILES = (1 << 31) - 64
_DAY = Number(minimum=0, maximum=86400, unit=_SECONDS)


@attrs.frozen(kw_only=True)
class TcpPort:
    """One entry of `tcp-ports`: a listening socket and the descriptor at which the application gets it."""

    fd: int = key(
        Integer(minimum=0, maximum=_MOST_FILES - 1, refused={1: _LOG, 2: _LOG}),
        "Descriptor number that the application sees: 0 (inetd style) or 3 and up, below `fileno-limit`.",
    )
    host: str = key(
        Text(words="IP address", parse=_address),
        "IPv4 or IPv6 address to listen on; names are not looked up.",
        default="0.0.0.0",  # noqa: S104 - lithos's default, and the point of a published port
    )
    listen_backlog: int = key(
        Integer(minimum=1, maximum=(1 << 31) - 1),
        "Length of the accept queue for `listen(2)`; the kernel caps it at `net.core.somaxconn`.",
        default=128,
    )
    reuse_addr: bool = key(
        Flag(), "Set `SO_REUSEADDR`, so that a restart need not wait for old connections.", default=True
    )
    set_non_block: bool = key(Flag(), "Set `O_NONBLOCK` on the socket, for applications that expect it.", default=False)
    reuse_port: bool = key(
        Flag(only=False), "One socket per instance with `SO_REUSEPORT`; not supported yet.", default=False
    )
    external: bool = key(
        Flag(only=False),
        "Listen in the host's network although the sandbox is bridged; not supported yet.",
        default=False,
    )


@attrs.frozen(kw_only=True)
class Container:
    """A container file. Attributes are its keys with underscores; sizes are bytes, times are seconds."""

    executable: str = key(
        Text(words="absolute path", parse=_absolute, schema={"pattern": "^/"}),
        "Absolute path of the program; `PATH` is not searched.",
    )
    arguments: tuple[str, ...] = key(ListOf(Text(variables=True)), "Arguments, without the program itself.", default=())
    environ: Mapping[str, str] = key(
        MapOf(
            Text(words="variable name", parse=_variable_name, schema={"pattern": "^[^=]+$"}),
            Text(variables=True),
        ),
        "The environment. Nothing but `TERM` comes from outside; a `LISTEN_*` value written here wins over "
        "the generated one.",
        default=attrs.Factory(dict),
    )
    user_id: int | None = key(_USER, "Numeric user id of the application.", default=None)
    group_id: int | None = key(_GROUP, "Numeric group id of the application.", default=None)
    workdir: str = key(
        Text(words="absolute path", parse=_absolute, schema={"pattern": "^/"}),
        "Directory in which the application starts.",
        default="/",
    )
    memory_limit: int | None = key(
        # A page, the unit in which the kernel counts memory; less would round down to a limit of 0.
        Integer(minimum=4096, maximum=(1 << 63) - 1, unit=_BYTES, suffixes=True),
        "Memory of one instance; no swap beside it.",
        default=None,
        sets=("memory.max", "memory.swap.max"),
    )
    cpu_shares: int = key(
        Integer(minimum=2, maximum=262144),
        "Weight against other instances when the CPUs are busy; 1024 is `cpu.weight` 100.",
        default=1024,
        sets=("cpu.weight",),
    )
    cpu_limit: float | None = key(
        # The scheduler takes no quota below 1 ms, which is 0.01 of the usual period of 100 ms
        # (Documentation/scheduler/sched-bwc.rst); 8192 is the largest NR_CPUS of x86.
        Number(minimum=0.01, maximum=8192, unit="cpus"),
        "CPU time of one instance, in CPUs: 1.5 is one and a half.",
        default=None,
        origin=RUNNER,
        sets=("cpu.max",),
    )
    pids_limit: int | None = key(
        Integer(minimum=1, maximum=1 << 22),  # PID_MAX_LIMIT, proc_sys_kernel(5)
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
        Integer(minimum=4, maximum=_MOST_FILES),
        "Open descriptors of a process (`RLIMIT_NOFILE`, soft and hard).",
        default=1024,
    )
    restart_timeout: float = key(_DAY, "Least time between two starts of an instance.", default=1.0)
    kill_timeout: float = key(
        _DAY, "Time between `stop-signal` and the end of every process of the instance.", default=5.0
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
    init: bool = key(
        Flag(),
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
        MapOf(_PORT, Record(TcpPort, "TCP port", later={"name": RUNNER})),
        "Ports to open for the application, see [below](#tcp-ports).",
        default=attrs.Factory(dict),
    )
    kind: str = key(
        Text(words="kind", parse=_kind, schema={"enum": ["Daemon"]}),
        "Only `Daemon`, a process that is kept running; commands are not supported yet.",
        default="Daemon",
    )


def _descriptors(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    """Every declared descriptor has one owner and fits into the descriptor table."""
    written = found.get(("fileno-limit",))
    limit = attrs.fields(Container).fileno_limit.default if written is None else written.value
    owners: dict[int, tuple[str | int, int]] = {}
    for path, fd in found.items():
        if len(path) != 3 or path[0] != "tcp-ports" or path[2] != "fd" or fd.value is None:
            continue
        if fd.value in owners:
            port, line = owners[fd.value]
            yield path, f"descriptor {fd.value} belongs to port {port} already (line {line})"
        owners.setdefault(fd.value, (path[1], fd.line))
        if limit is not None and fd.value >= limit:
            yield path, f"descriptor {fd.value} must be below fileno-limit, which is {limit} (getrlimit(2))"


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


CONTAINER = Record(
    Container,
    "container file",
    ignored={"metadata": "Anything; for other tools, as in lithos."},
    later=dict.fromkeys(
        (
            "variables",
            "volumes",
            "secret-environ",
            "secret-environ-file",
            "resolv-conf",
            "hosts-file",
            "uid-map",
            "gid-map",
            "stdout-stderr-file",
            "interactive",
            "restart-process-only",
            "normal-exit-codes",
        ),
        "lithos",
    )
    | dict.fromkeys(("readiness", "readiness-timeout", "drain-timeout", "unix-sockets", "udp-ports"), RUNNER),
    checks=(_descriptors, _cgroup_files),
)


def load_container(path: str, variables: Mapping[str, str] | None = None) -> Container:
    """The container file at `path`, with `@{name}` replaced by the given variables.

    The built-in variables stay in `arguments` and `environ`: they differ between instances, see
    `substitute`. Raises ConfigErrors with every fault of the file, one that cannot be read included.
    """
    return load(path, CONTAINER, variables or {})
