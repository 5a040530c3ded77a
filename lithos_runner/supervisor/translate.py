"""From configuration to what the supervisor runs; used in short-lived processes, as it imports the former."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import NamedTuple

from ..config import Container, Service
from ..config.container import HostsFile, ResolvConf
from ..config.facts import facts
from ..config.files import status_of
from ..config.sandbox import Sandbox
from ..config.volumes import Persistent, Readonly, Statedir, Tmpfs
from ..config.volumes import Volume as Declared
from ..config.witness import UNSEEN, Witness
from ..launch.spec import NOBODY, EtcFile, LaunchSpec, Root, Volume
from ..plan.changes import IMAGE_IDENTITY, identity
from ..plan.instance import Policy
from ..plan.rollout import Upgrade
from .desired import RUN_SANDBOX, Group, Port
from .readiness.watch import ALIVE, AUTO, HTTP, Readiness

ALIVE_AFTER = 1.0  # seconds that a program without sockets has to run to be ready
RUN_STARTS = 5  # systemd's StartLimitBurst: so many starts may fail before the first success


class _About(NamedTuple):
    """What a container file does not say about its process group."""

    sandbox: str
    process: str
    instances: int
    root: Root
    config: str
    facts: dict[str, str]
    unix_paths: Mapping[str, str] = {}
    volumes: tuple[Volume, ...] = ()
    etc: tuple[EtcFile, ...] = ()
    upgrade: Upgrade = Upgrade()
    max_starts: int | None = None


def run_group(container: Container, file: str, process: str, root: str) -> Group:
    """Return the process group of `lithos run`; ``root`` is the directory of its root file system."""
    about = _About(
        sandbox=RUN_SANDBOX,
        process=process,
        instances=container.instances,
        root=Root(root),
        config=file,
        facts={"image": root},
        etc=() if root == "/" else tuple(_etc(container, Sandbox())),
        max_starts=RUN_STARTS,
    )
    return _group(container, about)


def service_group(service: Service, devfs: str, witness: Witness = UNSEEN) -> Group:
    """Return the process group of an entry of a process file; ``devfs`` is a directory for /dev, "" for none.

    ``witness`` is told what this depends on beside the service. Raises OSError when its image is gone.
    """
    entry, settings = service.entry, service.settings
    upgrade = Upgrade(entry.upgrade.max_surge, entry.upgrade.max_unavailable, entry.upgrade.warm_up, entry.upgrade.soak)
    image = os.stat(service.root)
    witness.saw(".", image, settings.image_dir, entry.image)
    # An image is replaced as a directory; what is changed inside of it shows only in its container file.
    known = {
        "image": entry.image,
        IMAGE_IDENTITY: f"{image.st_dev}:{image.st_ino}:{image.st_mtime_ns}",
        "config": entry.config,
        **{f"upgrade.{key.replace('_', '-')}": f"{value:g}" for key, value in upgrade._asdict().items()},
        **{f"volumes.{point} from": os.path.join(*source).rstrip("/") for point, source in service.sources.items()},
        **({"devfs-dir": devfs} if devfs else {}),
    }
    known |= {f"unix-sockets.{path} at": real for path, real in service.unix_paths.items()}
    etc = tuple(_etc(service.container, settings, witness))
    known |= {file.target: f"{file.copy_from} {file.text}".strip() for file in etc}
    about = _About(
        sandbox=service.sandbox,
        process=service.process,
        instances=entry.instances,
        root=Root(settings.image_dir, entry.image, (image.st_dev, image.st_ino), devfs),
        config=entry.config,
        facts=known,
        unix_paths=service.unix_paths,
        volumes=tuple(
            _volume(point, declared, service.sources.get(point, ("", "")))
            for point, declared in service.container.volumes.items()
        ),
        etc=etc,
        upgrade=upgrade,
    )
    return _group(service.container, about)


def _group(container: Container, about: _About) -> Group:
    opened = ports(container, about.unix_paths)
    readiness = _readiness(container)
    # Datagrams are not accepted: there is nothing to see an application wait for.
    seen = any(port.kind != "udp" for port in opened)
    alive = readiness.kind == ALIVE or (readiness.kind == AUTO and not seen)
    policy = Policy(
        restart_timeout=container.restart_timeout,
        kill_timeout=container.kill_timeout,
        drain_timeout=container.drain_timeout,
        readiness_timeout=container.readiness_timeout,
        alive_after=ALIVE_AFTER if alive else None,
        warm_up=about.upgrade.warm_up if any(port.reuse_port for port in opened) else 0.0,
        max_starts=about.max_starts,
    )
    known = {**about.facts, **facts(container)}
    return Group(
        sandbox=about.sandbox,
        process=about.process,
        instances=about.instances,
        launch=_launch(container, about, opened),
        policy=policy,
        stop_signal=int(container.stop_signal),
        limits=limits(container),
        ports=opened,
        upgrade=about.upgrade,
        readiness=readiness,
        normal_exit_codes=container.normal_exit_codes,
        restart_process_only=container.restart_process_only,
        facts=known,
        spec=identity(known),
    )


def _readiness(container: Container) -> Readiness:
    wanted = container.readiness
    if isinstance(wanted, str):
        return Readiness(wanted)
    port = wanted.port if wanted.port is not None else next(iter(container.tcp_ports))
    host = container.tcp_ports[port].host
    return Readiness(HTTP, wanted.path, (_REACHED_AT.get(host, host), port), wanted.timeout)


# Where a socket that is bound to every address is asked.
_REACHED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104


def _launch(container: Container, about: _About, opened: tuple[Port, ...]) -> LaunchSpec:
    return LaunchSpec(
        name="",
        executable=container.executable,
        arguments=container.arguments,
        environ=tuple(container.environ.items()),
        uid=NOBODY if container.user_id is None else container.user_id,
        gid=NOBODY if container.group_id is None else container.group_id,
        workdir=container.workdir,
        fileno_limit=container.fileno_limit,
        init=container.init,
        sockets=tuple((port.fd, port.name) for port in opened),
        config=about.config,
        root=about.root.directory,
        image=about.root.image,
        identity=about.root.identity,
        devfs=about.root.devfs,
        volumes=about.volumes,
        etc=about.etc,
        output=container.stdout_stderr_file or "",
    )


def ports(container: Container, unix_paths: Mapping[str, str]) -> tuple[Port, ...]:
    """Return the sockets that a container file asks for; ``unix_paths`` are the host's paths of its `unix-sockets`."""
    tcp = [
        Port(
            *("tcp", entry.fd, entry.name or f"tcp-{port}", entry.host, port),
            backlog=entry.listen_backlog,
            reuse_addr=entry.reuse_addr,
            reuse_port=entry.reuse_port,
            ipv6_only=entry.ipv6_only,
            non_block=entry.set_non_block,
        )
        for port, entry in container.tcp_ports.items()
    ]
    # Never SO_REUSEADDR: for datagrams it lets every user bind the port, too, and take what arrives (socket(7)).
    udp = [
        Port(
            *("udp", entry.fd, entry.name or f"udp-{port}", entry.host, port),
            reuse_port=entry.reuse_port,
            ipv6_only=entry.ipv6_only,
            non_block=entry.set_non_block,
        )
        for port, entry in container.udp_ports.items()
    ]
    unix = [
        Port(
            *("unix", entry.fd, entry.name or _socket_name(path)),
            path=unix_paths[path],
            backlog=entry.listen_backlog,
            non_block=entry.set_non_block,
            mode=entry.mode,
            user=entry.user,
            group=entry.group,
        )
        for path, entry in container.unix_sockets.items()
    ]
    return (*tcp, *udp, *unix)


