"""Instances that end, crash, hang, or outlive their supervisor."""

from __future__ import annotations

import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from real_host import PATIENCE, PYTHON, SERVER, queued, request, until

if TYPE_CHECKING:
    from real_host import RealHost, Running

# Says which signals it gets; "deaf" ones do not end it.
LISTENER = """
import signal
def got(number, _frame):
    print("got", signal.Signals(number).name, flush=True)
    if {ends}:
        raise SystemExit(0)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, got)
print("waiting", flush=True)
while True:
    signal.pause()
"""
DEAF, OBEDIENT = LISTENER.format(ends=False), LISTENER.format(ends=True)

# A life serves one client.
ONE_SHOT = """
import os, socket
client, _ = socket.socket(fileno=3).accept()
client.recv(100)
client.sendall(os.environ["LITHOS_NAME"].encode())
client.close()
print("\\33[31mserved one", file=__import__("sys").stderr)
raise SystemExit(3)
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT], ids=lambda number: number.name
)
def test_a_signal_ends_all(real_host: RealHost, number: signal.Signals) -> None:
    port = real_host.port()
    running = real_host.start(real_host.program(SERVER, port=port, instances=3))
    running.until_started()
    assert request(port).startswith(f"run/{running.name}.")
    said = running.stop(number)
    assert f"lithos: {number.name}: ending 3 instance(s)" in said


def test_the_control_socket_ends_all(real_host: RealHost) -> None:
    running = real_host.start(real_host.container(executable="/bin/sleep", arguments=["1000"], instances=2))
    running.until_started()
    assert running.ask("stop") == {"stopping": True}
    assert running.end()[0] == 0


def test_a_stop_signal_is_not_lost_however_early_it_comes(real_host: RealHost) -> None:
    """Sent to inits that have only just been executed; the kill-timeout is longer than a test may take."""
    sleep = real_host.container(executable="/bin/sleep", arguments=["1000"], instances=10, kill_timeout=3600)
    running = real_host.start(sleep)
    running.until_started()
    running.stop()


def test_an_unknown_command_is_answered(real_host: RealHost) -> None:
    running = real_host.start(real_host.container(executable="/bin/sleep", arguments=["1000"]))
    running.until_started()
    assert running.ask("dance") == {
        "error": "unknown command 'dance': there are status, groups, reload, restart, upgrade, scale, stop"
    }
    running.stop()


def until_waiting(host: RealHost) -> None:
    until(lambda: "waiting" in host.log("stdout"), "the application waits for signals")


def test_the_stop_signal_is_what_the_application_gets(real_host: RealHost) -> None:
    running = real_host.start(real_host.program(OBEDIENT, stop_signal="USR1"))
    running.until_started()
    until_waiting(real_host)
    running.stop(signal.SIGHUP)
    assert real_host.log("stdout").splitlines() == ["waiting", "got SIGUSR1"]


def steered(host: RealHost, port: int, **keys: Any) -> Running:
    """Start one instance with a socket of its own; it serves one client after the other, and dies of SIGTERM."""
    ports = {str(port): {"fd": 3, "host": "127.0.0.1", "reuse-port": True}}
    running = host.start(
        host.container(executable=PYTHON, arguments=["-I", "-S", "-c", SERVER], tcp_ports=ports, **keys)
    )
    running.until_started()
    running.until_state("ready")
    return running


def test_with_reuse_port_all_who_came_before_the_end_are_answered(real_host: RealHost) -> None:
    """One is in the hands of the application, one in the queue; who comes later is refused, and does not wait."""
    port = real_host.port()
    running = steered(real_host, port, drain_timeout=3600)
    address = ("127.0.0.1", port)
    with socket.create_connection(address, PATIENCE) as first, socket.create_connection(address, PATIENCE) as second:
        until(lambda: queued(port) == 1, "the first one is accepted")
        running.send(signal.SIGTERM)
        running.until_state("draining")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, PATIENCE)
        for client in (first, second):
            client.sendall(b"?")
            assert client.recv(100).decode() == f"run/{running.name}.0"
    code, said = running.end()
    assert code == 0, said


def test_a_second_signal_does_not_wait_for_connections(real_host: RealHost) -> None:
    port = real_host.port()
    running = steered(real_host, port, drain_timeout=3600)
    with socket.create_connection(("127.0.0.1", port), PATIENCE):
        until(lambda: queued(port) == 0, "the client is accepted")
        running.send(signal.SIGINT)
        running.until_state("draining")
        running.stop(signal.SIGINT)


@pytest.mark.parametrize("init", [True, False])
def test_who_is_deaf_is_killed_after_kill_timeout(real_host: RealHost, init: bool) -> None:
    running = real_host.start(real_host.program(DEAF, kill_timeout=1, init=init))
    running.until_started()
    until_waiting(real_host)
    said = running.stop()
    assert f"lithos: run/{running.name}.0 has not ended by its stop signal; killing it" in said
    assert real_host.log("stdout").splitlines() == ["waiting", "got SIGTERM"]


def test_a_second_signal_does_not_wait_for_kill_timeout(real_host: RealHost) -> None:
    running = real_host.start(real_host.program(DEAF, kill_timeout=3600))
    running.until_started()
    until_waiting(real_host)
    running.send(signal.SIGINT)
    running.until_said("ending 1 instance(s)")
    running.until_state("stopping")
    running.stop(signal.SIGINT)


def test_after_a_kill_it_is_started_again_and_its_neighbours_serve_all(real_host: RealHost) -> None:
    port = real_host.port()
    running = real_host.start(real_host.program(SERVER, port=port, instances=3, restart_timeout=0.1))
    running.until_started()
    before = running.until_state("ready")
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(request, port) for _ in range(100)]
        with pytest.raises((ConnectionResetError, AssertionError)):
            assert request(port, b"die")  # its own fault, and the only request that is lost
        answers += [pool.submit(request, port) for _ in range(100)]
        assert all(answer.result().startswith(f"run/{running.name}.") for answer in answers)

    def again() -> bool:
        return sum(one["restarts"] for one in running.instances()) == 1

    until(again, "one has been started again")
    after = running.until_state("ready")
    (changed,) = [new for old, new in zip(before, after, strict=True) if old["pid"] != new["pid"]]
    assert changed["restarts"] == 1
    assert {**changed["last_exit"], "at": 0} == {"code": None, "signal": 9, "oom_killed": False, "at": 0}
    (seen,) = [one for one in real_host.ps() if one["name"] == changed["name"]]
    assert (seen["restarts"], seen["last_exit"]) == (1, changed["last_exit"])
    running.stop()


def test_in_a_crash_loop_the_port_stays_open_and_clients_wait(real_host: RealHost) -> None:
    port = real_host.port()
    running = real_host.start(real_host.program(ONE_SHOT, port=port, restart_timeout=0.2))
    running.until_started()
    running.until_state("ready")
    # Four clients at once, served by four lives one after the other: none is refused.
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(request, [port] * 4)) == {f"run/{running.name}.0"}
    waits = [running.until_said("exited with code 3") for _ in range(4)]
    assert r"its last line on stderr: \x1b[31mserved one" in waits[0]
    pauses = [float(match[1]) for line in waits[1:] if (match := re.search(r"next start in ([0-9.]+) s", line))]
    assert len(pauses) == 3
    assert 0 < pauses[0] < pauses[1] < pauses[2]
    running.stop()


def test_while_it_waits_for_its_next_start_it_can_be_stopped(real_host: RealHost) -> None:
    port = real_host.port()
    running = real_host.start(real_host.program(ONE_SHOT, port=port, restart_timeout=600))
    running.until_started()
    running.until_state("ready")
    assert request(port)
    (waiting,) = running.until_state("backoff")
    assert (waiting["pid"], waiting["last_exit"]["code"]) == (None, 3)
    running.stop()


def test_who_never_gets_ready_is_given_up(real_host: RealHost) -> None:
    running = real_host.start(real_host.program("raise SystemExit('no luck')", restart_timeout=0.1, instances=2))
    code, said = running.end()
    assert code == 1
    assert said[-1] == (f"lithos: run/{running.name} has never been ready in 5 start(s); ended, nothing is left")
    assert "its last line on stderr: no luck" in "\n".join(said)


def test_who_is_given_up_after_others_were_ready_does_not_end_them(real_host: RealHost) -> None:
    """The first instance never lives, the second does."""
    program = f"import os\nif os.environ['LITHOS_NAME'].endswith('.0'): raise SystemExit(1)\n{SERVER}"
    port = real_host.port()
    running = real_host.start(real_host.program(program, port=port, restart_timeout=0.3, instances=2))
    running.until_said("given up after 5 starts; the others go on")
    running.until_state("failed", "ready")
    assert request(port) == f"run/{running.name}.1"
    running.stop()


def test_without_its_supervisor_an_instance_serves_and_the_next_one_adopts_it(real_host: RealHost) -> None:
    port = real_host.port()
    file = real_host.program(SERVER, port=port, instances=3)
    first = real_host.start(file)
    first.until_started()
    before = first.until_state("ready")
    first.process.kill()
    first.process.wait()
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(request, [port] * 50))) == 50
    second = real_host.start(file)
    second.until_said("adopted 3 instance(s) of an earlier supervisor")
    second.until_started()
    after = second.until_state("ready")
    assert [(one["name"], one["pid"]) for one in after] == [(one["name"], one["pid"]) for one in before]
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(request, [port] * 50))) == 50
    second.stop()


def test_an_adopted_instance_that_dies_is_started_again_on_the_same_socket(real_host: RealHost) -> None:
    port = real_host.port()
    file = real_host.program(SERVER, port=port)
    first = real_host.start(file)
    first.until_started()
    first.until_state("ready")
    first.process.kill()
    first.process.wait()
    second = real_host.start(file)
    second.until_started()
    with suppress(OSError):
        request(port, b"die")
    second.until_said("ended, with an exit status unknown as an earlier supervisor had started it,")
    assert request(port) == f"run/{second.name}.0"
    second.stop()


def test_a_name_that_runs_is_refused_and_the_first_goes_on(real_host: RealHost) -> None:
    port = real_host.port()
    file = real_host.program(SERVER, port=port)
    first = real_host.start(file)
    first.until_started()
    done = real_host.lithos("run", str(file), "--limits", "available")
    assert done.returncode == 1
    assert done.stderr == (
        f"lithos: cannot lock {real_host.runtime}/run-{first.name}: the supervisor with pid {first.pid} holds it, "
        "stop that one or choose another name or runtime-dir\n"
    )
    assert request(port) == f"run/{first.name}.0"
    assert first.instances()[0]["restarts"] == 0
    first.stop()


def test_a_signal_at_any_moment_of_the_start_leaves_nothing(real_host: RealHost) -> None:
    """As soon as the runtime directory is there, and so wherever the supervisor stands."""
    for _ in range(3):
        running = real_host.start(real_host.container(executable="/bin/sleep", arguments=["9"], instances=8))
        until((running.control.parent / "lock").exists, "the runtime directory")
        assert running.stop()
        assert real_host.remains() == []


def test_shutting_the_listening_socket_down_harms_nobody(real_host: RealHost) -> None:
    program = (
        "import os, signal, socket\n"
        "if os.environ['LITHOS_NAME'].endswith('.0'):\n"
        "    socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RDWR)\n"
        "    signal.pause()\n"
        f"{SERVER}"
    )
    port = real_host.port()
    # Who was in accept(2) at that moment may die of its EINVAL, and is started again.
    running = real_host.start(real_host.program(program, port=port, instances=2, restart_timeout=0.1))
    running.until_said("an instance shut the listening socket down; listening again")
    assert request(port)
    running.stop()


def test_a_supervisor_that_stands_still_is_not_missed(real_host: RealHost) -> None:
    """No connection passes through it."""
    port = real_host.port()
    running = real_host.start(real_host.program(SERVER, port=port, instances=2))
    running.until_started()
    running.send(signal.SIGSTOP)
    clients = [threading.Thread(target=request, args=(port,)) for _ in range(20)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    running.send(signal.SIGCONT)
    running.stop()
