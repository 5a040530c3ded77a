"""`lithos cmd`: a command runs as an instance does, and nothing of it is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "supervisor"))
sys.path.insert(0, str(Path(__file__).parent))

from command_host import CommandHost, processes_in, shop, until_ended
from real_host import PATIENCE, listening, until
from real_tree import USER
from test_run import AS_NOBODY

import cgroup

__all__ = ["shop"]

STAY = "sleep 1000 & echo ready; while :; do wait $!; done"


def ready(process: subprocess.Popen[bytes]) -> None:
    """Wait until a script has said `ready`."""
    assert read_line(process) == "ready"


def read_line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().rstrip("\n")


# What runs, and with what.


def test_it_is_an_instance_with_a_name_and_a_cgroup_of_its_own(shop: CommandHost) -> None:
    shop.command("id; pwd; echo $LITHOS_NAME $LITHOS_CONFIG $TERM; echo > /file; echo ready; read line")
    running = shop.start_command()
    name = f"cmd.do.{running.pid}"
    lines = [read_line(running) for _ in range(3)]
    assert lines == ["uid=65534 gid=65534 groups=65534", "/", f"shop/{name} /do.yaml dumb"]
    ready(running)
    assert shop.in_sandbox() == [name]
    assert processes_in(shop.slice / "shop" / name)
    _, errors = running.communicate(b"\n", timeout=PATIENCE)
    assert running.returncode == 0
    assert b"/file: Read-only file system" in errors


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["-x", "--limits", "off", "-C", "/none"],
        ["--", "-C", "--"],
        ["", "a b", "*", "@{lithos:name}", "\udcff"],
        ["-1", "--version"],
    ],
    ids=str,
)
def test_what_follows_the_name_is_the_commands(shop: CommandHost, words: list[str]) -> None:
    shop.command('printf "%s\\0" "$@"', arguments=["-c", 'printf "%s\\0" "$@"', "sh", "first"])
    done = shop.run("do", *words, errors="surrogateescape")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split("\0")[:-1] == ["first", *words]


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("code", [0, 1, 2, 7, 127, 128, 255])
def test_its_exit_code_is_the_commands(shop: CommandHost, code: int, init: bool) -> None:
    shop.command(f"exit {code}", init=init)
    done = shop.run()
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_signal_that_killed_it_is_128_and_its_number(shop: CommandHost, number: signal.Signals) -> None:
    """A shell says the same, and exits with it."""
    shop.command(f"sh -c 'kill -{number.value} $$'")
    assert shop.run().returncode == 128 + number
    shop.command(f"kill -{number.value} $$")
    assert shop.run().returncode == 128 + number


def test_without_the_init_too(shop: CommandHost) -> None:
    """The kernel gives PID 1 no signal of its own that it does not handle; one from outside is another matter."""
    shop.command(STAY, init=False)
    running = shop.start_command()
    ready(running)
    os.kill(processes_in(shop.group(running))[0], signal.SIGKILL)
    assert running.wait(PATIENCE) == 128 + signal.SIGKILL


# Its standard streams.


def test_files_and_pipes_are_the_callers_own(shop: CommandHost, tmp_path: Path) -> None:
    shop.command("cat; echo error >&2")
    data = os.urandom(3 << 20)
    (tmp_path / "in").write_bytes(data)
    with (tmp_path / "in").open() as source, (tmp_path / "out").open("w") as target:
        done = shop.run(stdin=source, stdout=target)
    assert (done.returncode, done.stderr) == (0, "error\n")
    assert (tmp_path / "out").read_bytes() == data
    process = shop.start_command()
    assert process.communicate(data, timeout=PATIENCE) == (data, b"error\n")


def test_a_reader_that_has_had_enough(shop: CommandHost) -> None:
    """As in `lithos cmd … | head`."""
    shop.command("exec seq 1000000")
    running = shop.start_command()
    assert read_line(running) == "1"
    running.stdout.close()
    assert running.wait(PATIENCE) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_are_dev_null(shop: CommandHost, closed: str) -> None:
    shop.command("cat; echo out; echo error >&2; exit 5")
    running = shop.start_command(wrap=("sh", "-c", f'exec "$@" {closed}', "sh"))
    out, error = running.communicate(timeout=PATIENCE)
    assert running.returncode == 5
    assert out == (b"" if "1>" in closed else b"out\n")
    assert error == (b"" if "2>" in closed else b"error\n")


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_directory_would_be_a_way_out_of_the_root(shop: CommandHost, stream: str) -> None:
    """CVE-2024-21626. Python itself does not start with one; should that change, something must take its place."""
    shop.command("exit 0")
    root = os.open("/", os.O_RDONLY)
    assert shop.run(**{stream: root}).returncode == 1
    os.close(root)


def test_an_output_file_takes_what_is_printed(shop: CommandHost) -> None:
    volumes = {"/data": "!Persistent /data"}
    shop.command("echo there", user_id=0, volumes=volumes, stdout_stderr_file="/data/log")
    done = shop.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (shop.data / "log").read_text() == "there\n"


def test_what_is_a_daemon_too_keeps_its_sockets(shop: CommandHost) -> None:
    """Neither are they opened, nor is the command told of any."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    show = "for fd in 0 1 2 3 4; do [ -e /proc/$$/fd/$fd ] && echo $fd; done"
    script = f"{show}; echo ${{LISTEN_FDS-none}} ${{LISTEN_PID-none}}; read line"
    shop.command(script, kind="CommandOrDaemon", tcp_ports={str(port): {"fd": 3, "host": "127.0.0.1"}})
    running = shop.start_command()
    assert [read_line(running) for _ in range(4)] == ["0", "1", "2", "none none"]
    assert not listening(port)
    running.communicate(b"\n", timeout=PATIENCE)


