"""Which operations start an instance, and in what order: a pure function of the spec and of facts about the host.

The order follows crun's ``container_init_setup`` (signals, mounts, pivot, host name, descriptors, directory, groups
and user, seccomp last); docs/design.md gives the reasons.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from typing import NamedTuple

from . import descriptors, init, kernel, operations, preparation, seccomp
from .operations import Operation
from .preparation import Preparation
from .spec import LaunchSpec, environment

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


def survey(mount_point: str) -> Host:
    """Look at the host; ``mount_point`` is an empty directory where every instance's root is attached.

    Raises OSError when the tiny init is not installed or /proc is not mounted.
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


def template_sequence(root: str, host: Host) -> list[Preparation]:
    """Return what prepares the mount namespace that every instance on ``root`` starts from a copy of."""
    system = [] if root == "/" else [preparation.BindHost("/sys", "sys")]
    return [
        preparation.PrivatePropagation(),
        preparation.OpenRoot(root, host.mount_point),
        *system,
        *(preparation.DropMounts(path) for path in ("dev", "proc", "sys/fs/cgroup", "tmp")),
        preparation.MountDev(),
        preparation.HideRun(host.resolv_conf if root == "/" else None),
        preparation.Pivot(),
    ]


def sequence(spec: LaunchSpec, host: Host, template: int, sources: Mapping[int, int]) -> list[Operation]:
    """Return what the child has to do between clone3(2) and the application's first instruction.

    ``template`` is a descriptor of the mount namespace that ``template_sequence`` prepared; ``sources`` maps each
    descriptor that the application shall have to one of ours.
    """
    plan = descriptors.plan(sources, (host.init,) if spec.init else ())
    files = tuple((target, _identity(source)) for target, source in sources.items())
    image = spec.root != "/"
    check = [operations.CheckExecutable(spec.executable, spec.uid, image)] if spec.init or image else []
    exposed = [operations.ExposeToOomKiller()] if host.oom_score_adj else []
    limit = [operations.LimitFiles(spec.fileno_limit)]
    privileged = spec.fileno_limit > host.fileno_limit
    return [
        operations.ResetSignals(host.ignored_signals, unblock=not spec.init),
        *exposed,
        operations.EnterTemplate(spec.root, template),
        *_own_mounts(spec.uid, host),
        operations.SetHostname(spec.hostname),
        operations.NewSession(),
        operations.PlaceDescriptors(plan),
        *(limit if privileged else []),
        operations.ChangeDirectory(spec.workdir),
        operations.DropRoot(spec.uid, spec.gid, host.last_capability),
        *check,
        # Behind all that opens files: the numbers below a low limit may be those of the supervisor's descriptors.
        *([] if privileged else limit),
        operations.RestrictSystemCalls(host.seccomp),
        operations.VerifyDescriptors(files),
        operations.Verify(spec.uid, spec.gid, host.last_capability),
        operations.Execute(spec.executable, spec.arguments, environment(spec), next(iter(plan.kept), None)),
    ]


def _identity(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino


def _own_mounts(uid: int, host: Host) -> list[Operation]:
    """Return the mounts that no two instances share; the cgroup is mounted where programs look for their limits."""
    restrict = [operations.RestrictProc(host.proc_read_only, host.proc_hidden)] if uid == 0 else []
    return [
        operations.Mount("proc", "/proc"),
        *restrict,
        operations.Mount("cgroup2", "/sys/fs/cgroup", flags=_READ_ONLY),
        operations.Mount("devpts", "/dev/pts", "newinstance,ptmxmode=0666,mode=0620", _TERMINALS),
        operations.Mount("tmpfs", "/dev/shm", "mode=1777,size=64m"),
        operations.Mount("tmpfs", "/tmp", f"mode=1777,size={TMP_SIZE}", _PROGRAMS),
    ]


_READ_ONLY = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_TERMINALS = kernel.MS_NOSUID | kernel.MS_NOEXEC  # without nodev: they are devices
_PROGRAMS = kernel.MS_NOSUID | kernel.MS_NODEV  # without noexec: language runtimes unpack code into /tmp
