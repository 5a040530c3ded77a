"""Sockets of every kind under `lithos run`, as applications have them."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from open_listeners import free_port
from real_host import PATIENCE, PROBE, PYTHON, SERVER, request, until

if TYPE_CHECKING:
    from real_host import RealHost

ECHO = """
import os, socket
datagrams = socket.socket(fileno=3)
while True:
    _, client = datagrams.recvfrom(99)
    datagrams.sendto(os.environ["LITHOS_NAME"].encode(), client)
"""


def by_slot(port: int) -> dict[str, object]:
    return {str(port): {"fd": 3, "host": "127.0.0.1", "reuse-port": True, "listen-backlog": 1024}}


def test_every_instance_has_a_socket_of_its_own_and_all_are_served(real_host: RealHost) -> None:
    port = real_host.port()
    running = real_host.start(real_host.program(SERVER, tcp_ports=by_slot(port), instances=3)).until_serving()
    answers = [request(port) for _ in range(90)]
    # A slot that gets none of 90 happens once in 10^16 times.
    assert set(answers) == {f"run/{running.name}.{index}" for index in range(3)}
    running.stop()


def wait_for(pid: int, port: int, count: int) -> list[socket.socket]:
    """Stop an application, and make clients that it would have to answer, or another one."""
    os.kill(pid, signal.SIGSTOP)  # or it would take the first with it when it is killed
    until(lambda: "State:\tT" in Path(f"/proc/{pid}/status").read_text(), "it stands still")
    clients = [socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) for _ in range(count)]
    for client in clients:
        client.sendall(b"?")
    return clients


def answers_of(clients: list[socket.socket]) -> set[str]:
    answers = set()
    for client in clients:
        with client:
            answers.add(client.recv(99).decode())
    return answers


def test_what_waits_for_an_instance_that_was_killed_is_answered_by_the_others(real_host: RealHost) -> None:
    """At once: its next life may be far away."""
    port = real_host.port()
    file = real_host.program(SERVER, tcp_ports=by_slot(port), instances=2, restart_timeout=3600)
    running = real_host.start(file).until_serving()
    stopped = running.app(0)
    clients = wait_for(stopped, port, 20)
    os.kill(stopped, signal.SIGKILL)
    assert answers_of(clients) == {f"run/{running.name}.1"}
    assert [one["state"] for one in running.instances()] == ["backoff", "ready"]
    running.stop()


def test_what_waits_for_the_only_instance_is_answered_by_its_next_life(real_host: RealHost) -> None:
    port = real_host.port()
    running = real_host.start(real_host.program(SERVER, tcp_ports=by_slot(port), restart_timeout=0)).until_serving()
    stopped = running.app(0)
    clients = wait_for(stopped, port, 20)
    os.kill(stopped, signal.SIGKILL)
    assert answers_of(clients) == {f"run/{running.name}.0"}
    running.stop()


def test_what_waits_for_an_instance_that_is_given_up_is_answered_by_another(real_host: RealHost) -> None:
    """The first slot has what came before anybody was ready, and it never will be."""
    port = real_host.port()
    first_fails = 'import os\nif os.environ["LITHOS_NAME"].endswith(".0"): raise SystemExit(1)\n' + SERVER
    running = real_host.start(real_host.program(first_fails, tcp_ports=by_slot(port), instances=2, restart_timeout=0.5))
    running.until_started()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(b"?")
        running.until_said("given up after")
        assert client.recv(99).decode() == f"run/{running.name}.1"
    running.stop()


def test_datagrams_reach_the_instances(real_host: RealHost) -> None:
    port = free_port(kind=socket.SOCK_DGRAM)
    udp = {str(port): {"fd": 3, "host": "127.0.0.1", "reuse-port": True}}
    running = real_host.start(
        real_host.container(executable=PYTHON, arguments=["-I", "-S", "-c", ECHO], udp_ports=udp, instances=2)
    )
    assert f"listening on udp 127.0.0.1:{port}; " in running.until_said("; logs in ")
    running.until_state("ready")

    def answer() -> str:
        with socket.socket(type=socket.SOCK_DGRAM) as client:
            client.settimeout(PATIENCE)
            client.sendto(b"?", ("127.0.0.1", port))
            return client.recv(99).decode()

    names = {f"run/{running.name}.0", f"run/{running.name}.1"}
    heard: set[str] = set()
    until(lambda: heard.add(answer()) or heard == names, "both have answered")
    assert running.instances()[0]["ports"] == [port]
    running.stop()


def test_names_and_numbers_are_those_of_systemds_protocol(real_host: RealHost) -> None:
    ports = [real_host.port(), real_host.port()]
    file = real_host.container(
        executable=PYTHON,
        arguments=["-I", "-S", "-c", PROBE],
        tcp_ports={str(ports[0]): {"fd": 3, "name": "http"}, str(ports[1]): {"fd": 5}},
        udp_ports={str(free_port(kind=socket.SOCK_DGRAM)): {"fd": 4, "name": "dns"}},
    )
    running = real_host.start(file)
    running.until_started()
    found = real_host.printed()
    assert found["descriptors"] == [0, 1, 2, 3, 4, 5]
    assert found["environ"]["LISTEN_FDS"] == "3"
    assert found["environ"]["LISTEN_FDNAMES"] == f"http:dns:tcp-{ports[1]}"
    running.stop()