# Limits. On every host some controllers are on v2 and some are not.

LIMITS = {"hugetlb": ("hugetlb.2MB.max", str(2 << 20)), "pids": ("pids.max", "50"), "memory": ("memory.high", "max")}


@pytest.mark.parametrize("controller", LIMITS)
def test_its_limits_hold_or_are_an_error(shop: CommandHost, controller: str) -> None:
    file, text = LIMITS[controller]
    shop.command("echo ready; read line", cgroup={file: text})
    if controller in cgroup.find().controllers:
        running = shop.start_command()
        ready(running)
        assert (shop.group(running) / file).read_text().strip() == text
        running.communicate(b"\n", timeout=PATIENCE)
    else:
        done = shop.run()
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert f"has no {controller} controller because " in done.stderr
        assert done.stderr.endswith("; --limits available goes on without it\n")
        assert shop.run(options=("--limits", "available"), input="\n").stderr == (
            f"lithos: limits are not enforced for: {controller} (--limits available)\n"
        )


@pytest.mark.parametrize(("key", "value", "controller"), [("pids-limit", 9, "pids"), ("cpu-limit", 0.5, "cpu")])
def test_so_do_those_of_its_sandbox(shop: CommandHost, key: str, value: float, controller: str) -> None:
    shop.command("echo ready; read line")
    shop.shop(**{key: value})
    file, text = {"pids": ("pids.max", "9"), "cpu": ("cpu.max", "50000 100000")}[controller]
    if controller in cgroup.find().controllers:
        running = shop.start_command()
        ready(running)
        assert (shop.slice / "shop" / file).read_text().strip() == text
        running.communicate(b"\n", timeout=PATIENCE)
    else:
        done = shop.run()
        assert done.returncode == 1
        assert f"has no {controller} controller because " in done.stderr


# Refusals: what is wrong, and what there is.


def refused(shop: CommandHost, *words: str) -> str:
    done = shop.run(*words)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def test_a_name_that_is_not_there(shop: CommandHost) -> None:
    shop.command("echo it ran", "migrate")
    shop.command("", "web", entry="Daemon")
    assert refused(shop, "migrat") == "lithos: the process file of shop has no migrat, did you mean 'migrate'?\n"
    assert refused(shop, "x") == "lithos: the process file of shop has no x; there is migrate\n"
    assert refused(shop, "--help") == "lithos: the process file of shop has no --help; there is migrate\n"
    assert refused(shop, "web") == (
        "lithos: shop/web is a Daemon, which a supervisor keeps running; `lithos cmd` runs those of kind Command"
        "; there is migrate\n"
    )


def test_a_sandbox_that_is_not_there(shop: CommandHost) -> None:
    shop.command("echo it ran")
    done = shop.run(options=("shup",))
    assert done.returncode == 2
    assert done.stderr == f"lithos: {shop.master_file} leads to no sandbox shup, did you mean 'shop'?\n"
    assert shop.run(options=("../shop",)).returncode == 2


def test_no_name(shop: CommandHost) -> None:
    done = shop.lithos("cmd", "-C", str(shop.master_file), "shop")
    assert (done.returncode, done.stderr) == (2, "lithos: cmd needs a NAME: which command of the sandbox?\n")


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"kind": "Daemon"}, "is a Command, but "),
        ({"user-id": 5}, "5 is not in allow-users"),
        ({"executible": "/bin/sh"}, "did you mean 'executable'?"),
        ({"tcp-ports": {"8080": {"fd": 3}}}, "no sockets are opened for a command"),
    ],
    ids=str,
)
def test_a_faulty_configuration(shop: CommandHost, keys: dict[str, Any], fault: str) -> None:
    shop.command("echo it ran", **keys)
    *faults, last = refused(shop).splitlines()
    assert len(faults) == 1
    assert fault in faults[0]
    assert last == "lithos: 1 error, shop/do was not started"


