"""What leaves the supervisor unasked: sentences on stderr and states for systemd."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from lithos_runner.config import Master, Sandbox
from lithos_runner.supervisor import messages
from lithos_runner.supervisor.messages import ERROR, INFO, WARN, Level, Log, Logs, say
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


# Logs


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where logs may be written during a test."""
    yield tmp_path / "log"
    messages.log_to(None)


def files(directory: Path, level: str = "warn", **sandboxes: str) -> Logs:
    """The supervisor's log, and one of each sandbox with its own level."""
    logs = {name: Log(str(directory / f"{name}.log"), level) for name, level in sandboxes.items()}
    return Logs(None, Log(str(directory / "master.log"), level), logs)


def logged(directory: Path, name: str) -> list[str]:
    """The lines of a log, without their times."""
    lines = (directory / f"{name}.log").read_text().splitlines()
    stamp = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ")
    assert all(map(stamp.match, lines))
    return [stamp.sub("", line) for line in lines]


def test_without_logs_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with stderr_in_a_pipe():
        say("shop/web.0: hello", ERROR)
    assert os.listdir(tmp_path) == []


def test_a_log_takes_what_is_important_enough(directory: Path) -> None:
    messages.log_to(files(directory, "warn", shop="info"))
    with stderr_in_a_pipe() as stderr:
        for level in (ERROR, WARN, INFO):
            say(f"of {level}", level)
            say(f"shop/web.0: of {level}", level)
        say("shop/web.0: of no level")
        assert os.read(stderr, 4096).count(b"\n") == 7
    assert logged(directory, "master") == [
        "ERROR of error",
        "ERROR shop/web.0: of error",
        "WARN of warn",
        "WARN shop/web.0: of warn",
    ]
    assert logged(directory, "shop") == [
        "ERROR shop/web.0: of error",
        "WARN shop/web.0: of warn",
        "INFO shop/web.0: of info",
        "INFO shop/web.0: of no level",
    ]


@pytest.mark.parametrize(
    ("sentence", "names"),
    [
        ("shop/web.0 exited", ["own", "shop"]),
        ("shop/web: 2 instances", ["own", "shop"]),
        ("shop-2/web.0 exited", ["own"]),
        ("shop is a sandbox", ["own"]),
        ("cannot open /shop/web", ["own"]),
        ("/shop/web", ["own"]),
    ],
)
@pytest.mark.parametrize("facility", [None, "daemon"])
def test_whose_sentence_it_is(sentence: str, names: list[str], facility: str | None) -> None:
    logs = Logs(facility, Log("own", "trace"), {"shop": Log("shop", "info")})

    assert [log.name for log in messages.takers(logs, sentence, INFO)] == (names[-1:] if facility else names)


@pytest.mark.parametrize(
    ("taken", "levels"),
    [("error", [ERROR]), ("warn", [ERROR, WARN]), ("info", [ERROR, WARN, INFO]), ("trace", [ERROR, WARN, INFO])],
)
def test_levels(taken: str, levels: list[Level]) -> None:
    logs = Logs(None, Log("own", taken), {})

    assert [level for level in (ERROR, WARN, INFO) if messages.takers(logs, "x", level)] == levels


def test_what_an_application_says_makes_no_line_of_its_own(directory: Path) -> None:
    messages.log_to(files(directory))
    with stderr_in_a_pipe():
        say("last line: \n2024-05-01T12:00:00Z ERROR forged\x1b[2J", ERROR)
    assert logged(directory, "master") == [r"ERROR last line: \n2024-05-01T12:00:00Z ERROR forged\x1b[2J"]


def test_a_file_that_is_renamed_is_left_alone(directory: Path) -> None:
    messages.log_to(files(directory))
    with stderr_in_a_pipe():
        say("before", ERROR)
        (directory / "master.log").rename(directory / "master.log.1")
        say("after", ERROR)
    assert logged(directory, "master") == ["ERROR after"]
    assert "before" in (directory / "master.log.1").read_text()


def test_a_file_that_cannot_be_written_is_a_sentence_once(directory: Path) -> None:
    path = directory / "master.log"
    path.mkdir(parents=True)
    messages.log_to(files(directory, shop="info"))
    with stderr_in_a_pipe() as stderr:
        say("shop/web.0: one", ERROR)
        say("two", ERROR)
        path.rmdir()
        say("three", ERROR)
        path.unlink()
        path.symlink_to("target")
        say("four", ERROR)
        said = os.read(stderr, 4096).decode().splitlines()
    assert [line.removeprefix("lithos: ") for line in said] == [
        "shop/web.0: one",
        f"cannot write to {path}: Is a directory; what belongs there is on stderr only",
        "two",
        "three",
        "four",
        f"cannot write to {path}: Too many levels of symbolic links; what belongs there is on stderr only",
    ]
    assert logged(directory, "shop") == ["ERROR shop/web.0: one"]
    assert sorted(os.listdir(directory)) == ["master.log", "shop.log"]


