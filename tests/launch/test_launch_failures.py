"""What cannot be started says so in one sentence, never runs, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from launch_stage import SHELL, Stage

from lithos_runner.launch.launcher import RootUnusable
from lithos_runner.launch.spec import LaunchSpec

NO_PATH = "give `executable` a path that exists inside the instance"
NOT_INSIDE = "it, its interpreter or (for `init: true`) a C library is missing inside the instance"
NO_FILE = "give `executable` the path of a program"
NO_INTERPRETER = "the interpreter in its first line does not exist inside the instance"
NO_FORMAT = "it is neither a binary for this machine nor a script that begins with #!"
NO_ACCESS = "make it readable and executable and its directories searchable for that user"
NO_LOOP = "neither it nor an interpreter may be reached through /proc or in a circle"


def elf(machine: int) -> bytes:
    """The header of a 64-bit binary; ``machine`` is an EM_… of elf.h."""
    return b"\x7fELF\2\1\1" + bytes(9) + b"\2\0" + machine.to_bytes(2, "little") + bytes(100)


I386, X86_64, AARCH64 = 3, 62, 183
OTHER = AARCH64 if os.uname().machine == "x86_64" else X86_64

TOO_MANY = int(Path("/proc/sys/fs/nr_open").read_text()) + 1

# Content and mode of /program, the kernel's error and the end of the sentence.
PROGRAMS: dict[str, tuple[bytes, int, int, str]] = {
    "not executable": (b"#!/bin/sh\n", 0o644, errno.EACCES, NO_ACCESS),
    "not readable": (b"#!/bin/sh\n", 0o111, errno.EACCES, NO_ACCESS),
    "garbage that a shell would run": (b"echo run by a shell\n", 0o755, errno.ENOEXEC, NO_FORMAT),
    "empty": (b"", 0o755, errno.ENOEXEC, NO_FORMAT),
    "for another machine": (elf(OTHER), 0o755, errno.ENOEXEC, NO_FORMAT),
    "for 32 bits, which seccomp kills": (elf(I386), 0o755, errno.ENOEXEC, NO_FORMAT),
    "a script without its interpreter": (b"#! /bin/none -x\n", 0o755, errno.ELIBBAD, NO_INTERPRETER),
    "a script that names a directory": (b"#!/bin\n", 0o755, errno.EISDIR, NO_FILE),
    "a script that names itself": (b"#!/program\n", 0o755, errno.ELOOP, NO_LOOP),
    "a script that names nothing": (b"#!\n", 0o755, errno.ELIBBAD, NO_INTERPRETER),
}


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize(("content", "mode", "error", "hint"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_file_that_is_no_program(
    stage: Stage, image: Path, init: bool, content: bytes, mode: int, error: int, hint: str
) -> None:
    (image / "program").write_bytes(content)
    (image / "program").chmod(mode)
    ended = stage.run(LaunchSpec("shop/web.0", "/program", root=str(image), init=init))
    assert ended.failure
    assert ended.failure.errno == error
    assert ended.failure.sentence == (
        f"shop/web.0: cannot execute /program as user 65534: {os.strerror(error)}; {hint}"
    )
    assert (ended.code, ended.stdout) == (127, "")


# The changed fields of a shell's spec, the step and the rest of the sentence.
SPECS: dict[str, tuple[dict[str, object], str]] = {
    "missing, with the init": (
        {"executable": "/none"},
        f"execute /none as user 65534: No such file or directory; {NO_PATH}",
    ),
    "missing, without": (
        {"executable": "/none", "init": False},
        f"execute /none: No such file or directory; {NOT_INSIDE}",
    ),
    "a directory, with the init": ({"executable": "/etc"}, f"execute /etc as user 65534: Is a directory; {NO_FILE}"),
    "a directory, without": (
        {"executable": "/etc", "init": False},
        "execute /etc: Permission denied; make it executable and its directories searchable for that user",
    ),
    "not executable, without": (
        {"executable": "/etc/passwd", "init": False},
        "execute /etc/passwd: Permission denied; make it executable and its directories searchable for that user",
    ),
    "workdir missing": (
        {"workdir": "/none"},
        "enter workdir /none: No such file or directory; give `workdir` a directory that exists inside the instance",
    ),
    "workdir a file": ({"workdir": "/etc/passwd"}, "enter workdir /etc/passwd: Not a directory"),
    "more files than the kernel allows": (
        {"fileno_limit": TOO_MANY},
        f"set fileno-limit {TOO_MANY}: Operation not permitted",
    ),
}


@pytest.mark.parametrize(("changes", "rest"), SPECS.values(), ids=SPECS)
def test_a_spec_that_this_host_cannot_run(stage: Stage, changes: dict[str, object], rest: str) -> None:
    ended = stage.shell("echo it ran", **changes)
    assert ended.failure
    assert ended.failure.sentence == f"test/app.0: cannot {rest}"
    assert (ended.code, ended.stdout) == (127, "")


def test_a_descriptor_above_the_supervisors_own_limit(stage: Stage, listener: socket.socket) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    def launch() -> None:
        with pytest.raises(OSError, match=r"cannot open descriptor \d+ .* raise the supervisor's own limit"):
            stage.run(SHELL, {soft + 1: listener.fileno()})

    _leave_nothing(stage, launch)


@pytest.mark.parametrize("init", [True, False])
def test_a_limit_below_the_supervisors_own_descriptors(stage: Stage, init: bool) -> None:
    """Checking the program needs a descriptor, and all numbers that the application may use are taken."""
    with contextlib.ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(open(os.devnull))
        ended = stage.shell("ulimit -n", fileno_limit=16, init=init)
    assert (ended.failure, ended.stdout) == (None, "16\n")


# Which directory is missing, and what then cannot be done.
DIRECTORIES = {
    "sys": "find the directory sys",
    "dev": "find the directory dev",
    "proc": "find the directory proc",
    "tmp": "detach what the host has mounted on tmp",
}


@pytest.mark.parametrize(("directory", "step"), DIRECTORIES.items())
def test_an_image_without_a_directory(stage: Stage, image: Path, directory: str, step: str) -> None:
    (image / directory).rmdir()
    with pytest.raises(RootUnusable) as caught:
        stage.shell("echo it ran", root=str(image))
    hint = "a root file system must have the directories dev, proc, sys and tmp"
    reason = str(caught.value).removeprefix(f"root {image}: cannot {step}: No such file or directory")
    assert reason in (f"; {hint}", f" ({directory}); {hint}")


def test_an_image_without_a_c_library(stage: Stage, image: Path) -> None:
    for loader in (*image.glob("lib*/ld-*"), *image.glob("lib/*/ld-*")):
        loader.unlink()
    ended = stage.shell("echo it ran", root=str(image), init=False)
    assert ended.failure
    assert ended.failure.sentence == f"test/app.0: cannot execute /bin/sh: No such file or directory; {NOT_INSIDE}"


def test_a_root_that_is_not_there(stage: Stage) -> None:
    with pytest.raises(RootUnusable, match="root /none: cannot make a read-only root from /none: No such file"):
        stage.shell("", root="/none")


def _leave_nothing(stage: Stage, launch: Callable[[], object]) -> None:
    """Launch 50 times; mounts, descriptors and the cgroup are as before."""
    launch()  # prepares the root, which is kept
    before = _own_mounts(), os.listdir("/proc/self/fd")
    for _ in range(50):
        launch()
    assert (_own_mounts(), os.listdir("/proc/self/fd")) == before
    assert not stage.group.populated
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def _own_mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def test_launches_leave_nothing_behind(stage: Stage) -> None:
    _leave_nothing(stage, lambda: stage.shell("exit 3"))


def test_failed_launches_leave_nothing_behind(stage: Stage) -> None:
    _leave_nothing(stage, lambda: stage.shell("", executable="/none"))


def test_failed_preparations_leave_nothing_behind(stage: Stage, image: Path) -> None:
    (image / "dev").rmdir()

    def launch() -> None:
        with pytest.raises(RootUnusable):
            stage.shell("", root=str(image))

    _leave_nothing(stage, launch)


def test_a_refused_clone_leaves_nothing_behind(stage: Stage, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)  # no cgroup: clone3 says EBADF

    def launch() -> None:
        null = os.open("/dev/null", os.O_RDWR)
        with pytest.raises(OSError, match="Bad file descriptor"):
            stage.launcher.spawn(SHELL, directory, {0: null, 1: null, 2: null})
        os.close(null)

    _leave_nothing(stage, launch)
    os.close(directory)
