"""`lithos run` from the command line to the answer of an application, and every way in which it can be refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "supervisor"))

from real_host import PROBE, PYTHON, SERVER, RealHost, children, listening, real_host, request, until

import cgroup

__all__ = ["real_host"]

HELLO = Path(__file__).parents[2] / "examples" / "hello" / "hello.py"
SLEEP = {"executable": "/bin/sleep", "arguments": ["1000"]}

INSTANCE = (
    *("name", "sandbox", "process", "index", "state", "pid", "uid", "gid", "generation", "started"),
    *("restarts", "last_exit", "cgroup", "ports", "image", "status", "memory"),
)


def test_three_instances_share_a_port(real_host: RealHost) -> None:
    """300 requests of 60 clients at a time, all answered, by all three; and the contract's `lithos ps --json`."""
    port = real_host.port()
    real_host.file("hello.py", HELLO.read_text())
    file = real_host.container(
        executable=PYTHON,
        arguments=[str(real_host.directory / "hello.py")],
        instances=3,
        tcp_ports={"@{port}": {"fd": 3, "host": "127.0.0.1"}},
    )
    before = time.time()
    running = real_host.start(file, "--set", f"port={port}")
    running.until_started()
    running.until_state("ready")

    def page(_number: int) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            return str(answer.read().decode())

    with ThreadPoolExecutor(60) as pool:
        pages = list(pool.map(page, range(300)))
    names = Counter(text.split(",")[0].removeprefix("Hello from ") for text in pages)
    assert set(names) == {f"run/{running.name}.{index}" for index in range(3)}
    assert all(", user 65534, " in text for text in pages)

    (supervisor,) = json.loads(real_host.lithos("ps", "--json").stdout)["supervisors"]
    assert list(supervisor) == ["pid", "config", "started", "faults", "instances"]
    assert (supervisor["pid"], supervisor["config"]) == (running.pid, str(file))
    assert before < supervisor["started"] < time.time()
    assert len(supervisor["instances"]) == 3
    for index, instance in enumerate(supervisor["instances"]):
        assert tuple(instance) == INSTANCE
        assert list(instance["memory"]) == ["current", "peak", "max", "oom_kills", "source"]
        assert instance["memory"]["current"] > 1 << 20
        expected = {
            "name": f"run/{running.name}.{index}",
            "sandbox": "run",
            "process": running.name,
            "index": index,
            "state": "ready",
            "uid": 65534,
            "gid": 65534,
            "generation": 1,
            "restarts": 0,
            "last_exit": None,
            "cgroup": f"lithos.slice/run/{running.name}.{index}",
            "ports": [port],
            "image": "",
            "status": "",
        }
        assert {key: instance[key] for key in expected} == expected
        assert Path(f"/proc/{instance['pid']}/cmdline").read_bytes().split(b"\0")[1].endswith(b"hello.py")
        assert (
            str(instance["pid"]) in (real_host.slice / "run" / f"{running.name}.{index}" / "cgroup.procs").read_text()
        )
    running.stop(signal.SIGINT)


# Options.


def test_no_instances_keep_the_port_open(real_host: RealHost) -> None:
    port = real_host.port()
    running = real_host.start(real_host.program(SERVER, port=port, instances=3), "--instances", "0")
    running.until_said("0 instance(s) listening on 127.0.0.1")
    socket.create_connection(("127.0.0.1", port), timeout=60).close()
    assert running.instances() == []
    (supervisor,) = json.loads(real_host.lithos("ps", "--json").stdout)["supervisors"]
    assert supervisor["instances"] == []
    running.stop()


def test_the_command_line_wins_over_the_file(real_host: RealHost) -> None:
    file = real_host.program(PROBE, instances=3, environ={"WORD": "@{word}"})
    name = f"{real_host.name}-other"
    running = real_host.start(file, "--name", name, "--instances", "1", "--set", "word=a=b c")
    running.until_started()
    assert [one["name"] for one in running.instances()] == [f"run/{name}.0"]
    log = real_host.logs / "run" / f"{name}.0.stdout"
    environ = json.loads(until(log.read_text, "the probe has printed"))["environ"]
    assert (environ["WORD"], environ["LITHOS_NAME"]) == ("a=b c", f"run/{name}.0")
    running.stop()


