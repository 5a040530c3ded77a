"""What the configuration files want to run; for short-lived processes, as this imports YAML and attrs."""

from __future__ import annotations

from collections.abc import Mapping

from ..config import ConfigErrors, Host, check_ownership, history, load_container, load_host
from ..config.witness import UNSEEN, Witness
from . import translate
from .desired import EVERYTHING, Desired
from .desired import Host as Settings
from .loader import Request
from .messages import logs_of


def read(request: Request, witness: Witness) -> Desired:
    """Read what ``request`` leads to, with all that is wrong; ``witness`` is told what a host's files depend on."""
    if request.name:
        witness.asked()  # nobody reads it twice
        return _one_file(request)
    return _host(request.file, witness)


def _one_file(request: Request) -> Desired:
    """Read and check the container file of `lithos run`."""
    try:
        if faults := check_ownership(request.file):
            raise ConfigErrors(faults)
        container = load_container(request.file, request.variables)
    except ConfigErrors as errors:
        broken = frozenset({EVERYTHING})
        return Desired([], {}, str(errors).splitlines(), broken)
    group = translate.run_group(container, request.file, request.name, request.root)
    if request.instances is not None:
        group = group._replace(instances=request.instances)
    return Desired([group], {group.sandbox: {}}, [])


def _host(master_file: str, witness: Witness) -> Desired:
    """Read what is to be put into force, and note it in the history of the process files."""
    host = load_host(master_file, witness=witness)
    remarks = () if host.master is None else tuple(history.record(host, host.master.config_log_dir))
    return _wanted(host, witness)._replace(remarks=remarks)


def read_host(master_file: str, alternates: Mapping[str, str]) -> Desired:
    """Read what would be put into force; ``alternates`` names another process file for a sandbox."""
    return _wanted(load_host(master_file, alternates=alternates), UNSEEN)


def _wanted(host: Host, witness: Witness) -> Desired:
    broken = host.broken
    faults = [str(error) for error in host.errors]
    groups = []
    services = [service for sandbox in host.sandboxes.values() for service in sandbox.services.values()]
    for service in services:
        if service.entry.kind != "Daemon":
            continue
        try:
            groups.append(translate.service_group(service, host.devfs, witness))
        except OSError as error:  # the image went away meanwhile
            broken |= {service.name}
            faults.append(f"{service.root}: cannot use the image of {service.name}: {error.strerror}")
    limits = {name: translate.sandbox_limits(sandbox.settings) for name, sandbox in host.sandboxes.items()}
    return Desired(groups, limits, faults, broken, _settings(host))


def _settings(host: Host) -> Settings | None:
    master = host.master
    if master is None:
        return None
    return Settings(
        runtime=master.runtime_dir,
        mounts=master.below_runtime(master.mount_dir),
        log_directory=master.stdio_log_dir,
        cgroup_name=master.cgroup_name,
        controllers=master.cgroup_controllers,
        logs=logs_of(master, {name: sandbox.settings for name, sandbox in host.sandboxes.items()}),
    )
