"""A supervisor that goes on as the program that is installed now: same pid, same instances, no lost request."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

import pytest
from clients import Line, Load
from real_host import SERVER, request, until

from lithos_runner.supervisor import upgrade
from lithos_runner.supervisor.desired import Port

if TYPE_CHECKING:
    from real_host import RealHost, Running

    from lithos_runner.supervisor.upgrade import Handover


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


def test_what_is_handed_over_survives_the_environment() -> None:
    port = Port("tcp", 3, "tcp-80", "127.0.0.1", 80, reuse_port=True)
    handed: Handover = upgrade.Handover(7, (upgrade.Held(port, "run/web.0", 9), upgrade.Held(port, "", 10)))
    assert upgrade._decode(upgrade._encode(handed)) == handed
