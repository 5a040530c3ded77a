"""`lithos cmd`: a command runs as an instance does, and nothing of it is left, however it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "supervisor"))
sys.path.insert(0, str(Path(__file__).parent))

from command_host import NOBODY, SIGNALS, CommandHost, ended, send, shop
from real_host import PATIENCE, listening, until

import cgroup

__all__ = ["shop"]

STAY = "sleep 1000 & echo ready; while :; do wait $!; done"


def ready(process: Any) -> None:
    """Wait until a script has said `ready`."""
    assert process.stdout.readline() == b"ready\n"


# What runs, and with what.


def test_it_is_an_instance_with_a_name_and_a_cgroup_of_its_own(shop: CommandHost) -> None:
    shop.command("id; pwd; echo $LITHOS_NAME $LITHOS_CONFIG $TERM; echo > /file; echo ready; read line")
    running = shop.start(stdin=-1)
    lines = [running.stdout.readline().decode() for _ in range(3)]  # type: ignore[union-attr]
    name = f"cmd.do.{running.pid}"
    assert lines == ["uid=65534 gid=65534 groups=65534\n", "/\n", f"shop/{name} /do.yaml dumb\n"]
    ready(running)
    assert shop.groups() == [name]
    assert shop.pids(shop.slice / "shop" / name)
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
    running = shop.start()
    ready(running)
    os.kill(shop.pids(shop.group(running))[0], signal.SIGKILL)
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
    process = shop.start(stdin=-1)
    assert process.communicate(data, timeout=PATIENCE) == (data, b"error\n")


def test_a_reader_that_has_had_enough(shop: CommandHost) -> None:
    """As in `lithos cmd … | head`."""
    shop.command("exec seq 1000000")
    running = shop.start()
    assert running.stdout is not None
    assert running.stdout.readline() == b"1\n"
    running.stdout.close()
    assert running.wait(PATIENCE) == 128 + signal.SIGPIPE


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_are_dev_null(shop: CommandHost, closed: str) -> None:
    shop.command("cat; echo out; echo error >&2; exit 5")
    words = ["sh", "-c", f'exec "$@" {closed}', "sh", *shop.line("cmd", "shop", "do")]
    done = subprocess.run(words, env=shop.environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 5
    assert done.stdout == ("" if "1>" in closed else "out\n")
    assert done.stderr == ("" if "2>" in closed else "error\n")


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_directory_would_be_a_way_out_of_the_root(shop: CommandHost, stream: str) -> None:
    """CVE-2024-21626. Python itself does not start with one; should that change, something must take its place."""
    shop.command("exit 0")
    root = os.open("/", os.O_RDONLY)
    assert shop.run(**{stream: root}).returncode == 1
    os.close(root)


def test_an_output_file_takes_what_is_printed(shop: CommandHost) -> None:
    volumes = {"/data": {"path": "/data"}}
    text = f"kind: Command\nexecutable: /bin/sh\narguments: [-c, echo there]\nuser-id: 0\ngroup-id: {NOBODY}\n"
    (shop.image / "do.yaml").write_text(
        f"{text}volumes: {{/data: !Persistent {json.dumps(volumes['/data'])}}}\nstdout-stderr-file: /data/log\n"
    )
    shop.entry("do")
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
    running = shop.start(stdin=-1)
    lines = [running.stdout.readline().decode().strip() for _ in range(4)]  # type: ignore[union-attr]
    assert lines == ["0", "1", "2", "none none"]
    assert not listening(port)
    running.communicate(b"\n", timeout=PATIENCE)


# Limits. On every host some controllers are on v2 and some are not.

LIMITS = {"hugetlb": ("hugetlb.2MB.max", str(2 << 20)), "pids": ("pids.max", "50"), "memory": ("memory.high", "max")}


@pytest.mark.parametrize("controller", LIMITS)
def test_its_limits_hold_or_are_an_error(shop: CommandHost, controller: str) -> None:
    file, text = LIMITS[controller]
    shop.command("echo ready; read line", cgroup={file: text})
    if controller in cgroup.find().controllers:
        running = shop.start(stdin=-1)
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
    shop.sandbox(**{key: value})
    file, text = {"pids": ("pids.max", "9"), "cpu": ("cpu.max", "50000 100000")}[controller]
    if controller in cgroup.find().controllers:
        running = shop.start(stdin=-1)
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
    shop.container("web", "", kind="Daemon")
    shop.entry("web", kind="Daemon")
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
    assert done.stderr == f"lithos: {shop.master} leads to no sandbox shup, did you mean 'shop'?\n"
    assert shop.run(options=("../shop",)).returncode == 2


def test_no_name(shop: CommandHost) -> None:
    done = subprocess.run(shop.line("cmd", "shop"), capture_output=True, text=True, timeout=PATIENCE, check=False)
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
    shop.command("echo it ran")
    wrap = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    caps = ("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search")  # to read a checkout below /root
    line = [*wrap, *caps, *shop.line("cmd", "shop", "do")]
    done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("lithos: cmd needs root, ")


# Signals.


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_handed_on_as_the_stop_signal(shop: CommandHost, number: int) -> None:
    shop.command(f"trap 'echo usr1; exit 9' USR1; {STAY}", stop_signal="SIGUSR1")
    running = shop.start()
    ready(running)
    send(running, number)
    assert running.communicate(timeout=PATIENCE) == (b"usr1\n", b"")
    assert running.returncode == 9


def test_signals_that_the_shell_has_it_ignore_are_ignored(shop: CommandHost) -> None:
    """`nohup lithos cmd … &`, or any `&` in a script: Ctrl-C is not meant for it."""
    shop.command(f"trap 'echo term; exit 0' TERM; {STAY}")
    wrap = ["sh", "-c", 'trap "" INT HUP QUIT; exec "$@"', "sh", *shop.line("cmd", "shop", "do")]
    with subprocess.Popen(wrap, env=shop.environ, stdout=subprocess.PIPE) as running:
        ready(running)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            send(running, number)
        send(running, signal.SIGTERM)
        assert running.communicate(timeout=PATIENCE)[0] == b"term\n"
        assert running.returncode == 0


@pytest.mark.parametrize("init", [True, False])
def test_what_does_not_end_is_killed_after_kill_timeout(shop: CommandHost, init: bool) -> None:
    shop.command(f"trap '' TERM; {STAY}", kill_timeout=0.1, init=init)
    running = shop.start()
    ready(running)
    send(running, signal.SIGTERM)
    _, said = running.communicate(timeout=PATIENCE)
    assert running.returncode == 128 + signal.SIGKILL
    name = f"shop/cmd.do.{running.pid}"
    assert said.decode() == f"lithos: {name} has not ended by its stop signal; killing it\n"


def test_a_second_signal_kills_it(shop: CommandHost) -> None:
    shop.command(f"trap 'echo asked' TERM; {STAY}", kill_timeout=86400)
    running = shop.start()
    ready(running)
    send(running, signal.SIGTERM)
    assert running.stdout.readline() == b"asked\n"  # type: ignore[union-attr]
    send(running, signal.SIGINT)
    assert running.wait(PATIENCE) == 128 + signal.SIGKILL


def test_a_signal_that_comes_early_is_not_lost(shop: CommandHost) -> None:
    """From the moment in which there is something to end: the init drops what comes before it is ready."""
    shop.command("exec sleep 1000", kill_timeout=86400)
    running = shop.start()
    until(lambda: shop.group(running).exists(), "there is a group")
    send(running, signal.SIGTERM)
    assert running.wait(PATIENCE) == 128 + signal.SIGTERM


def test_what_it_has_started_ends_with_it(shop: CommandHost) -> None:
    """Also what has closed its streams and is in a session of its own."""
    shop.command("sleep 1000 > /dev/null 2>&1 < /dev/null & (sleep 1001 &) ; exit 3")
    running = shop.start(stdout=None, stderr=None)
    assert running.wait(PATIENCE) == 3
    assert shop.remains() == []


@pytest.mark.parametrize("uid", [NOBODY, 0])
@pytest.mark.parametrize("init", [True, False])
def test_it_dies_with_its_lithos_cmd(shop: CommandHost, init: bool, uid: int) -> None:
    """By the kernel's hand; the empty group goes when somebody uses the sandbox again."""
    shop.command(f"trap '' TERM HUP; {STAY}", init=init, user_id=uid)
    running = shop.start()
    ready(running)
    group = shop.group(running)
    pids = shop.pids(group)
    assert len(pids) == 2 + init
    send(running, signal.SIGKILL)
    until(lambda: all(ended(pid) for pid in pids), "all its processes are gone")
    assert shop.groups() == [group.name]  # nobody has waited for our child yet: a zombie does not live
    shop.command("echo next", "next")
    assert shop.run("next").stdout == "next\n"
    assert not group.exists()


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


