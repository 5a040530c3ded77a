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

from . import desired
from .messages import logs_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config import Host


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
    from . import translate

    try:
        if faults := check_ownership(request.file):
            raise ConfigErrors(faults)
        container = load_container(request.file, request.variables)
    except ConfigErrors as errors:
        broken = frozenset({desired.EVERYTHING})
        return desired.Desired([], {}, str(errors).splitlines(), broken)
    group = translate.run_group(container, request.file, request.name, request.root)
    if request.instances is not None:
        group = group._replace(instances=request.instances)
    return desired.Desired([group], {group.sandbox: {}}, [])


def _host(master_file: str) -> desired.Desired:
    """Read what is to be put into force, and note it in the history of the process files."""
    from ..config import history, load_host

    host = load_host(master_file)
    remarks = () if host.master is None else tuple(history.record(host, host.master.config_log_dir))
    return _wanted(host)._replace(remarks=remarks)


def read_host(master_file: str, alternates: Mapping[str, str]) -> desired.Desired:
    """Read what would be put into force; for a process of its own, as it imports YAML.

    ``alternates`` names another process file for a sandbox.
    """
    from ..config import load_host

    return _wanted(load_host(master_file, alternates=alternates))


def _wanted(host: Host) -> desired.Desired:
    from . import translate

    broken = host.broken
    faults = [str(error) for error in host.errors]
    groups = []
    services = [service for sandbox in host.sandboxes.values() for service in sandbox.services.values()]
    for service in services:
        if service.entry.kind != "Daemon":
            continue
        try:
            groups.append(translate.service_group(service, host.devfs))
        except OSError as error:  # the image went away meanwhile
            broken |= {service.name}
            faults.append(f"{service.root}: cannot use the image of {service.name}: {error.strerror}")
    limits = {name: translate.sandbox_limits(sandbox.settings) for name, sandbox in host.sandboxes.items()}
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
        logs=logs_of(master, {name: sandbox.settings for name, sandbox in host.sandboxes.items()}),
    )


if __name__ == "__main__":
    main(sys.argv[1])
