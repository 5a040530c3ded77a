from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from fake_host import LITHOS, Host, lithos

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def log_dir(host: Host, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The logs of a supervisor that runs: two instances, one of them with both streams; and what others left."""
    default = host.root / "default"
    monkeypatch.setenv("LITHOS_LOG_DIR", str(default))
    for name in ("old/job.0.stdout", "run/hello.2.stdout"):
        (default / name).parent.mkdir(parents=True)
        (default / name).write_text("done\n")
    directory = host.supervisor().runtime / "log"
    (directory / "run").mkdir(parents=True)
    (directory / "run" / "hello.0.stdout").write_text("a\nb\n")
    (directory / "run" / "hello.0.stderr").write_text("oops\n")
    (directory / "run" / "hello.1.stdout.1").write_text("older\n")
    (directory / "run" / "hello.1.stdout").write_text("newer")
    return directory


def test_two_supervisors_may_share_a_directory(host: Host, log_dir: Path) -> None:
    host.supervisor("other", log_dir=str(log_dir))
    assert lithos("logs", "run/hello.1").stdout == "older\nnewer\n"


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("run/hello.1",), "older\nnewer\n"),
        (("old/job",), "done\n"),
        (("run/hello.1", "-n", "1"), "newer\n"),
        (("run/hello.0", "--stderr"), "oops\n"),
        (("run/hello.0",), "run/hello.0 stdout | a\nrun/hello.0 stdout | b\nrun/hello.0 stderr | oops\n"),
        (("run/hello", "--stdout", "-n1"), "run/hello.0 | b\nrun/hello.1 | newer\n"),
    ],
)
@pytest.mark.usefixtures("log_dir")
def test_what_is_there(arguments: tuple[str, ...], shown: str) -> None:
    done = lithos("logs", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_a_supervisor_has_ended_and_its_logs_are_where_they_were(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITHOS_LOG_DIR", str(host.root / "none"))
    master = host.root / "master.yaml"
    (host.root / "sandboxes").mkdir()
    (host.root / "stderr/shop").mkdir(parents=True)
    (host.root / "stderr/shop/web.0.stderr").write_text("no database\n")
    master.write_text(f"stdio-log-dir: {host.root}/stderr\n")
    done = lithos("logs", "shop/web", "-C", str(master))
    assert (done.returncode, done.stdout, done.stderr) == (0, "no database\n", "")
    master.write_text("stdio-log-dri: /\n")
    done = lithos("logs", "shop/web", "-C", str(master))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"lithos: cannot use {master}:1:1: unknown key 'stdio-log-dri', did you mean 'stdio-log-dir'?\n"
    )


def test_nothing_runs(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITHOS_LOG_DIR", str(host.root / "none"))
    done = lithos("logs", "run/hello")
    assert done.returncode == 1
    assert done.stderr == "lithos: no logs: there is no run/hello: there are no instances at all\n"


@pytest.mark.usefixtures("log_dir")
def test_an_unknown_name() -> None:
    done = lithos("logs", "run/helo.1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("lithos: no logs: there is no run/helo.1, did you mean run/hello.1? (there are: ")
    assert "run/hello.0, run/hello.1" in done.stderr


@pytest.mark.usefixtures("log_dir")
def test_lines_are_a_number() -> None:
    assert lithos("logs", "run/hello.0", "-n", "-1").returncode == 2


def test_bytes_pass_through_a_pipe_and_not_to_a_terminal(log_dir: Path) -> None:
    (log_dir / "run" / "hello.1.stdout").write_bytes(b"\x1b]0;title\x07\xff\n")
    command = [*LITHOS, "logs", "run/hello.1", "-n1"]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == b"\x1b]0;title\x07\xff\n"
    control, terminal = os.openpty()
    subprocess.run(command, stdout=terminal, check=True, env={**os.environ, "PYTHONUTF8": "1"})
    assert os.read(control, 100) == "^[]0;title^G\ufffd\r\n".encode()
    os.close(control)
    os.close(terminal)


def test_a_reader_that_leaves_is_no_error(log_dir: Path) -> None:
    (log_dir / "run" / "hello.1.stdout").write_text("x\n" * 500_000)
    command = subprocess.Popen([*LITHOS, "logs", "run/hello.1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None
    assert command.stderr is not None
    command.stdout.readline()
    command.stdout.close()
    assert (command.stderr.read(), command.wait()) == (b"", 0)
    command.stderr.close()


def test_following_over_a_rotation_and_a_new_instance(log_dir: Path) -> None:
    path = log_dir / "run" / "hello.1.stdout"
    path.write_text("".join(f"{number}\n" for number in range(20)))
    command = subprocess.Popen([*LITHOS, "logs", "-f", "run/hello", "--stdout"], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    lines = iter(command.stdout.readline, "")
    begin = [next(lines) for _ in range(12)]
    assert begin == ["run/hello.0 | a\n", "run/hello.0 | b\n"] + [f"run/hello.1 | {n}\n" for n in range(10, 20)]
    with path.open("a") as file:
        file.write("before\n")
    path.rename(f"{path}.1")
    path.write_text("after\n")
    assert [next(lines), next(lines)] == ["run/hello.1 | before\n", "run/hello.1 | after\n"]
    (log_dir / "run" / "hello.2.stdout").write_text("I am new\n")
    assert next(lines) == "run/hello.2 | I am new\n"
    command.send_signal(2)
    assert command.wait() == 0
    command.stdout.close()
