"""The floor of the launcher: system calls that Python has no wrapper for.

Every function carries the name and the argument order of its system call, structures and constants carry
their C names. Only ``ctypes`` and ``os`` are needed, because this module is loaded by the supervisor and runs
in the child between ``clone3(2)`` and ``execve(2)``.

Errors are ``OSError`` with the object's name as ``filename``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# asm/unistd.h; calls since Linux 5.1 have the same number on every architecture (asm-generic/unistd.h 424+).
_MACHINE = os.uname().machine
_NUMBERS = {
    "x86_64": {"pivot_root": 155, "execveat": 322},
    "aarch64": {"pivot_root": 41, "execveat": 281},
}
NR_pivot_root = _NUMBERS.get(_MACHINE, {}).get("pivot_root", -1)
NR_execveat = _NUMBERS.get(_MACHINE, {}).get("execveat", -1)
NR_open_tree = 428
NR_move_mount = 429
NR_clone3 = 435
NR_close_range = 436
NR_openat2 = 437
NR_mount_setattr = 442

AT_EMPTY_PATH = 0x1000
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNS = 0x00020000
CLONE_NEWPID = 0x20000000
CLONE_NEWUTS = 0x04000000
CLONE_PIDFD = 0x1000
CLOSE_RANGE_CLOEXEC = 4
LINUX_CAPABILITY_VERSION_3 = 0x20080522
MNT_DETACH = 2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_RDONLY = 0x1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MS_BIND = 0x1000
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_NOSUID = 0x2
MS_PRIVATE = 0x40000
MS_RDONLY = 0x1
MS_REC = 0x4000
MS_REMOUNT = 0x20
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
OPEN_TREE_CLONE = 1
PR_CAPBSET_DROP = 24
PR_CAPBSET_READ = 23
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_GET_NO_NEW_PRIVS = 39
PR_GET_SECCOMP = 21
PR_SET_NO_NEW_PRIVS = 38
PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
RESOLVE_IN_ROOT = 0x10
RESOLVE_NO_MAGICLINKS = 0x02
SECCOMP_MODE_FILTER = 2


class clone_args(ctypes.Structure):  # noqa: N801
    """``struct clone_args`` of linux/sched.h, version 2 (88 bytes, since Linux 5.7)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in ("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls")
    ] + [(name, ctypes.c_uint64) for name in ("set_tid", "set_tid_size", "cgroup")]


class mount_attr(ctypes.Structure):  # noqa: N801
    """``struct mount_attr`` of linux/mount.h, version 0 (32 bytes)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


class open_how(ctypes.Structure):  # noqa: N801
    """``struct open_how`` of linux/openat2.h."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


class cap_user_header(ctypes.Structure):  # noqa: N801
    """``struct __user_cap_header_struct`` of linux/capability.h."""

    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class cap_user_data(ctypes.Structure):  # noqa: N801
    """``struct __user_cap_data_struct`` of linux/capability.h; version 3 takes two of them."""

    _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]


