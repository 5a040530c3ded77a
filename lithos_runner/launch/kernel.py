"""The floor of the launcher: system calls as values.

Every function carries the name and the argument order of its system call and returns a ``Call``; ``perform`` does
it. A child made by clone3(2) shares all memory with its parent until it writes, and every object that Python touches
is written to: a call that the parent has prepared costs the child a quarter of the copied pages that the same call
costs when the child first has to work out its arguments.

Structures and constants carry their C names. Nothing but ``ctypes`` and ``os`` is needed, because this module is
loaded by the supervisor.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

# asm/unistd.h; calls since Linux 5.1 have the same number on every architecture (asm-generic/unistd.h 424+).
_MACHINE = os.uname().machine
_NUMBERS = {
    "x86_64": {"fstat": 5, "rt_sigaction": 13, "getcwd": 79, "pivot_root": 155, "bpf": 321, "execveat": 322},
    "aarch64": {"fstat": 80, "rt_sigaction": 134, "getcwd": 17, "pivot_root": 41, "bpf": 280, "execveat": 281},
}
_NUMBER = _NUMBERS.get(_MACHINE, dict.fromkeys(_NUMBERS["x86_64"], -1))
ELF_MACHINE = {"x86_64": b"\x3e\0", "aarch64": b"\xb7\0"}.get(_MACHINE, b"")  # e_machine of elf.h
NR_open_tree = 428
NR_move_mount = 429
NR_clone3 = 435
NR_close_range = 436
NR_openat2 = 437
NR_pidfd_getfd = 438
NR_faccessat2 = 439
NR_mount_setattr = 442

AT_EACCESS = 0x200
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
F_GETFD = 1
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
POLLIN = 1
PR_CAPBSET_DROP = 24
PR_CAPBSET_READ = 23
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_GET_NO_NEW_PRIVS = 39
PR_GET_SECCOMP = 21
PR_SET_NO_NEW_PRIVS = 38
PR_SET_PDEATHSIG = 1
PR_SET_SECCOMP = 22
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_NO_XDEV = 0x01
RLIMIT_NOFILE = 7
SECCOMP_MODE_FILTER = 2
KERNEL_SIGSET_SIZE = 8
SIG_SETMASK = 2
SIZEOF_SIGACTION = 32  # the kernel's, at least
SIZEOF_SIGSET_T = 128
SIZEOF_STAT = 256  # at least; both architectures begin it with st_dev and st_ino
TIOCSCTTY = 0x540E
X_OK = 1


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


class pollfd(ctypes.Structure):  # noqa: N801
    """``struct pollfd`` of poll.h."""

    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


class sock_fprog(ctypes.Structure):  # noqa: N801
    """``struct sock_fprog`` of linux/filter.h."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    __hash__ = object.__hash__  # structures have none, but the operation that holds this one is a key


_int, _unsigned, _long, _string, _pointer = (
    ctypes.c_int,
    ctypes.c_ulong,
    ctypes.c_long,
    ctypes.c_char_p,
    ctypes.c_void_p,
)
# PyDLL keeps the GIL: clone3 returns twice, and the child must not wait for a lock whose owner it left behind.
_libc = ctypes.PyDLL(None, use_errno=True)


def _function(name: str, *arguments: type) -> Callable[..., int]:
    """Return libc's ``name`` with its own argument types; every use of ``syscall`` gets a function of its own."""
    function: Any = _libc[name]
    function.argtypes = arguments
    # The upper half of the register is undefined behind an int: -1 read as a long may be 4294967295, a success.
    function.restype = _long if name == "syscall" else _int
    return function  # type: ignore[no-any-return]


class Call(NamedTuple):
    """A system call that has not been made yet.

    It has failed when its result is negative or, where one is ``expected``, another one. ``what`` is the object that
    error messages name. The pointers among the arguments keep alive what they point to.
    """

    function: Callable[..., int]
    arguments: tuple[object, ...]
    what: str = ""
    expected: int | None = None

    def expect(self, result: int, what: str) -> Call:
        """Return the call with the result that it must have, for assertions."""
        return self._replace(expected=result, what=what)


