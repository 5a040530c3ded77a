"""The configuration reader: a short-lived process that prints what should run as JSON.

It is a process of its own so that YAML, attrs and all that a hostile file may do to them stay out of the supervisor;
``python -m lithos_runner.supervisor.loader '{"file": …}'`` is its whole interface. ``load`` is the supervisor's side.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from ..launch.spec import NOBODY, LaunchSpec
from ..plan.instance import Policy
from . import desired

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config.container import Container

RUN_SANDBOX = "run"
RUN_STARTS = 5  # systemd's StartLimitBurst: so many starts may fail before the first success


class Request(NamedTuple):
    """One container file to run; ``root`` is the image's directory, "/" for the host's own root."""

    file: str
    name: str
    instances: int | None
    root: str
    variables: dict[str, str]


def load(request: Request) -> list[desired.Group]:
    """Let a child read the configuration. Raises Refusal with all its faults, OSError when there is no child."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with open(reader, "rb") as answer:
        try:
            child = os.posix_spawn(
                sys.executable,
                # -P: never import from the directory that root happens to stand in.
                [sys.executable, "-P", "-m", __name__, json.dumps(request._asdict())],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
            )
        finally:
            os.close(writer)
        text = answer.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        raise desired.Refusal(f"{request.file}: the configuration reader ended with status {status}, see above")
    return desired.decode(text.decode())


def main(argument: str) -> None:
    """Print the groups, or the faults, that ``argument`` (a Request as JSON) leads to."""
    import signal

    from ..config import ConfigErrors
    from ..launch import kernel

    # The supervisor waits for us; without it nobody would end a reader that waits for a FIFO or a dead file server.
    kernel.perform(kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL))
    try:
        print(desired.encode([read(Request(**json.loads(argument)))]))
    except ConfigErrors as errors:
        print(desired.refuse(str(errors).splitlines()))


def read(request: Request) -> desired.Group:
    """Read and check one container file; raises ConfigErrors."""
    from ..config import ConfigErrors, check_ownership, load_container

    faults = check_ownership(request.file)
    if faults:
        raise ConfigErrors(faults)
    container = load_container(request.file, request.variables)
    return group(container, request)


def group(container: Container, request: Request) -> desired.Group:
    """Turn a container file's values into what the supervisor runs."""
    import hashlib

    opened = ports(container, {})
    launch = LaunchSpec(
        name="",
        executable=container.executable,
        arguments=container.arguments,
        environ=tuple(container.environ.items()),
        uid=NOBODY if container.user_id is None else container.user_id,
        gid=NOBODY if container.group_id is None else container.group_id,
        workdir=container.workdir,
        root=request.root,
        fileno_limit=container.fileno_limit,
        init=container.init,
        sockets=tuple((port.fd, port.name) for port in opened),
        config=request.file,
    )
    policy = Policy(
        restart_timeout=container.restart_timeout, kill_timeout=container.kill_timeout, max_starts=RUN_STARTS
    )
    made = desired.Group(
        sandbox=RUN_SANDBOX,
        process=request.name,
        instances=container.instances if request.instances is None else request.instances,
        launch=launch,
        policy=policy,
        stop_signal=int(container.stop_signal),
        limits=limits(container),
        ports=opened,
        spec="",
    )
    identity = desired.encode([made._replace(instances=0, ports=tuple(port.fixed for port in opened))])
    return made._replace(spec=hashlib.blake2b(identity.encode(), digest_size=8).hexdigest())


def ports(container: Container, unix_paths: Mapping[str, str]) -> tuple[desired.Port, ...]:
    """Return the sockets that a container file asks for; ``unix_paths`` are the host's paths of its `unix-sockets`."""
    tcp = [
        desired.Port(
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
        desired.Port(
            *("udp", entry.fd, entry.name or f"udp-{port}", entry.host, port),
            reuse_port=entry.reuse_port,
            ipv6_only=entry.ipv6_only,
            non_block=entry.set_non_block,
        )
        for port, entry in container.udp_ports.items()
    ]
    unix = [
        desired.Port(
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
    if container.cpu_limit is not None:
        files["cpu.max"] = f"{round(container.cpu_limit * CPU_PERIOD)} {CPU_PERIOD}"
    if container.pids_limit is not None:
        files["pids.max"] = str(container.pids_limit)
    return files | dict(container.cgroup)


if __name__ == "__main__":
    main(sys.argv[1])