def test_an_image_is_all_that_an_application_sees(real_host: RealHost) -> None:
    image = real_host.directory / "image"
    for directory in ("bin", "dev", "proc", "run", "sys", "tmp"):
        (image / directory).mkdir(parents=True)
    (image / "marker").write_text("inside the image\n")
    for program in ("/usr/bin/tail", "/usr/bin/ls"):
        shutil.copy(program, image / "bin")
        # NAME => PATH (ADDRESS), and the loader's own line without the arrow; see ldd(1)
        lines = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.split()
        for library in (word for word in lines if word.startswith("/")):
            (image / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, image / library.lstrip("/"))
    file = real_host.container(executable="/bin/tail", arguments=["-f", "/marker"])
    running = real_host.start(file, "--image", str(image))
    running.until_started()
    until(lambda: real_host.log("stdout") == "inside the image\n", "the image's file is read")
    assert os.listdir(f"/proc/{running.app()}/root/bin") == os.listdir(image / "bin")
    running.stop()


# Limits: on every host some controllers are there and some are not.

LIMITS: dict[str, tuple[dict[str, Any], str, str]] = {
    "memory": ({"memory_limit": "64Mi"}, "memory.max", str(64 << 20)),
    "cpu": ({"cpu_shares": 2048}, "cpu.weight", "200"),
    "pids": ({"pids_limit": 50}, "pids.max", "50"),
    "hugetlb": ({"cgroup": {"hugetlb.2MB.max": "2Mi"}}, "hugetlb.2MB.max", str(2 << 20)),
}


@pytest.mark.parametrize("controller", LIMITS)
def test_a_limit_holds_or_is_an_error(real_host: RealHost, controller: str) -> None:
    keys, name, text = LIMITS[controller]
    file = real_host.container(**SLEEP, **keys)
    if controller in cgroup.find().controllers:
        running = real_host.start(file, "--limits", "enforce")
        running.until_started()
        assert (real_host.groups()[0] / name).read_text().strip() == text
        running.stop()
    else:
        done = real_host.lithos("run", str(file))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert f"has no {controller} controller because " in done.stderr
        assert done.stderr.endswith("; --limits available goes on without it\n")


@pytest.mark.parametrize("mode", ["available", "off"])
def test_what_is_not_enforced_is_said_aloud(real_host: RealHost, mode: str) -> None:
    keys: dict[str, Any] = {}
    for more, _, _ in LIMITS.values():
        keys |= more
    running = real_host.start(real_host.container(**SLEEP, **keys), "--limits", mode)
    running.until_started()
    there = cgroup.find().controllers if mode == "available" else frozenset()
    missing = sorted(LIMITS.keys() - there)
    said = [line for line in running.said if "not enforced" in line]
    assert said == ([f"lithos: limits are not enforced for: {', '.join(missing)} (--limits {mode})"] if missing else [])
    for controller, (_, name, text) in LIMITS.items():
        file = real_host.groups()[0] / name
        assert (file.exists() and file.read_text().strip() == text) is (controller in there)
    running.stop()


# Refusals: one sentence each, and nothing is left.