def _socket_name(path: str) -> str:
    """Return a path's last component, without what LISTEN_FDNAMES cannot hold; see sd_listen_fds(3)."""
    last = os.path.basename(path)[:255]
    return "".join(c if c.isascii() and c.isprintable() and c != ":" else "_" for c in last)


def _volume(point: str, declared: Declared, source: tuple[str, str]) -> Volume:
    """Turn a volume into what the launcher mounts; ``source`` is where a directory of the host is."""
    base, below = source
    match declared:
        case Readonly():
            return Volume(point, "bind", base=base, below=below)
        case Persistent(mkdir=mkdir, mode=mode, user=user, group=group):
            return Volume(
                point, "bind", writable=True, base=base, below=below, mkdir=mkdir, mode=mode, uid=user, gid=group
            )
        case Tmpfs(size=size, mode=mode):
            return Volume(point, "tmpfs", writable=True, size=size, mode=mode)
        case Statedir(path=path, mode=mode, user=user, group=group):
            return Volume(point, "state", writable=True, below=path.strip("/"), mode=mode, uid=user, gid=group)


def _etc(container: Container, sandbox: Sandbox, witness: Witness = UNSEEN) -> Iterator[EtcFile]:
    """Yield the files of /etc that an instance gets over those of its image."""
    yield from _resolv_conf(container.resolv_conf, sandbox, witness)
    yield from _hosts(container.hosts_file, sandbox, witness)