@pytest.mark.parametrize("writer", ["nobody", "slow"])
def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(directory: Path, writer: str) -> None:
    directory.mkdir()
    os.mkfifo(directory / "master.log")
    reader = os.open(directory / "master.log", os.O_RDONLY | os.O_NONBLOCK) if writer == "slow" else None
    messages.log_to(files(directory))
    with stderr_in_a_pipe():
        for _ in range(1000):
            say("x" * 200, ERROR)
    if reader is not None:
        assert len(os.read(reader, 1 << 20)) > 50_000
        os.close(reader)


# A file system of one page, into which two of these lines fit.
FULL = """
import os, sys
from lithos_runner.supervisor import messages
log = os.path.join(sys.argv[1], "master.log")
messages.log_to(messages.Logs(None, messages.Log(log, "info"), {}))
for sentence in ("x" * 2000, "y" * 2000, "y" * 2000):
    messages.say(sentence)
with open(log) as file:
    print(len(file.read()))
os.truncate(log, 0)
messages.say("room")
with open(log) as file:
    print(file.read().split()[1:])
"""


def test_a_full_disk_leaves_no_part_of_a_line(directory: Path) -> None:
    directory.mkdir()
    mount = 'mount -t tmpfs -o size=4k none "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(directory), sys.executable, FULL]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.splitlines() == [str(2 * (len("2024-05-01T12:00:00Z INFO \n") + 2000)), "['INFO', 'room']"]
    assert done.stderr.count("No space left on device; what belongs there is on stderr only") == 1


@contextmanager
def syslog(monkeypatch: pytest.MonkeyPatch, path: Path) -> Iterator[socket.socket]:
    """A daemon in the place of the host's."""
    monkeypatch.setattr(messages, "SYSLOG", str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as daemon:
        daemon.bind(str(path))
        yield daemon


@pytest.mark.parametrize(
    ("facility", "level", "priority"),
    [("daemon", WARN, 3 * 8 + 4), ("kern", ERROR, 3), ("ftp", INFO, 11 * 8 + 6), ("local7", INFO, 23 * 8 + 6)],
)
def test_syslog(directory: Path, monkeypatch: pytest.MonkeyPatch, facility: str, level: Level, priority: int) -> None:
    messages.log_to(Logs(facility, Log("lithos", "info"), {"shop": Log("lithos-shop", "info")}))
    with syslog(monkeypatch, directory.parent / "log") as daemon, stderr_in_a_pipe():
        say("a: größer", level)
        say("shop/web.0: exited", level)
        first, second = daemon.recv(4096).decode(), daemon.recv(4096).decode()
    stamp = r"[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d"
    assert re.fullmatch(rf"<{priority}>{stamp} lithos\[{os.getpid()}\]: a: größer", first)
    assert re.fullmatch(rf"<{priority}>{stamp} lithos-shop\[{os.getpid()}\]: shop/web.0: exited", second)


def test_the_facilities_have_the_numbers_of_syslog() -> None:
    import syslog

    names = [name for name in (*messages._FACILITIES, *(f"local{n}" for n in range(8))) if name != "ftp"]
    expected = [getattr(syslog, f"LOG_{name.upper()}") | syslog.LOG_WARNING for name in names]
    assert [messages._priority(name, WARN) for name in names] == expected


def test_a_syslog_daemon_that_hangs_stops_nobody(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    messages.log_to(Logs("user", Log("lithos", "info"), {}))
    with syslog(monkeypatch, directory.parent / "log"), stderr_in_a_pipe() as stderr:
        for _ in range(2000):  # more than net.unix.max_dgram_qlen
            say("x")
        said = os.read(stderr, 1 << 20).decode()
    assert said.count("as lithos: Resource temporarily unavailable; what belongs there is on stderr only") == 1


def test_no_syslog_daemon_is_a_sentence_once(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "SYSLOG", str(directory / "none"))
    messages.log_to(Logs("user", Log("lithos", "info"), {}))
    with stderr_in_a_pipe() as stderr:
        say("x")
        say("y")
        assert os.read(stderr, 4096).decode().count("No such file or directory") == 1


class TestLogsOf:
    def test_files(self) -> None:
        master = Master(default_log_dir="/var/log/l", log_file="top.log", log_level="error")
        sandboxes = {"shop": Sandbox(), "blog": Sandbox(log_file="sub/b.log", log_level="info")}

        assert messages.logs_of(master, sandboxes) == Logs(
            None,
            Log("/var/log/l/top.log", "error"),
            {"shop": Log("/var/log/l/shop.log", "error"), "blog": Log("/var/log/l/sub/b.log", "info")},
        )

    def test_defaults(self) -> None:
        assert messages.logs_of(Master(), {}).own == Log("/var/log/lithos/master.log", "warn")

    def test_syslog(self) -> None:
        master = Master(syslog_facility="local3", syslog_app_name="app")

        assert messages.logs_of(master, {"shop": Sandbox(log_level="info")}) == Logs(
            "local3", Log("app", "warn"), {"shop": Log("app-shop", "info")}
        )

    def test_they_survive_json(self) -> None:
        logs = messages.logs_of(Master(), {"shop": Sandbox()})

        assert messages.decode(json.loads(json.dumps(logs))) == logs


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