def test_what_is_wrong_elsewhere_is_not_asked(shop: CommandHost) -> None:
    shop.command("echo it ran")
    shop.command("", "other", executable="none")
    (shop.directory / "sandboxes" / "blog.yaml").write_text("no: such key")
    done = shop.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "it ran\n", "")


def test_what_cannot_be_executed_is_a_failure_of_ours(shop: CommandHost) -> None:
    shop.command("", executable="/bin/none")
    done = shop.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(
        ": cannot execute /bin/none as user 65534: No such file or directory; "
        "give `executable` a path that exists inside the instance\n"
    )


def test_who_is_not_root_is_refused(shop: CommandHost) -> None:
    done = shop.lithos("cmd", "shop", "do", wrap=AS_NOBODY)
    assert done.returncode == 1
    assert done.stderr == "lithos: cmd needs root, to open ports, make cgroups and become other users: use sudo\n"


# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_is_handed_on_as_the_stop_signal(shop: CommandHost, number: int) -> None:
    shop.command(f"trap 'echo usr1; exit 9' USR1; {STAY}", stop_signal="SIGUSR1")
    running = shop.start_command()
    ready(running)
    running.send_signal(number)
    assert running.communicate(timeout=PATIENCE) == (b"usr1\n", b"")
    assert running.returncode == 9


def test_signals_that_the_shell_has_it_ignore_are_ignored(shop: CommandHost) -> None:
    """`nohup lithos cmd … &`, or any `&` in a script: Ctrl-C is not meant for it."""
    shop.command(f"trap 'echo term; exit 0' TERM; {STAY}")
    running = shop.start_command(wrap=("sh", "-c", 'trap "" INT HUP QUIT; exec "$@"', "sh"))
    ready(running)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        running.send_signal(number)
    assert running.communicate(timeout=PATIENCE) == (b"term\n", b"")
    assert running.returncode == 0


@pytest.mark.parametrize("init", [True, False])
def test_what_does_not_end_is_killed_after_kill_timeout(shop: CommandHost, init: bool) -> None:
    shop.command(f"trap '' TERM; {STAY}", kill_timeout=0.1, init=init)
    running = shop.start_command()
    ready(running)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=PATIENCE)
    assert running.returncode == 128 + signal.SIGKILL
    name = f"shop/cmd.do.{running.pid}"
    assert said.decode() == f"lithos: {name} has not ended by its stop signal; killing it\n"


def test_a_second_signal_kills_it(shop: CommandHost) -> None:
    shop.command(f"trap 'echo asked' TERM; {STAY}", kill_timeout=86400)
    running = shop.start_command()
    ready(running)
    running.send_signal(signal.SIGTERM)
    assert read_line(running) == "asked"
    running.send_signal(signal.SIGINT)
    assert running.wait(PATIENCE) == 128 + signal.SIGKILL


def test_a_signal_that_comes_early_is_not_lost(shop: CommandHost) -> None:
    """From the moment in which there is something to end: the init drops what comes before it is ready."""
    shop.command("exec sleep 1000", kill_timeout=86400)
    running = shop.start_command()
    until(lambda: shop.group(running).exists(), "there is a group")
    running.send_signal(signal.SIGTERM)
    assert running.wait(PATIENCE) == 128 + signal.SIGTERM


def test_what_it_has_started_ends_with_it(shop: CommandHost) -> None:
    """Also what has closed its streams and is in a session of its own."""
    shop.command("sleep 1000 > /dev/null 2>&1 < /dev/null & (sleep 1001 &) ; exit 3")
    running = shop.start_command(stdout=None, stderr=None)
    assert running.wait(PATIENCE) == 3
    assert shop.remains() == []


@pytest.mark.parametrize("uid", [USER, 0])
@pytest.mark.parametrize("init", [True, False])
def test_it_dies_with_its_lithos_cmd(shop: CommandHost, init: bool, uid: int) -> None:
    """By the kernel's hand; the empty group goes when somebody uses the sandbox again."""
    shop.command(f"trap '' TERM HUP; {STAY}", init=init, user_id=uid)
    running = shop.start_command()
    ready(running)
    group = shop.group(running)
    pids = processes_in(group)
    assert len(pids) == 2 + init
    running.send_signal(signal.SIGKILL)
    until_ended(pids)
    assert shop.in_sandbox() == [group.name]  # nobody has waited for our child yet: a zombie does not live
    record = shop.runtime / "commands" / f"shop:{group.name}.json"
    assert record.exists()
    assert in_ps(shop) == []
    shop.command("echo next", "next")
    assert shop.run("next").stdout == "next\n"
    assert not group.exists()
    assert not record.exists()


