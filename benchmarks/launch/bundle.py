"""The OCI bundle for crun: what an instance of ours has, as far as the runtime specification can say it."""

from __future__ import annotations

from lithos_runner.launch import seccomp

_EPERM = 1
# The namespace flags and ioctls of the deny-list's two rules by argument.
_CLONE_NEW = 0x7E020000
_TERMINAL_IOCTLS = (0x5412, 0x541C)


def config(root: str, cgroup: str, memory: int | None) -> dict[str, object]:
    """Return config.json; ``memory`` is the limit in bytes, None where the host has no memory controller.

    See https://github.com/opencontainers/runtime-spec/blob/main/config.md. The masked and read-only paths are those
    of `crun spec`.
    """
    return {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": 65534, "gid": 65534},
            "args": ["/bin/true"],
            "env": ["TERM=dumb"],
            "cwd": "/",
            "capabilities": {kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": root, "readonly": True},
        "hostname": "true",
        "mounts": _mounts(),
        "linux": {
            "cgroupsPath": cgroup,
            "resources": {} if memory is None else {"memory": {"limit": memory, "swap": memory}},
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
            "seccomp": _seccomp(),
            "maskedPaths": [
                *(f"/proc/{name}" for name in ("acpi", "asound", "kcore", "keys", "latency_stats", "timer_list")),
                *("/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"),
            ],
            "readonlyPaths": [f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger")],
        },
    }


def _mounts() -> list[dict[str, object]]:
    closed = ["nosuid", "nodev", "noexec"]
    rows = (
        ("proc", "/proc", closed),
        ("sysfs", "/sys", [*closed, "ro"]),
        ("cgroup", "/sys/fs/cgroup", [*closed, "ro"]),
        ("tmpfs", "/dev", ["nosuid", "noexec", "mode=755", "size=64k"]),
        ("devpts", "/dev/pts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
        ("tmpfs", "/dev/shm", [*closed, "mode=1777", "size=64m"]),
        ("tmpfs", "/tmp", ["nosuid", "nodev", "mode=1777", "size=100m"]),
        ("tmpfs", "/run", [*closed, "mode=755", "size=64k"]),
    )
    return [{"type": kind, "source": kind, "destination": path, "options": options} for kind, path, options in rows]


def _seccomp() -> dict[str, object]:
    refuse = {"action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM}
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": denied(), **refuse},
            *(
                {"names": ["clone"], "args": [_masked(0, 1 << bit, 1 << bit)], **refuse}
                for bit in range(32)
                if _CLONE_NEW >> bit & 1
            ),
            *({"names": ["ioctl"], "args": [_masked(1, 0xFFFFFFFF, value)], **refuse} for value in _TERMINAL_IOCTLS),
        ],
    }


def _masked(index: int, mask: int, value: int) -> dict[str, object]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def denied() -> list[str]:
    """Return the system calls that the deny-list refuses whatever their arguments."""
    return [name for name in seccomp.names() if name.isidentifier()]
