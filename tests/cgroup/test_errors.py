from __future__ import annotations

import errno
import os

import pytest

from cgroup import errors


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOENT, errors.NoSuchFile),
        (errno.ENOENT, FileNotFoundError),
        (errno.EEXIST, errors.GroupExists),
        (errno.EEXIST, FileExistsError),
        (errno.ENODEV, errors.GroupRemoved),
        (errno.EBUSY, errors.Refused),
        (errno.EIO, OSError),
    ],
)
def test_can_be_caught_by_meaning_and_as_what_python_calls_it(code: int, kind: type[Exception]) -> None:
    assert isinstance(errors.refused("open", "/g/memory.max", OSError(code, "")), kind)


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EINVAL, errno.ENOENT, errno.EIO, errno.EROFS])
def test_says_what_was_tried_on_what_and_what_the_kernel_said(code: int) -> None:
    error = errors.refused("write '+memory' to", "/g/cgroup.subtree_control", OSError(code, ""))
    assert str(error).startswith(f"cannot write '+memory' to /g/cgroup.subtree_control: {os.strerror(code)}")
    assert (error.errno, error.filename) == (code, "/g/cgroup.subtree_control")


@pytest.mark.parametrize(
    ("name", "code", "advice"),
    [
        ("cgroup.subtree_control", errno.EBUSY, "move them into a leaf first"),
        ("cgroup.procs", errno.EBUSY, "only they may hold processes"),
        ("memory.max", errno.EBUSY, "end its processes"),
        ("memory.max", errno.ERANGE, "in the range that the kernel documents"),
    ],
)
def test_advises_by_file_and_errno(name: str, code: int, advice: str) -> None:
    assert advice in str(errors.refused("write", f"/g/{name}", OSError(code, "")))


def test_a_limit_that_does_not_hold_names_both_values() -> None:
    error = errors.LimitNotApplied("/g/memory.max", "80M", "max")
    assert str(error).startswith("wrote '80M' to /g/memory.max, but it reads 'max'")
    assert (error.wrote, error.reads) == ("80M", "max")
