"""A supervisor that goes on as the program that is installed now: same pid, same instances, no lost request."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from clients import Line, Load
from open_listeners import free_port
from real_host import PATIENCE, SERVER, request, until

if TYPE_CHECKING:
    from real_host import RealHost, Running


def lives(running: Running) -> list[tuple[str, int]]:
    return [(one["name"], one["pid"]) for one in running.instances()]


@pytest.mark.parametrize("reuse_port", [False, True], ids=["shared", "reuse-port"])
def test_instances_and_connections_stay(real_host: RealHost, *, reuse_port: bool) -> None:
    port = real_host.port()
    ports = {str(port): {"fd": 3, "host": "127.0.0.1", "reuse-port": reuse_port}}
    running = real_host.start(real_host.program(SERVER, tcp_ports=ports, instances=3)).until_serving()
    before = lives(running)
    with Load(port, 4 * [Line], pause=0) as load:
        for _ in range(3):
            running.send(signal.SIGUSR2)
            running.until_said("going on as the program that is installed now")
            running.until_said("adopted 3 instance(s)")
            running.until_started()
    assert load.failures == []
    assert lives(running) == before
    running.stop()


def test_what_a_child_ended_with_is_known_afterwards(real_host: RealHost) -> None:
    port = real_host.port()
    program = """
import socket
client, _ = socket.socket(fileno=3).accept()
client.recv(100)
client.close()
raise SystemExit(7)
"""
    running = real_host.start(real_host.program(program, port=port)).until_serving()
    running.send(signal.SIGUSR2)
    running.until_said("adopted 1 instance(s)")
    running.until_started()
    assert request(port) == ""
    running.until_said("exited with code 7 after")
    running.stop()


def test_a_port_that_no_instance_has_is_handed_over(real_host: RealHost) -> None:
    """Clients wait while nobody serves: they are not refused."""
    port = real_host.port()
    running = real_host.start(
        real_host.program("raise SystemExit(1)", port=port, restart_timeout=60, readiness="alive")
    )
    running.until_said("; next start in")
    with socket.create_connection(("127.0.0.1", port)) as client:
        running.send(signal.SIGUSR2)
        running.until_started()
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):  # neither reset nor closed
            client.recv(1)
    running.stop()


# A supervisor that stands still just before it executes the installed program.
STANDS_STILL = """
import os, signal, sys
from lithos_runner.commands.main import main
def hook(event, arguments):
    if event == "os.exec":
        os.kill(os.getpid(), signal.SIGSTOP)
sys.addaudithook(hook)
sys.exit(main(sys.argv[4:]))  # without the interpreter, -m and the module
"""
# Says that it is ready when somebody connects.
SAYS_LATE = """
import os, signal, socket
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
client, _ = socket.socket(fileno=3).accept()
notify.sendto(b"READY=1", "\\0" + os.environ["NOTIFY_SOCKET"][1:])
client.send(b"said")
signal.pause()
"""


def test_what_an_instance_says_meanwhile_is_heard(real_host: RealHost) -> None:
    port = real_host.port()
    program = real_host.program(SAYS_LATE, port=port, readiness="notify", readiness_timeout=600)
    wrap = (sys.executable, str(real_host.file("stands_still.py", STANDS_STILL)))
    running = real_host.start(program, wrap=wrap)
    running.until_started()
    running.send(signal.SIGUSR2)
    until(lambda: status_of(running.pid) == "T", "it stands still")
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        assert client.recv(100) == b"said"
    running.send(signal.SIGCONT)
    running.until_said("adopted 1 instance(s)")
    running.until_started()
    running.until_state("ready")
    running.stop()


def status_of(pid: int) -> str:
    """Its state as proc_pid_stat(5) has it: T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_so_many_sockets_that_no_variable_can_name_them(real_host: RealHost) -> None:
    """A single string of the environment has at most 128 KiB, see execve(2)."""
    ports = {str(free_port()): {"fd": 0, "host": "127.0.0.1", "name": 255 * "n"} for _ in range(300)}
    for fd, entry in enumerate(ports.values(), 3):
        entry["fd"] = fd
    running = real_host.start(
        real_host.container(executable="/bin/sleep", arguments=["1000"], tcp_ports=ports, readiness="alive")
    )
    running.until_said("1 instance(s) listening on ")
    before = lives(running)
    running.send(signal.SIGUSR2)
    running.until_said("adopted 1 instance(s)")
    running.until_said("1 instance(s) listening on ")
    assert lives(running) == before
    running.stop()


def test_a_file_that_is_wrong_by_then_is_not_taken_in(real_host: RealHost) -> None:
    port = real_host.port()
    file = real_host.program(SERVER, port=port)
    running = real_host.start(file)
    running.until_started()
    before = lives(running)
    file.write_text("executable: [")
    running.send(signal.SIGUSR2)
    running.until_said("adopted 1 instance(s)")
    running.until_said("not taken in: ")
    running.until_state("ready")
    assert lives(running) == before
    assert request(port)
    running.stop()


def test_a_program_that_cannot_be_loaded_changes_nothing(real_host: RealHost) -> None:
    path = real_host.directory / "installed"
    running = real_host.start(
        real_host.container(executable="/bin/sleep", arguments=["1000"]), environ={"PYTHONPATH": f"{path}:."}
    )
    running.until_started()
    before = lives(running)
    (path / "lithos_runner").mkdir(parents=True)
    (path / "lithos_runner" / "__init__.py").write_text("raise SystemExit('half installed')")
    running.send(signal.SIGUSR2)
    running.until_said("the installed program cannot be loaded")
    assert lives(running) == before
    running.stop()


def test_the_command_waits_until_it_has_happened(real_host: RealHost) -> None:
    file = real_host.container(executable="/bin/sleep", arguments=["1000"])
    running = real_host.start(file)
    running.until_started()
    done = real_host.lithos("upgrade", "-C", str(file))
    assert done.stdout == f"pid {running.pid} goes on with 1 instance(s)\n", done.stderr
    until(lambda: running.until_said("adopted 1 instance(s)"), "it was told")
    running.stop()


# Its standard output is whatever there is to hand over.
_HANDS_OVER = """
import os
from lithos_runner.supervisor import upgrade
from lithos_runner.supervisor.desired import Host, Port
from lithos_runner.supervisor.messages import Log, Logs
port = Port("tcp", 3, "tcp-80", "127.0.0.1", 80, reuse_port=True)
sockets = (upgrade.Held(port, "run/web.0", 1), upgrade.Held(port, "", 1))
logs = Logs("daemon", Log("lithos", "warn"), {"shop": Log("lithos-shop", "info")})
host = Host("/run/lithos", "/run/lithos/mnt", "/var/log", "lithos.slice", ("memory", "pids"), logs)
given = upgrade.Handover(1, 1000 * sockets, {"shop": 1}, upgrade.NotifySocket("@lithos", 1), host)
if upgrade.VARIABLE in os.environ:
    files = len(os.listdir("/proc/self/fd"))
    print(upgrade.take() == given, len(os.listdir("/proc/self/fd")) - files, os.get_inheritable(1))
else:
    upgrade.replace(given, None)
"""


def test_all_is_handed_over_however_much_it_is() -> None:
    ended = subprocess.run([sys.executable, "-c", _HANDS_OVER], capture_output=True, text=True, check=False)
    assert (ended.stderr, ended.stdout) == ("", "True -1 False\n")