def _resolv_conf(wanted: ResolvConf, sandbox: Sandbox, witness: Witness) -> Iterator[EtcFile]:
    required = wanted.mount is True
    source = sandbox.resolv_conf if wanted.copy_from_host else ""
    # Without a copy there is nothing to put there, unless somebody insists.
    if required or (wanted.mount is None and source and status_of(source, witness)):
        yield EtcFile("/etc/resolv.conf", source, "", required)


def _hosts(wanted: HostsFile, sandbox: Sandbox, witness: Witness) -> Iterator[EtcFile]:
    if wanted.mount is False:
        return
    source = sandbox.hosts_file if wanted.copy_from_host else ""
    required = wanted.mount is True
    if source and not required and not status_of(source, witness):
        source = ""
    lines = "".join(f"{line}\n" for line in _host_lines(wanted, sandbox, witness))
    yield EtcFile("/etc/hosts", source, lines, required)


def _host_lines(wanted: HostsFile, sandbox: Sandbox, witness: Witness) -> Iterator[str]:
    alone = not wanted.copy_from_host
    if alone if wanted.localhost is None else wanted.localhost:
        yield "127.0.0.1 localhost"
        yield "::1 localhost"
    if alone if wanted.public_hostname is None else wanted.public_hostname:
        witness.asked()
        name = socket.gethostname()
        with suppress(OSError):  # a host without an address of its own
            yield f"{socket.gethostbyname(name)} {name}"
    yield from (f"{address} {name}" for name, address in sandbox.additional_hosts.items())


CPU_PERIOD = 100_000  # µs; the kernel's default in cpu.max
DEFAULT_SHARES, DEFAULT_WEIGHT = 1024, 100  # lithos's and v1's default; cgroup v2's


def limits(container: Container) -> dict[str, str]:
    """Return which file of the instance's cgroup gets which text; what has its kernel default is left out."""
    files: dict[str, str] = {}
    if container.memory_limit is not None:
        # An instance is one service: when one of its processes is killed, the rest is of no use.
        files |= {"memory.oom.group": "1", "memory.max": str(container.memory_limit), "memory.swap.max": "0"}
    if container.cpu_shares != DEFAULT_SHARES:
        weight = round(container.cpu_shares * DEFAULT_WEIGHT / DEFAULT_SHARES)
        files["cpu.weight"] = str(min(max(weight, 1), 10_000))
    return files | _bounds(container.cpu_limit, container.pids_limit) | dict(container.cgroup)


def _bounds(cpu_limit: float | None, pids_limit: int | None) -> dict[str, str]:
    files: dict[str, str] = {}
    if cpu_limit is not None:
        files["cpu.max"] = f"{round(cpu_limit * CPU_PERIOD)} {CPU_PERIOD}"
    if pids_limit is not None:
        files["pids.max"] = str(pids_limit)
    return files


def sandbox_limits(sandbox: Sandbox) -> dict[str, str]:
    """Return which file of the sandbox's cgroup gets which text, for all of its instances together."""
    memory = sandbox.memory_limit
    files = {} if memory is None else {"memory.max": str(memory), "memory.swap.max": "0"}
    return files | _bounds(sandbox.cpu_limit, sandbox.pids_limit)