class sock_fprog(ctypes.Structure):  # noqa: N801
    """``struct sock_fprog`` of linux/filter.h."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


# PyDLL keeps the GIL: clone3 returns twice, and the child must not wait for a lock whose owner it left behind.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
_syscall = _libc.syscall


def _checked(result: int, name: str | bytes | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return result


def clone3(flags: int, cgroup: int | None) -> tuple[int, int]:
    """Create a child, inside the cgroup held by the directory descriptor ``cgroup``; see clone(2).

    Returns ``(pid, pidfd)`` in the parent and ``(0, -1)`` in the child, which goes on in the same frame.
    ``CLONE_CLEAR_SIGHAND`` resets handlers but leaves ignored signals ignored. The caller must be
    single-threaded, since libc's fork handlers do not run.
    """
    pidfd = ctypes.c_int(-1)
    arguments = clone_args(
        flags=flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | (0 if cgroup is None else CLONE_INTO_CGROUP),
        pidfd=ctypes.addressof(pidfd),
        exit_signal=signal.SIGCHLD,
        cgroup=cgroup or 0,
    )
    pid = _checked(_syscall(NR_clone3, ctypes.byref(arguments), ctypes.sizeof(arguments)), "clone3")
    return pid, pidfd.value


def mount(source: bytes | None, target: bytes, filesystem: bytes | None, flags: int, data: bytes | None = None) -> None:
    """Attach a file system or change a mount; see mount(2)."""
    _checked(_libc.mount(source, target, filesystem, flags, data), target)


def umount2(target: bytes, flags: int) -> None:
    """Detach a mount; see umount(2)."""
    _checked(_libc.umount2(target, flags), target)


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """Change the root mount of this mount namespace; see pivot_root(2)."""
    _checked(_syscall(NR_pivot_root, new_root, put_old), new_root)


def open_tree(directory: int, path: bytes, flags: int) -> int:
    """Open a mount, or with ``OPEN_TREE_CLONE`` a detached copy of it; see open_tree(2)."""
    return _checked(_syscall(NR_open_tree, directory, path, flags | OPEN_TREE_CLOEXEC), path)


def move_mount(source: int, target_directory: int, target: bytes, flags: int) -> None:
    """Attach the mount held by the descriptor ``source``; see move_mount(2)."""
    _checked(_syscall(NR_move_mount, source, b"", target_directory, target, flags), target)


def mount_setattr(directory: int, path: bytes, flags: int, attr_set: int) -> None:
    """Set attributes of a mount, of the whole tree with ``AT_RECURSIVE``; see mount_setattr(2)."""
    attributes = mount_attr(attr_set=attr_set)
    _checked(
        _syscall(NR_mount_setattr, directory, path, flags, ctypes.byref(attributes), ctypes.sizeof(attributes)),
        path or "mount_setattr",
    )


def setns(descriptor: int, kind: int) -> None:
    """Enter the namespace held by ``descriptor``; see setns(2). Python has it since 3.12."""
    _checked(_libc.setns(descriptor, kind), "setns")


def unshare(flags: int) -> None:
    """Leave shared namespaces for copies of them; see unshare(2). Python has it since 3.12."""
    _checked(_libc.unshare(flags), "unshare")


def openat2(directory: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """Open ``path`` below ``directory`` with restricted path resolution; see openat2(2)."""
    how = open_how(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    return _checked(_syscall(NR_openat2, directory, path, ctypes.byref(how), ctypes.sizeof(how)), path)


def close_range(first: int, last: int, flags: int) -> None:
    """Close descriptors, or mark them close-on-exec with ``CLOSE_RANGE_CLOEXEC``; see close_range(2)."""
    _checked(_syscall(NR_close_range, ctypes.c_uint(first), ctypes.c_uint(last), flags))


def execveat(directory: int, path: bytes, argv: ctypes.Array[ctypes.c_char_p], envp: object, flags: int) -> None:
    """Replace this process with the program held by a descriptor; see execveat(2). Returns only by raising."""
    _checked(_syscall(NR_execveat, directory, path, argv, envp, flags), path)


def string_array(values: tuple[bytes, ...]) -> ctypes.Array[ctypes.c_char_p]:
    """Build the NULL-terminated ``char *[]`` that execve(2) takes; made before the clone, used after it."""
    return (ctypes.c_char_p * (len(values) + 1))(*values, None)


def prctl(option: int, argument: int = 0, argument3: int = 0) -> int:
    """Operate on this process; see prctl(2)."""
    return _checked(_libc.prctl(option, argument, argument3, 0, 0), "prctl")


def drop_bounding_set(last: int) -> None:
    """Drop the capabilities 0 to ``last`` from the bounding set; see capabilities(7)."""
    drop = _libc.prctl
    for capability in range(last + 1):
        if drop(PR_CAPBSET_DROP, capability, 0, 0, 0):
            _checked(-1, f"capability {capability}")


def bounding_set_empty(last: int) -> bool:
    """Whether none of the capabilities 0 to ``last`` is in the bounding set."""
    read = _libc.prctl
    return not any(read(PR_CAPBSET_READ, capability, 0, 0, 0) for capability in range(last + 1))


def capset_empty() -> None:
    """Empty the effective, permitted and inheritable capability sets; see capset(2)."""
    header = cap_user_header(version=LINUX_CAPABILITY_VERSION_3)
    _checked(_libc.capset(ctypes.byref(header), (cap_user_data * 2)()), "capset")


def capget() -> tuple[int, int, int]:
    """Return the (effective, permitted, inheritable) sets as bit masks; see capget(2)."""
    header = cap_user_header(version=LINUX_CAPABILITY_VERSION_3)
    data = (cap_user_data * 2)()
    _checked(_libc.capget(ctypes.byref(header), data), "capget")
    low, high = data
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def set_seccomp(program: ctypes.Array[ctypes.c_char], instructions: int) -> None:
    """Install a classic BPF filter for this process; no_new_privs must be set; see seccomp(2)."""
    filter_program = sock_fprog(len=instructions, filter=ctypes.addressof(program))
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(filter_program))


def supported() -> bool:
    """Whether this machine's architecture is one of those whose system call numbers are known here."""
    return sys.platform == "linux" and _MACHINE in _NUMBERS
