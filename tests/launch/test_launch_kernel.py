"""Every call that the kernel refuses is seen as refused: a missed failure of setresuid(2) would leave root."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

import pytest

from lithos_runner.launch import kernel, seccomp
from lithos_runner.launch.kernel import Call

NO_FD = 9999
AWAY = b"/nonexistent/file"
FILTER = seccomp.assemble()
BUFFER = ctypes.create_string_buffer(kernel.SIZEOF_STAT)

# What a leader of a process group without privileges is refused, and why.
REFUSED: dict[str, tuple[Call, int]] = {
    "mount": (kernel.mount(b"tmpfs", b"/", b"tmpfs", 0), errno.EPERM),
    "umount2": (kernel.umount2(b"/", 0), errno.EPERM),
    "pivot_root": (kernel.pivot_root(b".", b"."), errno.EPERM),
    "open_tree": (kernel.open_tree(kernel.AT_FDCWD, AWAY, 0), errno.ENOENT),
    "move_mount": (kernel.move_mount(NO_FD, kernel.AT_FDCWD, b"/", 0), errno.EPERM),
    "mount_setattr": (kernel.mount_setattr(kernel.AT_FDCWD, b"/", 0, kernel.MOUNT_ATTR_RDONLY), errno.EPERM),
    "openat2": (kernel.openat2(kernel.AT_FDCWD, AWAY, os.O_RDONLY, 0), errno.ENOENT),
    "setns": (kernel.setns(NO_FD, 0), errno.EBADF),
    "unshare": (kernel.unshare(kernel.CLONE_NEWNS), errno.EPERM),
    "sethostname": (kernel.sethostname(b"x"), errno.EPERM),
    "setsid": (kernel.setsid(), errno.EPERM),
    "chdir": (kernel.chdir(AWAY), errno.ENOENT),
    "getcwd": (Call(kernel._getcwd, (kernel._NUMBER["getcwd"], ctypes.addressof(BUFFER), 0)), errno.ERANGE),
    "setrlimit": (kernel.setrlimit(kernel.RLIMIT_NOFILE, 2**40), errno.EPERM),
    "signal": (kernel.default_signal(9), errno.EINVAL),
    "faccessat2": (kernel.faccessat2(b"/root", os.R_OK | os.W_OK), errno.EACCES),
    "dup2": (kernel.dup2(NO_FD, 3), errno.EBADF),
    "dup3": (kernel.dup3(3, 3, 0), errno.EINVAL),
    "fcntl": (kernel.get_descriptor_flags(NO_FD), errno.EBADF),
    "ioctl": (kernel.ioctl(NO_FD, kernel.TIOCSCTTY, 0), errno.EBADF),
    "fstat": (kernel.fstat(NO_FD, BUFFER), errno.EBADF),
    "close_range": (kernel.close_range(4, 3, 0), errno.EINVAL),
    "pidfd_getfd": (kernel.pidfd_getfd(NO_FD, 0), errno.EBADF),
    "connect": (kernel.connect(NO_FD, bytes(16)), errno.EBADF),
    "poll": (Call(kernel._poll, (None, 1, 0)), errno.EFAULT),
    "bpf": (kernel.bpf(12, BUFFER), errno.EPERM),  # BPF_MAP_GET_NEXT_ID, for root only
    "prctl": (kernel.prctl(kernel.PR_CAPBSET_DROP, 0), errno.EPERM),
    "setgroups": (kernel.setgroups_none(), errno.EPERM),
    "setresgid": (kernel.setresgid(0), errno.EPERM),
    "setresuid": (kernel.setresuid(0), errno.EPERM),
    "capset": (Call(kernel._capset, (ctypes.byref(kernel.cap_user_header()), None)), errno.EINVAL),
    "seccomp": (kernel.seccomp_filter(FILTER), errno.EACCES),
    "execveat": (kernel.execveat(kernel.AT_FDCWD, AWAY, (b"x",), (), 0), errno.ENOENT),
}


@pytest.mark.parametrize(("call", "number"), REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_an_error(call: Call, number: int, forked: Callable[[Callable[[], object]], None]) -> None:
    def attempt() -> None:
        os.setpgid(0, 0)
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            kernel.perform(call)
        assert caught.value.errno == number

    forked(attempt)


def test_every_call_is_tried_above() -> None:
    """Those that cannot fail apart: getsid(0), umask, sigprocmask, getgroups(0), getres[ug]id, capget and memcmp."""
    never = {"_getsid", "_umask", "_sigprocmask", "_getgroups", "_getresgid", "_getresuid", "_capget", "_memcmp"}
    functions = {name for name, value in vars(kernel).items() if isinstance(value, kernel._libc._FuncPtr)}
    tried = {id(call.function) for call, _ in REFUSED.values()}
    assert {name for name in functions if id(getattr(kernel, name)) not in tried} == never | {"_clone3"}


def test_a_refused_clone_is_an_error(forked: Callable[[Callable[[], object]], None]) -> None:
    def attempt() -> None:
        os.setresuid(65534, 65534, 65534)
        with pytest.raises(PermissionError):
            kernel.clone3(kernel.CLONE_NEWNS, None)

    forked(attempt)


def test_another_result_than_expected_is_an_error() -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        kernel.perform(kernel.getsid().expect(-5, "session"))
    assert caught.value.filename == "session"
