"""An instance that dies with the process that has started it; `tests/commands/test_cmd.py` kills one that runs."""

from __future__ import annotations

import os
import subprocess

import pytest
from launch_stage import SHELL, Stage

READ_BACK = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"


@pytest.mark.parametrize("uid", [65534, 0])
@pytest.mark.parametrize("tied", [True, False])
def test_the_kernel_knows_of_it_when_the_program_runs(stage: Stage, python: str, tied: bool, uid: int) -> None:
    """Behind the change of user and execve(2); PR_GET_PDEATHSIG is 2."""
    arguments = ("-I", "-S", "-c", READ_BACK)
    spec = SHELL._replace(executable=python, arguments=arguments, uid=uid, init=False, die_with_parent=tied)
    ended = stage.run(spec)
    assert (ended.failure, ended.stderr, ended.stdout) == (None, "", "9\n" if tied else "0\n")


@pytest.mark.parametrize("init", [True, False])
def test_without_a_parent_nothing_is_executed(stage: Stage, monkeypatch: pytest.MonkeyPatch, init: bool) -> None:
    """One that was killed between the clone and the moment from which the kernel tells."""
    with subprocess.Popen(["/bin/true"], stdin=subprocess.PIPE) as parent:
        pidfd = os.pidfd_open(parent.pid)
    monkeypatch.setattr(stage.launcher, "host", stage.launcher.host._replace(parent=pidfd))
    ended = stage.shell("echo it ran", init=init, die_with_parent=True)
    os.close(pidfd)
    assert ended.stdout == ""
    assert ended.failure
    assert ended.failure.sentence == (
        "test/app.0: cannot tie the instance to the process that starts it: refused, as this is not as promised: "
        "the process that starts it lives"
    )