def perform(call: Call) -> int:
    """Make the call; raises OSError with the object's name."""
    result = call.function(*call.arguments)
    if result < 0 or (call.expected is not None and result != call.expected):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), call.what)
    return result


def action(function: Callable[..., object], *arguments: object, what: str = "") -> Call:
    """Return what takes more than one system call as a ``Call``; it fails with the OSError that ``function`` raises.

    Python code in the child copies pages, see above: for what few instances have, and what must look before it acts.
    """
    return Call(_answer, (function, *arguments), what)


def _answer(function: Callable[..., object], *arguments: object) -> int:
    try:
        function(*arguments)
    except OSError as error:
        ctypes.set_errno(error.errno or errno.EIO)
        return -1
    return 0


_clone3 = _function("syscall", _long, _pointer, _unsigned)
# Made once: what clone3() made for itself, the child would have to free, which copies pages.
_pidfd = ctypes.c_int(-1)
_arguments = clone_args(pidfd=ctypes.addressof(_pidfd), exit_signal=signal.SIGCHLD)
_CLONE3 = (NR_clone3, ctypes.addressof(_arguments), ctypes.sizeof(_arguments))
_IN_CHILD = (0, -1)


def clone3(flags: int, cgroup: int | None) -> tuple[int, int]:
    """Create a child, inside the cgroup held by the directory descriptor ``cgroup``; see clone(2).

    Returns ``(pid, pidfd)`` in the parent and ``(0, -1)`` in the child, which goes on in the same frame; unlike the
    others this call is made at once. ``CLONE_CLEAR_SIGHAND`` resets handlers but leaves ignored signals ignored. The
    caller must be single-threaded, since libc's fork handlers do not run. Raises OSError.
    """
    _arguments.flags = flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | (0 if cgroup is None else CLONE_INTO_CGROUP)
    _arguments.cgroup = cgroup or 0
    pid = _clone3(*_CLONE3)
    if pid == 0:
        return _IN_CHILD
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "clone3")
    return pid, _pidfd.value


# Mounts.

_mount = _function("mount", _string, _string, _string, _unsigned, _string)
_umount2 = _function("umount2", _string, _int)
_pivot_root = _function("syscall", _long, _string, _string)
_open_tree = _function("syscall", _long, _int, _string, _unsigned)
_move_mount = _function("syscall", _long, _int, _string, _int, _string, _unsigned)
_mount_setattr = _function("syscall", _long, _int, _string, _unsigned, _pointer, _unsigned)
_openat2 = _function("syscall", _long, _int, _string, _pointer, _unsigned)


def mount(source: bytes | None, target: bytes, filesystem: bytes | None, flags: int, data: bytes | None = None) -> Call:
    """Attach a file system or change a mount; see mount(2)."""
    return Call(_mount, (source, target, filesystem, flags, data), os.fsdecode(target))


def umount2(target: bytes, flags: int) -> Call:
    """Detach a mount; see umount(2)."""
    return Call(_umount2, (target, flags), os.fsdecode(target))


def pivot_root(new_root: bytes, put_old: bytes) -> Call:
    """Change the root mount of this mount namespace; see pivot_root(2)."""
    return Call(_pivot_root, (_NUMBER["pivot_root"], new_root, put_old), os.fsdecode(new_root))


def open_tree(directory: int, path: bytes, flags: int) -> Call:
    """Open a mount, or with ``OPEN_TREE_CLONE`` a detached copy of it; see open_tree(2)."""
    return Call(_open_tree, (NR_open_tree, directory, path, flags | OPEN_TREE_CLOEXEC), os.fsdecode(path))