def test_a_supervisor_is_not_disturbed(shop: CommandHost) -> None:
    """Its instances, its limits, its start and its end; nor is a command by any of these."""
    shop.container("web", STAY, kind="CommandOrDaemon")
    shop.entry("web", kind="Daemon")
    shop.command("echo ready; read line; exit 6")
    running = shop.start(stdin=-1)
    ready(running)
    mine = shop.group(running)

    tree = shop.supervise()
    assert shop.groups() == [mine.name, "web.0"]
    pids = until(lambda: len(found := shop.pids(shop.slice / "shop" / "web.0")) == 3 and found, "all of it runs")
    shop.sandbox(cgroup_unknown=1)  # what is not loaded, or wrong, is the supervisor's concern
    send(tree, signal.SIGHUP)
    shop.sandbox()
    assert shop.run("do", input="\n").returncode == 6
    assert shop.groups() == [mine.name, "web.0"]
    assert shop.pids(shop.slice / "shop" / "web.0") == pids
    send(tree, signal.SIGTERM)
    assert tree.wait(PATIENCE) == 0
    assert shop.groups() == [mine.name]
    running.communicate(b"\n", timeout=PATIENCE)
    assert running.returncode == 6
    assert not shop.slice.exists()


def test_the_limits_in_force_are_the_supervisors(shop: CommandHost) -> None:
    """One that was started with --limits available makes a command do without what is not there, too."""
    shop.container("web", STAY, kind="Daemon")
    shop.entry("web", kind="Daemon")
    shop.command("echo ready", cgroup={"memory.high": "80Mi", "hugetlb.2MB.max": "2Mi", "pids.max": "90"})
    tree = shop.supervise()
    done = shop.run()
    assert (done.returncode, done.stdout) == (0, "ready\n")
    assert shop.run(options=("--limits", "off")).stderr.startswith("lithos: limits are not enforced for: hugetlb, ")
    send(tree, signal.SIGTERM)
    assert tree.wait(PATIENCE) == 0
