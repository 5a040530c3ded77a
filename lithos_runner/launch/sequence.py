"""Which operations start an instance, and in what order: a pure function of the spec and of facts about the host.

The order follows crun's ``container_init_setup`` (signals, mounts, pivot, host name, descriptors, directory, groups
and user, seccomp last); docs/design.md gives the reasons.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from typing import NamedTuple

from . import descriptors, init, kernel, operations, preparation, seccomp, volumes
from .operations import Operation
from .preparation import Preparation
from .spec import LaunchSpec, Root, Volume, environment

# What the OCI runtime specification's default configuration makes read-only or hides in /proc.
PROC_READ_ONLY = ("acpi", "asound", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger")
PROC_HIDDEN = ("kcore", "key-users", "keys", "kmsg", "latency_stats", "sched_debug", "timer_list")
TMP_SIZE = "100m"  # what lithos gives its tmpfs volumes


class Host(NamedTuple):
    """What the launcher needs to know of this host; gathered once, see ``survey``."""

    mount_point: str
    ignored_signals: tuple[int, ...]
    last_capability: int
    proc_read_only: tuple[str, ...]
    proc_hidden: tuple[str, ...]
    resolv_conf: str | None
    seccomp: kernel.sock_fprog
    init: int
    oom_score_adj: int = 0  # the supervisor's own, which children inherit
    fileno_limit: int = 0  # the supervisor's hard RLIMIT_NOFILE; beyond it a child needs privileges
    parent: int = 0  # a pidfd of the process that starts instances


def survey(mount_point: str) -> Host:
    """Look at the host; ``mount_point`` is a directory that only root can change, to attach every instance's root at.

    That happens in a mount namespace of its own; what is in the directory is out of sight there. Raises OSError when
    the tiny init is not installed or /proc is not mounted.
    """
    with open("/proc/sys/kernel/cap_last_cap") as file:
        last_capability = int(file.read())
    return Host(
        mount_point=mount_point,
        ignored_signals=_ignored_signals(),
        last_capability=last_capability,
        proc_read_only=_existing(PROC_READ_ONLY),
        proc_hidden=_existing(PROC_HIDDEN),
        resolv_conf=_resolv_conf_in_run(os.path.realpath("/etc/resolv.conf")),
        seccomp=seccomp.assemble(),
        init=init.seal(init.find()),
        oom_score_adj=_oom_score_adj(),
        fileno_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        parent=os.pidfd_open(os.getpid()),
    )


def _ignored_signals() -> tuple[int, ...]:
    """Return what we ignore, those included that Python has no name for; see proc_pid_status(5)."""
    with open("/proc/self/status") as file:
        mask = next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn:"))
    return tuple(number for number in range(1, 65) if mask >> (number - 1) & 1)


def _oom_score_adj() -> int:
    with open("/proc/self/oom_score_adj") as file:
        return int(file.read())


def _existing(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if os.path.exists(f"/proc/{name}"))


def _resolv_conf_in_run(path: str) -> str | None:
    """Return the path below / when the name servers are listed in a file in /run (systemd-resolved), else None."""
    return path.lstrip("/") if path.startswith("/run/") and os.path.isfile(path) else None


def template_sequence(root: Root, host: Host) -> list[Preparation]:
    """Return what prepares the mount namespace that every instance on ``root`` starts from a copy of."""
    system = [preparation.BindHost("/sys", "sys")] if root.is_image else []
    devices = preparation.BindHost(root.devfs, "dev", devices=True) if root.devfs else preparation.MountDev()
    # The /run of an image is its own; the host's has the sockets of its services.
    hidden = [] if root.is_image else [preparation.HideRun(host.resolv_conf)]
    return [
        preparation.PrivatePropagation(),
        preparation.OpenRoot(root.directory, root.image, root.identity, host.mount_point),
        *(preparation.FindDirectory(path) for path in ("dev", "proc", "sys")),
        *system,
        *(preparation.DropMounts(path) for path in ("dev", "proc", "sys/fs/cgroup", "tmp")),
        devices,
        *hidden,
        preparation.Pivot(),
    ]


def sequence(
    spec: LaunchSpec, host: Host, namespace: int, sources: Mapping[int, int], *, kept: bool = False
) -> list[Operation]:
    """Return what the child has to do between clone3(2) and the application's first instruction.

    ``namespace`` is a descriptor of the mount namespace that ``template_sequence`` prepared or, with ``kept``, of that
    in which an earlier life of the instance ended; ``sources`` maps each descriptor that the application shall have
    to one of ours.
    """
    ours = _until_exec(spec, host)
    plan = descriptors.plan(sources, ours)
    moved = dict(zip(ours, plan.kept, strict=True))
    # The output file takes the place of what was given for 1 and 2.
    files = tuple((n, _identity(source)) for n, source in sources.items() if n not in (1, 2) or not spec.output)
    mounts = _kept_mounts(spec, host, namespace) if kept else _new_mounts(spec, host, namespace, sources)
    image = spec.root != "/" or spec.image != ""
    # Others may have put a program there: who made the image, or an earlier life.
    strict = image or bool(spec.volumes) or kept
    check = [operations.CheckExecutable(spec.executable, spec.uid, strict, image)] if spec.init or strict else []
    exposed = [operations.ExposeToOomKiller()] if host.oom_score_adj else []
    limit = [operations.LimitFiles(spec.fileno_limit)]
    privileged = spec.fileno_limit > host.fileno_limit
    return [
        operations.ResetSignals(host.ignored_signals, unblock=not spec.init),
        *exposed,
        *mounts,
        operations.SetHostname(spec.hostname),
        operations.NewSession(),
        operations.PlaceDescriptors(plan),
        *([operations.TakeTerminal()] if spec.terminal else []),
        *(limit if privileged else []),
        operations.ChangeDirectory(spec.workdir),
        operations.DropRoot(spec.uid, spec.gid, host.last_capability),
        *([operations.DieWithParent(moved[host.parent])] if spec.die_with_parent else []),
        *([operations.OpenOutput(spec.output)] if spec.output else []),
        *check,
        # Behind all that opens files: the numbers below a low limit may be those of the supervisor's descriptors.
        *([] if privileged else limit),
        operations.RestrictSystemCalls(host.seccomp),
        operations.VerifyDescriptors(files),
        operations.Verify(spec.uid, spec.gid, host.last_capability),
        operations.Execute(spec.executable, spec.arguments, environment(spec), moved.get(host.init), spec.terminal),
    ]


def _until_exec(spec: LaunchSpec, host: Host) -> tuple[int, ...]:
    """Return the descriptors of ours that are needed until execve(2)."""
    return (*((host.init,) if spec.init else ()), *((host.parent,) if spec.die_with_parent else ()))


def free_numbers(spec: LaunchSpec, host: Host, namespace: int, sources: Mapping[int, int]) -> range:
    """Return the descriptor numbers above all that the set-up needs where it may hold things of its own."""
    ours = _until_exec(spec, host)
    first = max(*sources, *sources.values(), *ours, namespace) + 1
    return range(first, first + max(volumes.held(spec), len(sources) + len(ours)))


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _new_mounts(spec: LaunchSpec, host: Host, namespace: int, sources: Mapping[int, int]) -> list[Operation]:
    """Return what enters a copy of the prepared mount namespace and mounts what no two instances share.

    Volumes come before our own mounts, so that they cover none of these.
    """
    if not spec.volumes and not spec.etc:
        return [
            operations.EnterTemplate(spec.root, spec.image, namespace),
            *_kernel_mounts(spec, host),
            _PTS,
            *_REPLACEABLE,
        ]
    replaceable = [mount for mount in _REPLACEABLE if not _is_replaced(mount.path, spec.volumes)]
    reserved = ("/proc", "/sys", "/dev/pts", *(mount.path for mount in replaceable))
    steps = volumes.steps(spec, free_numbers(spec, host, namespace, sources).start, reserved)
    return [
        *steps.before,
        operations.EnterTemplate(spec.root, spec.image, namespace),
        *steps.behind,
        *_kernel_mounts(spec, host),
        _PTS,
        *replaceable,
    ]


def _is_replaced(path: str, found: tuple[Volume, ...]) -> bool:
    """Whether there is a volume on ``path``, or below it where ours would cover it."""
    return any(f"{volume.target}/".startswith(f"{path}/") for volume in found)


def _kept_mounts(spec: LaunchSpec, host: Host, namespace: int) -> list[Operation]:
    """Return what enters a copy of an earlier life's mounts: its processes and its cgroup are gone, the rest stays.

    A copy, so that a start that fails leaves the mounts as they were.
    """
    return [
        operations.EnterTemplate(spec.root, spec.image, namespace),
        operations.Unmount("/proc"),
        operations.Unmount("/sys/fs/cgroup"),
        *_kernel_mounts(spec, host),
    ]


def _kernel_mounts(spec: LaunchSpec, host: Host) -> list[Operation]:
    """Return what shows the instance's own namespaces; the cgroup is where programs look for their limits."""
    restrict = [operations.RestrictProc(host.proc_read_only, host.proc_hidden)] if spec.uid == 0 else []
    return [_PROC, *restrict, _CGROUP]


_PROC = operations.Mount("proc", "/proc")
_CGROUP = operations.Mount(
    "cgroup2",
    "/sys/fs/cgroup",
    flags=kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC,
)
_PTS = operations.Mount(
    "devpts",
    "/dev/pts",
    "newinstance,ptmxmode=0666,mode=0620",
    kernel.MS_NOSUID | kernel.MS_NOEXEC,  # without nodev: they are devices
)
# What a volume on the same directory takes the place of.
_REPLACEABLE = (
    operations.Mount("tmpfs", "/dev/shm", "mode=1777,size=64m"),
    operations.Mount(
        "tmpfs",
        "/tmp",
        f"mode=1777,size={TMP_SIZE}",
        kernel.MS_NOSUID | kernel.MS_NODEV,  # without noexec: language runtimes unpack code into /tmp
    ),
)