def move_mount(source: int, target_directory: int, target: bytes, flags: int) -> Call:
    """Attach the mount held by the descriptor ``source``; see move_mount(2)."""
    arguments = (NR_move_mount, source, b"", target_directory, target, flags)
    return Call(_move_mount, arguments, os.fsdecode(target))


def mount_setattr(directory: int, path: bytes, flags: int, attr_set: int, propagation: int = 0) -> Call:
    """Set attributes of a mount, of the whole tree with ``AT_RECURSIVE``; see mount_setattr(2)."""
    attributes = mount_attr(attr_set=attr_set, propagation=propagation)
    arguments = (NR_mount_setattr, directory, path, flags, ctypes.byref(attributes), ctypes.sizeof(attributes))
    return Call(_mount_setattr, arguments, os.fsdecode(path))


def openat2(directory: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> Call:
    """Open ``path`` below ``directory`` with restricted path resolution; see openat2(2)."""
    how = open_how(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve)
    return Call(_openat2, (NR_openat2, directory, path, ctypes.byref(how), ctypes.sizeof(how)), os.fsdecode(path))


# Namespaces, session, limits.

_setns = _function("setns", _int, _int)
_unshare = _function("unshare", _int)
_sethostname = _function("sethostname", _string, _unsigned)
_setsid = _function("setsid")
_getsid = _function("getsid", _int)
_umask = _function("umask", ctypes.c_uint)
_chdir = _function("chdir", _string)
_getcwd = _function("syscall", _long, _pointer, _unsigned)
_setrlimit = _function("setrlimit", _int, _pointer)
_rt_sigaction = _function("syscall", _long, _int, _pointer, _pointer, _unsigned)
_sigprocmask = _function("sigprocmask", _int, _pointer, _pointer)
_faccessat2 = _function("syscall", _long, _int, _string, _int, _int)


def setns(descriptor: int, kind: int) -> Call:
    """Enter the namespace held by ``descriptor``; see setns(2). Python has it since 3.12."""
    return Call(_setns, (descriptor, kind))


def unshare(flags: int) -> Call:
    """Leave shared namespaces for copies of them; see unshare(2). Python has it since 3.12."""
    return Call(_unshare, (flags,))


def sethostname(name: bytes) -> Call:
    """Set the host name of the UTS namespace; see sethostname(2)."""
    return Call(_sethostname, (name, len(name)))


def setsid() -> Call:
    """Become the leader of a new session; see setsid(2)."""
    return Call(_setsid, ())


def umask(mask: int) -> Call:
    """Set which permissions new files do not get; see umask(2)."""
    return Call(_umask, (mask,))


def getsid() -> Call:
    """Return this process's session; see getsid(2)."""
    return Call(_getsid, (0,))


def chdir(path: bytes) -> Call:
    """Change the working directory; see chdir(2)."""
    return Call(_chdir, (path,), os.fsdecode(path))


def getcwd(buffer: ctypes.Array[ctypes.c_char]) -> Call:
    """Write the working directory into ``buffer``; it begins with "(unreachable)" outside the root; see getcwd(3)."""
    return Call(_getcwd, (_NUMBER["getcwd"], ctypes.addressof(buffer), ctypes.sizeof(buffer)))


def setrlimit(resource: int, limit: int) -> Call:
    """Set a soft and hard resource limit; see getrlimit(2)."""
    return Call(_setrlimit, (resource, ctypes.byref((ctypes.c_ulong * 2)(limit, limit))))


_DEFAULT_ACTION = ctypes.create_string_buffer(SIZEOF_SIGACTION)  # all zero: SIG_DFL, no flags, an empty mask


def default_signal(number: int) -> Call:
    """Give a signal its default action; see sigaction(2).

    Not through libc, which refuses its own signals 32 and 33: make(1) starts programs with both of them ignored.
    """
    arguments = (_NUMBER["rt_sigaction"], number, ctypes.addressof(_DEFAULT_ACTION), None, KERNEL_SIGSET_SIZE)
    return Call(_rt_sigaction, arguments)


def unblock_signals() -> Call:
    """Block no signal; see sigprocmask(2)."""
    empty = ctypes.create_string_buffer(SIZEOF_SIGSET_T)
    return Call(_sigprocmask, (SIG_SETMASK, ctypes.byref(empty), None))


def faccessat2(path: bytes, mode: int) -> Call:
    """Check ``path`` as the effective user; see access(2)."""
    return Call(_faccessat2, (NR_faccessat2, AT_FDCWD, path, mode, AT_EACCESS), os.fsdecode(path))


# Descriptors.

_dup2 = _function("dup2", _int, _int)
_dup3 = _function("dup3", _int, _int, _int)
_fcntl = _function("fcntl", _int, _int)
_ioctl = _function("ioctl", _int, _unsigned, _int)
_fstat = _function("syscall", _long, _int, _pointer)
_close_range = _function("syscall", _long, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_pidfd_getfd = _function("syscall", _long, _int, _int, ctypes.c_uint)
_connect = _function("connect", _int, _string, ctypes.c_uint)
_poll = _function("poll", _pointer, _unsigned, _int)


def dup2(source: int, target: int) -> Call:
    """Make ``target`` another name of ``source``, without close-on-exec; they must differ; see dup(2)."""
    return Call(_dup2, (source, target))


def dup3(source: int, target: int, flags: int) -> Call:
    """Make ``target`` another name of ``source``; see dup(2)."""
    return Call(_dup3, (source, target, flags))


def get_descriptor_flags(descriptor: int) -> Call:
    """Return FD_CLOEXEC (1) or 0; see fcntl(2)."""
    return Call(_fcntl, (descriptor, F_GETFD))


def ioctl(descriptor: int, request: int, argument: int) -> Call:
    """Operate on a device; see ioctl(2)."""
    return Call(_ioctl, (descriptor, request, argument))


def fstat(descriptor: int, buffer: ctypes.Array[ctypes.c_char]) -> Call:
    """Write ``struct stat`` into ``buffer`` of ``SIZEOF_STAT`` bytes; see stat(2)."""
    return Call(_fstat, (_NUMBER["fstat"], descriptor, ctypes.addressof(buffer)))


def close_range(first: int, last: int, flags: int) -> Call:
    """Close descriptors, or mark them close-on-exec with ``CLOSE_RANGE_CLOEXEC``; see close_range(2)."""
    return Call(_close_range, (NR_close_range, first, last, flags))


def pidfd_getfd(pidfd: int, target: int) -> Call:
    """Duplicate the descriptor ``target`` of another process, close-on-exec; see pidfd_getfd(2)."""
    return Call(_pidfd_getfd, (NR_pidfd_getfd, pidfd, target, 0), f"descriptor {target}")


def connect(descriptor: int, address: bytes) -> Call:
    """Connect, or with a ``struct sockaddr`` of AF_UNSPEC disconnect, which Python cannot say; see connect(2)."""
    return Call(_connect, (descriptor, address, len(address)))


def poll(descriptor: int, events: int) -> Call:
    """Return 1 when one of ``events`` has come to ``descriptor``, else 0, at once; see poll(2)."""
    return Call(_poll, (ctypes.byref(pollfd(fd=descriptor, events=events)), 1, 0))


# Steering of connections.

_bpf = _function("syscall", _long, _int, _pointer, ctypes.c_uint)


def bpf(command: int, attributes: ctypes.Array[ctypes.c_char], what: str = "") -> Call:
    """Operate on an eBPF map or program; ``attributes`` begin as ``union bpf_attr`` does; see bpf(2)."""
    return Call(_bpf, (_NUMBER["bpf"], command, ctypes.byref(attributes), len(attributes)), what)


# Users and privileges.

_prctl = _function("prctl", _int, _unsigned, _unsigned, _unsigned, _unsigned)
_setgroups = _function("setgroups", _unsigned, _pointer)
_getgroups = _function("getgroups", _int, _pointer)
_setresgid = _function("setresgid", ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_setresuid = _function("setresuid", ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)
_getresgid = _function("getresgid", _pointer, _pointer, _pointer)
_getresuid = _function("getresuid", _pointer, _pointer, _pointer)
_capset = _function("capset", _pointer, _pointer)
_capget = _function("capget", _pointer, _pointer)

_EMPTY = (cap_user_data * 2)()


def prctl(option: int, argument: int = 0, argument3: int = 0) -> Call:
    """Operate on this process; see prctl(2)."""
    return Call(_prctl, (option, argument, argument3, 0, 0))


def setgroups_none() -> Call:
    """Have no supplementary groups; see setgroups(2)."""
    return Call(_setgroups, (0, None))


def getgroups_count() -> Call:
    """Return the number of supplementary groups; see getgroups(2)."""
    return Call(_getgroups, (0, None))


def setresgid(gid: int) -> Call:
    """Set the real, effective and saved group; see setresuid(2)."""
    return Call(_setresgid, (gid, gid, gid))


def setresuid(uid: int) -> Call:
    """Set the real, effective and saved user; see setresuid(2)."""
    return Call(_setresuid, (uid, uid, uid))


def getresgid(buffer: ctypes.Array[ctypes.c_uint]) -> Call:
    """Write the real, effective and saved group into ``buffer``; see getresuid(2)."""
    return Call(_getresgid, _addresses(buffer))


def getresuid(buffer: ctypes.Array[ctypes.c_uint]) -> Call:
    """Write the real, effective and saved user into ``buffer``; see getresuid(2)."""
    return Call(_getresuid, _addresses(buffer))


def _addresses(buffer: ctypes.Array[ctypes.c_uint]) -> tuple[object, ...]:
    return tuple(ctypes.byref(buffer, index * ctypes.sizeof(ctypes.c_uint)) for index in range(3))


def capset_empty() -> Call:
    """Empty the effective, permitted and inheritable capability sets; see capset(2)."""
    return Call(_capset, (_capability_header(), ctypes.byref(_EMPTY)))


def capget(buffer: ctypes.Array[cap_user_data]) -> Call:
    """Write the three sets, two words each, into ``buffer``; see capget(2)."""
    return Call(_capget, (_capability_header(), ctypes.byref(buffer)))


def _capability_header() -> object:
    return ctypes.byref(cap_user_header(version=LINUX_CAPABILITY_VERSION_3))


def seccomp_filter(program: sock_fprog) -> Call:
    """Install a classic BPF filter for this process; no_new_privs must be set; see seccomp(2)."""
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program))


# The end: compare, execute.

_memcmp = _function("memcmp", _pointer, _pointer, _unsigned)
_execveat = _function("syscall", _long, _int, _string, _pointer, _pointer, _int)


def memcmp(left: object, right: object, size: int) -> Call:
    """Compare memory that earlier calls have written; 0 when it is equal."""
    return Call(_memcmp, (left, right, size))


def execveat(directory: int, path: bytes, argv: tuple[bytes, ...], envp: tuple[bytes, ...], flags: int) -> Call:
    """Replace this process with a program; see execveat(2). It returns only when it has failed."""
    arguments = (_NUMBER["execveat"], directory, path, _string_array(argv), _string_array(envp), flags)
    return Call(_execveat, arguments, os.fsdecode(path))


def _string_array(values: tuple[bytes, ...]) -> object:
    """Build the NULL-terminated ``char *[]`` that execve(2) takes."""
    return ctypes.byref((ctypes.c_char_p * (len(values) + 1))(*values, None))


def supported() -> bool:
    """Whether this machine's architecture is one of those whose system call numbers are known here."""
    return _MACHINE in _NUMBERS
