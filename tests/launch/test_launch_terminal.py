"""An instance with a terminal of its own, and none with a terminal of somebody else."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from launch_stage import PATIENCE, SHELL, Running, Stage


class Pair(NamedTuple):
    """A new pseudoterminal: the user's side and the instance's."""

    user: int
    instance: int

    def read_until(self, text: str) -> str:
        """What the instance writes, up to ``text``."""
        waiting = select.poll()
        waiting.register(self.user, select.POLLIN)
        found = ""
        while text not in found:
            assert waiting.poll(PATIENCE), f"only {found!r} has come"
            found += os.read(self.user, 4096).decode()
        return found


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair(*os.openpty())
    yield made
    for descriptor in made:
        os.close(descriptor)


def start(stage: Stage, pair: Pair, script: str, *, terminal: bool = True, init: bool = True) -> Running:
    spec = SHELL._replace(arguments=("-c", script), terminal=terminal, init=init)
    return stage.start(spec, dict.fromkeys(range(3), pair.instance))


@pytest.mark.parametrize("init", [True, False])
def test_the_terminal_controls_the_session(stage: Stage, pair: Pair, init: bool) -> None:
    running = start(stage, pair, "echo through > /dev/tty; read line; echo got $line", init=init)
    pair.read_until("through\r\n")
    os.write(pair.user, b"this\n")
    assert pair.read_until("got this\r\n")
    assert running.end().code == 0


@pytest.mark.parametrize("init", [True, False])
def test_control_c_interrupts_the_application_once(stage: Stage, pair: Pair, init: bool) -> None:
    """From the terminal alone: an init in the same session would be interrupted, too, and hand that on."""
    script = "trap 'echo interrupted' INT; echo ready; while :; do read line && break; done; echo got $line"
    running = start(stage, pair, script, init=init)
    pair.read_until("ready\r\n")
    os.write(pair.user, b"\x03")
    seen = pair.read_until("interrupted\r\n")
    os.write(pair.user, b"this\n")
    seen += pair.read_until("got this\r\n")
    assert seen.count("interrupted") == 1
    assert running.end().code == 0


@pytest.mark.parametrize("init", [True, False])
def test_without_asking_a_terminal_is_only_a_file(stage: Stage, pair: Pair, init: bool) -> None:
    """CVE-2017-5226: whose terminal controls a session can be pushed input into by it."""
    ended = start(stage, pair, ": > /dev/tty || exit 3", terminal=False, init=init)
    assert ended.end().code == 2
    assert "No such device or address" in pair.read_until("address")


def test_the_terminal_of_another_session_is_refused(stage: Stage, pair: Pair) -> None:
    """The user's own, say: shared with the instance it would be the way back out."""
    ready, told = os.pipe()
    gate, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(end)
        os.setsid()
        os.close(os.open(os.ttyname(pair.instance), os.O_RDWR))  # the first one that a session leader opens is its own
        os.write(told, b"x")
        os.read(gate, 1)
        os._exit(0)
    assert os.read(ready, 1)
    ended = start(stage, pair, "echo it ran").end()
    os.close(end)
    os.waitpid(pid, 0)
    for descriptor in (ready, told, gate):
        os.close(descriptor)
    assert ended.failure
    assert ended.failure.sentence == (
        "test/app.0: cannot take descriptor 0 as the terminal: Operation not permitted; "
        "it controls another session: make a new pseudoterminal"
    )


def test_what_is_no_terminal_is_refused(stage: Stage) -> None:
    ended = stage.shell("echo it ran", terminal=True)
    assert ended.failure
    assert ended.failure.sentence == (
        "test/app.0: cannot take descriptor 0 as the terminal: Inappropriate ioctl for device; "
        "make a new pseudoterminal"
    )