UNUSABLE: dict[str, tuple[dict[str, Any], str, str]] = {
    "missing": (
        {"executable": "/bin/none"},
        "cannot execute /bin/none as user 65534: No such file or directory",
        "give `executable` a path that exists inside the instance",
    ),
    "not-executable": (
        {"executable": "/etc/passwd"},
        "cannot execute /etc/passwd as user 65534: Permission denied",
        "make it readable and executable and its directories searchable for that user",
    ),
    "directory": (
        {"executable": "/bin"},
        "cannot execute /bin as user 65534: Is a directory",
        "give `executable` the path of a program",
    ),
    "workdir": (
        {"executable": "/bin/true", "workdir": "/none"},
        "cannot enter workdir /none: No such file or directory",
        "give `workdir` a directory that exists inside the instance",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_cannot_be_started_is_said_once(real_host: RealHost, case: str) -> None:
    keys, fault, remedy = UNUSABLE[case]
    done = real_host.lithos("run", str(real_host.container(**keys)))
    assert done.returncode == 1
    name = f"run/{real_host.name}"
    assert [line for line in done.stderr.splitlines() if "logs in" not in line] == [
        f"lithos: {name}.0: {fault}; {remedy}",
        f"lithos: {name} has never been ready in 1 start(s); ended, nothing is left",
    ]


def test_a_taken_port_is_an_error(real_host: RealHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = real_host.lithos("run", str(real_host.program(SERVER, port=port)))
    assert done.returncode == 1
    assert f"lithos: cannot listen on 127.0.0.1:{port}: Address already in use by " in done.stderr
    assert f"(pid {os.getpid()}); stop it or take another port\n" in done.stderr


def test_every_mistake_of_a_file_is_reported_and_nothing_is_started(real_host: RealHost) -> None:
    text = 'executable: true\nexecutable: /bin/true\nmemory-limit: lots\ninstancs: 3\ntcp-ports:\n  "80": {fd: 1}\n'
    file = real_host.file("bad.yaml", text)
    done = real_host.lithos("run", str(file))
    assert (done.returncode, done.stdout) == (2, "")
    *faults, last = done.stderr.splitlines()
    assert [fault.split(":")[:2] for fault in faults] == [[str(file), str(line)] for line in (1, 2, 3, 4, 6)]
    assert "did you mean 'instances'?" in faults[3]
    assert last == "lithos: 5 errors, nothing was started"
    assert not real_host.runtime.exists()


def test_a_file_that_anybody_could_change_is_refused(real_host: RealHost) -> None:
    file = real_host.container(**SLEEP)
    file.chmod(0o666)
    done = real_host.lithos("run", str(file))
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"{file}:1:1: {file} is writable by group or others (mode 0666): run chmod go-w on it",
        "lithos: 1 error, nothing was started",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--name", "a/b"], "lithos: the name 'a/b' is not made of letters, digits, - and _: give one with --name"),
        (["--set", "port"], "lithos: --set port: write it as VAR=VALUE"),
        (["--image", "/none"], "lithos: --image /none: there is no such directory"),
        (["--instances", "-1"], "--instances: '-1' is not a number from 0 to 10000"),
        (["--instances", "10001"], "--instances: '10001' is not a number from 0 to 10000"),
        (["--instances", "two"], "--instances: 'two' is not a number from 0 to 10000"),
        (["--limits", "maybe"], "argument --limits: invalid choice: 'maybe'"),
        (["--inst", "3"], "unrecognized arguments"),
    ],
    ids=str,
)
def test_bad_usage_is_refused(real_host: RealHost, options: list[str], sentence: str) -> None:
    done = real_host.lithos("run", str(real_host.container(**SLEEP)), *options)
    assert done.returncode == 2
    assert sentence in done.stderr


# With the capability to read a checkout below /root, and no other.
AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"),
)


def test_who_is_not_root_is_refused(real_host: RealHost) -> None:
    done = real_host.lithos("run", str(real_host.container(**SLEEP)), wrap=AS_NOBODY)
    assert done.returncode == 1
    assert done.stderr == "lithos: run needs root, to open ports, make cgroups and become other users: use sudo\n"