# Seen by others.


def in_ps(shop: CommandHost) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shop.lithos("ps", "--json").stdout)["commands"]
    return found


@pytest.mark.parametrize("init", [True, False])
def test_it_is_shown_for_as_long_as_it_runs(shop: CommandHost, init: bool) -> None:
    shop.command("echo ready; read line", init=init)
    before = time.time()
    running = shop.start_command()
    ready(running)
    (seen,) = in_ps(shop)
    group = shop.group(running)
    assert (seen["name"], seen["state"]) == (f"shop/{group.name}", "command")
    assert (seen["sandbox"], seen["process"], seen["index"]) == ("shop", "do", running.pid)
    assert seen["pid"] == processes_in(group)[-1]
    assert (seen["uid"], seen["image"]) == (USER, str(shop.images / "v1"))
    assert before <= seen["started"] <= time.time()
    assert seen["memory"]["current"] > 0
    assert seen["cgroup"] == str(group.relative_to(shop.slice.parent))
    running.communicate(b"\n", timeout=PATIENCE)
    assert in_ps(shop) == []


def test_what_cannot_be_written_down_keeps_nobody_from_running(shop: CommandHost) -> None:
    shop.runtime.mkdir()
    (shop.runtime / "commands").write_text("not a directory")
    shop.command("exit 7")
    done = shop.run()
    assert (done.returncode, "cannot write its state file: " in done.stderr) == (7, True)
    (shop.runtime / "commands").unlink()


# Beside others.


def test_many_at_once_come_and_go(shop: CommandHost) -> None:
    """Whoever is the last in a sandbox removes its group, while others are about to use it."""
    shop.command("exit $1")
    codes: dict[int, int] = {}

    def repeat(number: int) -> None:
        for _ in range(5):
            codes[number] = shop.run("do", str(number)).returncode
            if codes[number] != number:
                return

    threads = [threading.Thread(target=repeat, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {number: number for number in range(4)}


def test_a_supervisor_and_a_command_do_not_disturb_each_other(shop: CommandHost) -> None:
    """A command lives on when a supervisor starts, reads its files again and ends; instances when a command does."""
    shop.command(STAY, "web", entry="Daemon")
    shop.command("echo ready; read line; exit 6")
    running = shop.start_command()
    ready(running)
    mine = shop.group(running).name

    tree = shop.serving()
    assert shop.in_sandbox() == [mine, "web.0"]
    pids = tree.pids()
    tree.reload()
    assert shop.run("do", input="\n").returncode == 6
    assert shop.in_sandbox() == [mine, "web.0"]
    assert tree.pids() == pids
    tree.stop()
    assert shop.in_sandbox() == [mine]
    running.communicate(b"\n", timeout=PATIENCE)
    assert running.returncode == 6


def test_a_sandbox_where_nobody_is_can_be_removed_under_a_supervisor(shop: CommandHost) -> None:
    """Its instances are to come, or wait to be started again."""
    shop.command(STAY, "web", entry="Daemon")
    shop.command("exit 6")
    entries = {"web": shop.entry("v1", 0, config="/web.yaml")}
    shop.processes("shop", {**entries, "do": {"kind": "Command", "image": "v1", "config": "/do.yaml"}})
    tree = shop.serving()
    assert shop.run().returncode == 6
    assert not (shop.slice / "shop").exists()
    shop.processes("shop", {"web": shop.entry("v1", 1, config="/web.yaml")})
    tree.reload()
    tree.until_phases()
    assert tree.states() == {"shop/web.0": "ready"}
    tree.stop()


def test_limits_are_those_of_the_supervisor_that_runs(shop: CommandHost) -> None:
    """One that was started with --limits available makes a command do without what is not there, too."""
    shop.command(STAY, "web", entry="Daemon")
    shop.command("echo ready", cgroup={"memory.high": "80Mi", "hugetlb.2MB.max": "2Mi", "pids.max": "90"})
    tree = shop.serving()
    done = shop.run()
    assert (done.returncode, done.stdout) == (0, "ready\n")
    assert shop.run(options=("--limits", "off")).stderr.startswith("lithos: limits are not enforced for: hugetlb, ")
    tree.stop()
