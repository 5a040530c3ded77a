"""The tiny init as PID 1: signals, exit codes, orphans."""

from __future__ import annotations

import fcntl
import os
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from launch_stage import SHELL, Stage

from lithos_runner.launch import init
from lithos_runner.launch.spec import LaunchSpec

SLEEPER = SHELL._replace(executable="/bin/sleep", arguments=("100",))


def test_a_kill_during_the_set_up_is_no_failure_of_a_step(stage: Stage) -> None:
    running = stage.start(SLEEPER)
    running.kill(signal.SIGKILL)
    ended = running.end()
    assert (ended.failure, ended.code, ended.signal) == (None, None, signal.SIGKILL)


@pytest.mark.parametrize("with_init", [True, False])
@pytest.mark.parametrize("code", [0, 1, 2, 42, 126, 127, 128, 129, 200, 255])
def test_the_exit_code_is_the_applications(stage: Stage, code: int, with_init: bool) -> None:
    ended = stage.shell(f"exit {code}", init=with_init)
    assert (ended.failure, ended.code, ended.signal) == (None, code, None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGRTMAX])
def test_a_signal_that_kills_the_application_is_told(stage: Stage, number: int) -> None:
    ended = stage.shell(f"kill -{int(number)} $$")
    assert (ended.failure, ended.code) == (None, 128 + number)
    assert init.exit_status(ended.code or 0) == (None, number)


@settings(deadline=None)
@given(st.integers(0, 255))
def test_exit_status_is_a_code_or_a_signal(code: int) -> None:
    assert init.exit_status(code) == ((None, code - 128) if 129 <= code <= 192 else (code, None))


WAITING = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.write(3, b"ready")
print(signal.sigwait(signal.valid_signals()).value)
"""


@pytest.mark.parametrize("with_init", [True, False])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGQUIT])
def test_signals_reach_the_application(stage: Stage, number: int, python: str, with_init: bool) -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    running = stage.start(LaunchSpec("test/app.0", python, ("-ISc", WAITING), init=with_init), {3: write})
    os.close(write)
    assert os.read(read, 5) == b"ready"
    running.kill(number)
    assert running.end().stdout == f"{int(number)}\n"
    os.close(read)


ORPHANS = """
import os, select
read, write = os.pipe()
for _ in range(5):
    if os.fork() == 0:
        grandchild = os.fork()
        if grandchild == 0:
            os.write(write, b"%d " % os.getpid())
        os._exit(0)
    os.wait()
pids = b""
while len(pids.split()) < 5:
    pids += os.read(read, 100)
def gone(pid):
    return not os.path.exists(f"/proc/{int(pid)}")
while not all(map(gone, pids.split())):
    os.sched_yield()
print("reaped")
"""


def test_orphans_are_reaped(stage: Stage, python: str) -> None:
    ended = stage.run(LaunchSpec("test/app.0", python, ("-ISc", ORPHANS)))
    assert (ended.stdout, ended.code) == ("reaped\n", 0)


def test_no_process_outlives_the_application(stage: Stage) -> None:
    ended = stage.shell("sleep 100 & exit 0")
    assert ended.code == 0
    assert not stage.group.populated


def test_the_init_is_sealed(stage: Stage) -> None:
    memory = stage.launcher.host.init
    assert fcntl.fcntl(memory, fcntl.F_GET_SEALS) == (
        fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    )
    with pytest.raises(PermissionError):
        os.pwrite(memory, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(memory, 0)
    with open(init.find(), "rb") as file:
        assert os.pread(memory, os.fstat(memory).st_size, 0) == file.read()


def test_the_init_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(init, "NAME", "no-such-init")
    with pytest.raises(FileNotFoundError, match="pip install no-such-init, or set `init: false`"):
        init.find()
