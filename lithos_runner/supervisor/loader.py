"""The configuration reader: a short-lived process that prints what should run as JSON.

It is a process of its own so that YAML, attrs and all that a hostile file may do to them stay out of the supervisor;
``python -m lithos_runner.supervisor.loader '{"file": …}'`` is its whole interface. ``Reader`` is the supervisor's side.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple

from ..launch.spec import NOBODY, LaunchSpec
from ..plan.instance import Policy
from ..plan.rollout import Upgrade
from . import desired

if TYPE_CHECKING:
    from ..config import Host, Service
    from ..config.container import Container
    from ..config.sandbox import Sandbox

RUN_SANDBOX = "run"
RUN_STARTS = 5  # systemd's StartLimitBurst: so many starts may fail before the first success


class Request(NamedTuple):
    """What to read: a master file with all that follows from it, or, when ``name`` is given, one container file.

    For the latter ``name`` is its process's, and ``root`` the image's directory, "/" for the host's own root.
    """

    file: str
    name: str = ""
    instances: int | None = None
    root: str = "/"
    variables: dict[str, str] = {}  # noqa: RUF012 - never changed


class Reader:
    """A child that reads a configuration; ``descriptor`` is readable when it has something to say."""

    def __init__(self, request: Request) -> None:
        """Start it. Raises OSError when there can be no child."""
        self._request = request
        self._text = bytearray()
        self.descriptor, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._child = os.posix_spawn(
                sys.executable,
                # -P: never import from the directory that root happens to stand in.
                [sys.executable, "-P", "-m", __name__, json.dumps(request._asdict())],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)],
                setsigmask=(),
            )
        except OSError:
            os.close(self.descriptor)
            raise
        finally:
            os.close(writer)

    def read(self) -> bool:
        """Take what there is, waiting for something; return whether that was all."""
        more = os.read(self.descriptor, 1 << 20)
        self._text += more
        return not more

    def desired(self) -> desired.Desired:
        """Return what it said, after ``read`` has had all, and let the child go. Raises Refusal when it broke down."""
        os.close(self.descriptor)
        status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        if status != 0:
            file = self._request.file
            raise desired.Refusal(f"{file}: the configuration reader ended with status {status}, see above")
        return desired.decode(self._text.decode())

    def close(self) -> None:
        """End the child, whatever it does."""
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        os.close(self.descriptor)


def load(request: Request) -> desired.Desired:
    """Let a child read the configuration, and wait for it. Raises Refusal, and OSError when there is no child."""
    reader = Reader(request)
    while not reader.read():
        pass
    return reader.desired()


def main(argument: str) -> None:
    """Print what ``argument`` (a Request as JSON) leads to."""
    from ..launch import kernel

    # The supervisor waits for us; without it nobody would end a reader that waits for a FIFO or a dead file server.
    kernel.perform(kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL))
    request = Request(**json.loads(argument))
    print(desired.encode(_one_file(request) if request.name else _host(request.file)))


def _one_file(request: Request) -> desired.Desired:
    """Read and check the container file of `lithos run`."""
    from ..config import ConfigErrors, check_ownership, load_container

    try:
        if faults := check_ownership(request.file):
            raise ConfigErrors(faults)
        container = load_container(request.file, request.variables)
    except ConfigErrors as errors:
        broken = frozenset({desired.EVERYTHING})
        return desired.Desired([], {}, str(errors).splitlines(), broken)
    return desired.Desired([_run_group(container, request)], {RUN_SANDBOX: {}}, [])


def _run_group(container: Container, request: Request) -> desired.Group:
    instances = container.instances if request.instances is None else request.instances
    about = _About(
        sandbox=RUN_SANDBOX,
        process=request.name,
        instances=instances,
        root=request.root,
        config=request.file,
        facts={"image": request.root},
        max_starts=RUN_STARTS,
    )
    return group(container, about)


def _host(master_file: str) -> desired.Desired:
    """Read and check all four kinds of file."""
    from ..config import load_host

    host = load_host(master_file)
    broken = host.broken if host.master is not None else host.broken | {desired.EVERYTHING}
    faults = [str(error) for error in host.errors]
    groups = []
    for sandbox in host.sandboxes.values():
        for service in sandbox.services.values():
            if service.entry.kind != "Daemon":
                continue
            try:
                groups.append(service_group(service))
            except OSError as error:  # the image went away meanwhile
                broken |= {service.name}
                faults.append(f"{service.root}: cannot use the image of {service.name}: {error.strerror}")
    limits = {name: sandbox_limits(sandbox.settings) for name, sandbox in host.sandboxes.items()}
    return desired.Desired(groups, limits, faults, broken, _settings(host))


def _settings(host: Host) -> desired.Host | None:
    master = host.master
    if master is None:
        return None
    return desired.Host(
        runtime=master.runtime_dir,
        mounts=master.below_runtime(master.mount_dir),
        log_directory=master.stdio_log_dir,
        cgroup_name=master.cgroup_name,
        controllers=master.cgroup_controllers,
    )


def service_group(service: Service) -> desired.Group:
    """Turn an entry of a process file into what the supervisor runs. Raises OSError when its image is gone."""
    entry = service.entry
    upgrade = Upgrade(entry.upgrade.max_surge, entry.upgrade.max_unavailable, entry.upgrade.warm_up, entry.upgrade.soak)
    image = os.stat(service.root)
    facts = {"image": entry.image, "config": entry.config}
    # An image is replaced as a directory; what is changed inside of it shows only in its container file.
    facts["image identity"] = f"{image.st_dev}:{image.st_ino}:{image.st_mtime_ns}"
    facts |= {f"upgrade.{key.replace('_', '-')}": f"{value:g}" for key, value in upgrade._asdict().items()}
    facts |= {f"volumes.{point} from": source for point, source in service.sources.items()}
    about = _About(
        sandbox=service.sandbox,
        process=service.process,
        instances=entry.instances,
        root=service.root,
        config=entry.config,
        facts=facts,
        upgrade=upgrade,
    )
    return group(service.container, about)


class _About(NamedTuple):
    """What a container file does not say about its process group."""

    sandbox: str
    process: str
    instances: int
    root: str
    config: str
    facts: dict[str, str]
    upgrade: Upgrade = Upgrade()
    max_starts: int | None = None


def group(container: Container, about: _About) -> desired.Group:
    """Turn a container file's values into what the supervisor runs."""
    from ..config.facts import facts

    ports = tuple(
        desired.Port(port, entry.fd, entry.host, entry.listen_backlog, entry.reuse_addr, entry.set_non_block)
        for port, entry in container.tcp_ports.items()
    )
    launch = LaunchSpec(
        name="",
        executable=container.executable,
        arguments=container.arguments,
        environ=tuple(container.environ.items()),
        uid=NOBODY if container.user_id is None else container.user_id,
        gid=NOBODY if container.group_id is None else container.group_id,
        workdir=container.workdir,
        root=about.root,
        fileno_limit=container.fileno_limit,
        init=container.init,
        sockets=tuple((port.fd, port.name) for port in ports),
        config=about.config,
    )
    policy = Policy(
        restart_timeout=container.restart_timeout,
        kill_timeout=container.kill_timeout,
        drain_timeout=container.drain_timeout,
        readiness_timeout=container.readiness_timeout,
        max_starts=about.max_starts,
    )
    known = {**about.facts, **facts(container)}
    return desired.Group(
        sandbox=about.sandbox,
        process=about.process,
        instances=about.instances,
        launch=launch,
        policy=policy,
        stop_signal=int(container.stop_signal),
        limits=limits(container),
        ports=ports,
        upgrade=about.upgrade,
        normal_exit_codes=container.normal_exit_codes,
        facts=known,
        spec=identity(known),
    )


LIVE = ("kill-timeout", "restart-timeout", "drain-timeout", "stop-signal", "readiness-timeout", "normal-exit-codes")


def identity(facts: dict[str, str]) -> str:
    import hashlib

    lasting = sorted((k, v) for k, v in facts.items() if k not in LIVE and not k.startswith("upgrade."))
    return hashlib.blake2b(json.dumps(lasting).encode(), digest_size=8).hexdigest()


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


if __name__ == "__main__":
    main(sys.argv[1])
