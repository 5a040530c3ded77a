"""What leaves the supervisor unasked: sentences on stderr and states for systemd."""

from __future__ import annotations

import os
import select
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from lithos_runner.supervisor.messages import say
from lithos_runner.supervisor.notify import notify, take_address

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def stderr_in_a_pipe() -> Iterator[int]:
    """Make descriptor 2 a pipe and yield its other end; no fixture, as pytest sets descriptor 2 before a test."""
    kept = os.dup(2)
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield reader
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(reader)


def test_one_sentence_is_one_line() -> None:
    with stderr_in_a_pipe() as stderr:
        say("a: größer")
        assert os.read(stderr, 4096).decode() == "lithos: a: größer\n"


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\0", r"\x00"),
        ("\udcff", r"\udcff"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202e", r"\u202e"),
    ],
    ids=ascii,
)
def test_what_an_application_says_does_not_reach_a_terminal_as_it_is(quoted: str, shown: str) -> None:
    with stderr_in_a_pipe() as stderr:
        say(quoted)
        assert os.read(stderr, 4096).decode() == f"lithos: {shown}\n"


def test_a_sentence_has_an_end() -> None:
    with stderr_in_a_pipe() as stderr:
        say("x" * 100_000)
        text = os.read(stderr, 1 << 20)
        assert (len(text), text[-2:]) == (select.PIPE_BUF, b"x\n")


def test_nobody_reads() -> None:
    """A pipe that is full would block for ever whoever writes."""
    with stderr_in_a_pipe() as stderr:
        for _ in range(1000):
            say("y" * 200)
        assert len(os.read(stderr, 1 << 20)) > 50_000
        say("there is room again")
        assert b"room again" in os.read(stderr, 1 << 20)


def test_everybody_is_gone() -> None:
    with stderr_in_a_pipe() as stderr:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, stderr)  # closed with the pipe's
        os.close(null)
        say("to nobody")


def test_stderr_is_closed() -> None:
    kept = os.dup(2)
    os.close(2)
    try:
        say("into the void")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(2)
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told(tmp_path: Path, kind: str) -> None:
    name = str(tmp_path / "notify") if kind == "path" else f"@lithos-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(name.replace("@", "\0"))
        notify(name, "READY=1")
        assert systemd.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    notify(None, "READY=1")
    notify("", "READY=1")
    notify(str(tmp_path / "nobody"), "READY=1")
    (tmp_path / "file").touch()
    notify(str(tmp_path / "file"), "READY=1")


VARIABLES = {
    "NOTIFY_SOCKET": "/run/systemd/notify",
    "LISTEN_PID": "1",
    "LISTEN_FDS": "1",
    "LISTEN_FDNAMES": "a",
    "LISTEN_PIDFDID": "1",
    "WATCHDOG_PID": "1",
    "WATCHDOG_USEC": "1",
}


def test_its_variables_are_ours_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    assert take_address() == "/run/systemd/notify"
    assert not VARIABLES.keys() & os.environ.keys()
    assert take_address() is None
