from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest
from fake_host import BUSY, LITHOS, Host, lithos, state_of

if TYPE_CHECKING:
    from collections.abc import Iterator

ENTER, LEAVE = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"


class Terminal:
    """`lithos top` in a terminal of its own."""

    def __init__(self, columns: int = 120, lines: int = 24) -> None:
        self.control, self.side = os.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.side)
        self.process = subprocess.Popen(
            [*LITHOS, "top"],
            stdin=self.side,
            stdout=self.side,
            stderr=self.side,
            env={**os.environ, "TERM": "xterm", "PYTHONUTF8": "1"},
            start_new_session=True,
            # The terminal becomes the controlling one, which sends the signals.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self.output = b""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.control, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def wait_for(self, pattern: bytes) -> bytes:
        """Read until the pattern has come since the last call, and return all up to there."""
        until = time.monotonic() + 20
        while not (found := re.search(pattern, self.output, re.DOTALL)):
            ready, _, _ = select.select([self.control], [], [], until - time.monotonic())
            assert ready, f"no {pattern!r} in {self.output!r}"
            self.output += os.read(self.control, 65536)
        seen, self.output = self.output[: found.end()], self.output[found.end() :]
        return seen

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.control)
        os.close(self.side)


@pytest.fixture
def terminal(host: Host) -> Iterator[Terminal]:
    host.supervisor().tell("write_instance", state_of(host.instance("busy.0", BUSY), init=False))
    made = Terminal()
    yield made
    made.close()


def test_it_draws_again_and_again_with_cpu(terminal: Terminal) -> None:
    assert terminal.wait_for(rb"run/hello.0").startswith(ENTER)
    terminal.wait_for(rb"\d\.\d %.*\x1b\[H.*run/hello\.0.*\d\.\d %")


def test_it_shows_what_changes(terminal: Terminal, host: Host) -> None:
    terminal.wait_for(rb"run/hello\.0")
    supervisor = host.supervisor("other")
    supervisor.tell("write_instance", state_of(None, sandbox="web", process="new", state="failed"))
    terminal.wait_for(rb"web/new\.0.*failed")


@pytest.mark.parametrize(
    ("ending", "code"), [(b"q", 0), (b"\x03", 0), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)]
)
def test_any_way_out_gives_the_terminal_back(terminal: Terminal, ending: bytes | int, code: int) -> None:
    terminal.wait_for(rb"run/hello\.0")
    assert termios.tcgetattr(terminal.side) != terminal.before
    if isinstance(ending, bytes):
        os.write(terminal.control, ending)
    else:
        terminal.process.send_signal(ending)
    terminal.wait_for(re.escape(LEAVE))
    assert terminal.process.wait(10) == code
    assert termios.tcgetattr(terminal.side) == terminal.before


def test_stopped_it_gives_the_terminal_back_meanwhile(terminal: Terminal) -> None:
    terminal.wait_for(rb"run/hello\.0")
    os.write(terminal.control, b"\x1a")
    terminal.wait_for(re.escape(LEAVE))
    os.waitid(os.P_PID, terminal.process.pid, os.WSTOPPED)
    assert termios.tcgetattr(terminal.side) == terminal.before
    terminal.process.send_signal(signal.SIGCONT)
    terminal.wait_for(re.escape(ENTER) + rb".*run/hello\.0")


def test_a_new_size_is_drawn_at_once(terminal: Terminal) -> None:
    terminal.wait_for(rb"PORTS")
    terminal.resize(60, 2)
    drawn = terminal.wait_for(rb"\x1b\[H[^H]*more lines")
    assert b"NAME" not in drawn[drawn.rindex(b"\x1b[H") :]


def test_in_a_pipe_it_prints_one_table(host: Host) -> None:
    host.supervisor().tell("write_instance", state_of(host.instance("busy.0", BUSY), init=False))
    for arguments in ((), ("--once",), ("run/hello",)):
        done = lithos("top", *arguments)
        assert done.returncode == 0
        _, titles, line = done.stdout.splitlines()
        assert titles.split()[3:6] == ["UPTIME", "CPU", "MEMORY"]
        used = re.search(r" ([\d.]+) % ", line)
        assert used is not None
        assert 0 < float(used[1]) <= 110
        assert "\x1b" not in done.stdout


@pytest.mark.usefixtures("host")
def test_nothing_runs() -> None:
    done = lithos("top")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing runs" in done.stderr