# Whatever environment it is started from.


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams_are_not_taken_by_sockets(real_host: RealHost, closed: str) -> None:
    port = real_host.port()
    program = real_host.program(SERVER, port=port)
    running = real_host.start(program, wrap=("sh", "-c", f'exec "$@" {closed}', "sh"))
    until(lambda: listening(port), "the supervisor listens")
    assert request(port) == f"run/{running.name}.0"
    for descriptor in (number for number in (0, 1, 2) if f"{number}<" in closed or f"{number}>" in closed):
        assert os.readlink(f"/proc/{running.pid}/fd/{descriptor}") == "/dev/null"
    running.stop()


def test_hang_ups_that_it_was_started_to_ignore_it_ignores(real_host: RealHost) -> None:
    """As nohup(1) does it; its instances get the default back."""
    running = real_host.start(
        real_host.program(PROBE), wrap=("nohup",), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    running.until_started()
    running.send(signal.SIGHUP)
    assert not real_host.printed()["ignored"] & 1 << signal.SIGHUP - 1
    assert [one["restarts"] for one in running.instances()] == [0]
    assert not any("SIGHUP" in line for line in running.stop())
    assert running.process.stdout is not None
    running.process.stdout.close()


def test_a_low_soft_limit_of_descriptors_is_raised(real_host: RealHost) -> None:
    file = real_host.program(PROBE, instances=5, fileno_limit=77)
    running = real_host.start(file, wrap=("prlimit", "--nofile=20:1000"))
    running.until_started()
    assert real_host.printed(4)["files"] == [77, 77]
    running.stop()


def test_a_low_hard_limit_of_descriptors_is_an_error(real_host: RealHost) -> None:
    running = real_host.start(real_host.container(**SLEEP, instances=9), wrap=("prlimit", "--nofile=24:24"))
    code, said = running.end()
    assert code == 1
    assert any("Too many open files" in line for line in said)


def test_an_instance_gets_no_descriptor_but_its_own(real_host: RealHost) -> None:
    port = real_host.port()
    reader, writer = os.pipe()
    with open("/etc/hostname") as file:
        inherited = (reader, writer, file.fileno())
        running = real_host.start(real_host.program(PROBE, port=port, init=False, kill_timeout=0), pass_fds=inherited)
        running.until_started()
        assert all(os.path.exists(f"/proc/{running.pid}/fd/{number}") for number in inherited)
        assert real_host.printed()["descriptors"] == [0, 1, 2, 3]
    os.close(reader)
    os.close(writer)
    running.stop()


def test_systemd_is_told_and_its_variables_stop_here(real_host: RealHost) -> None:
    path = str(real_host.directory / "notify")
    theirs = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "1", "LISTEN_FDS": "7", "LISTEN_PID": "1", "SECRET": "1"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(60)
        port = real_host.port()
        running = real_host.start(real_host.program(PROBE, port=port, environ={"A": "1"}), environ=theirs)
        assert systemd.recv(100) == b"READY=1"
        environ = real_host.printed()["environ"]
        assert environ.pop("NOTIFY_SOCKET").startswith("@lithos-")
        assert environ == {
            "A": "1",
            "TERM": "dumb",
            "LISTEN_FDS": "1",
            "LISTEN_PID": "2",
            "LISTEN_FDNAMES": f"tcp-{port}",
            "LITHOS_NAME": f"run/{running.name}.0",
            "LITHOS_CONFIG": str(real_host.directory / f"{running.name}.yaml"),
            "LC_CTYPE": "C.UTF-8",  # Python's own, PEP 538
        }
        running.send(signal.SIGTERM)
        assert systemd.recv(100).startswith(b"STOPPING=1\n")
        assert running.end()[0] == 0


def test_ctrl_c_while_the_file_is_read_leaves_nothing(real_host: RealHost) -> None:
    """A FIFO in the place of the file holds the reader for as long as we like."""
    file = real_host.directory / "slow.yaml"
    os.mkfifo(file, 0o600)
    running = real_host.start(file, start_new_session=True)
    until(lambda: children(running.pid), "the reader runs")
    os.killpg(running.pid, signal.SIGINT)
    assert running.process.wait(60) == 130
    running.end()
