"""What only a host with every controller on cgroup v2 can show: limits hold, and hit only those they are for."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from real_host import RealHost, Running, request, until

MOUNT = Path("/sys/fs/cgroup")
MIB = 1 << 20

# Serves names on descriptor 3; SIGUSR1 makes it take all the memory it can get, between two requests.
GREEDY = """
import os, select, signal, socket
listener = socket.socket(fileno=3)
listener.setblocking(False)
wake, signalled = os.pipe()
os.set_blocking(signalled, False)
signal.set_wakeup_fd(signalled)
signal.signal(signal.SIGUSR1, lambda *_: None)
while True:
    ready, _, _ = select.select([listener, wake], [], [])
    if wake in ready:
        hoard = []
        while True:
            hoard.append(bytearray(1 << 20))
    try:
        client, _ = listener.accept()
    except BlockingIOError:  # a neighbour was faster
        continue
    client.setblocking(True)
    client.recv(100)
    client.sendall(os.environ["LITHOS_NAME"].encode())
    client.close()
"""

# Forks until it cannot, says how often, and stays.
BOMB = """
import os, signal
children = 0
while True:
    try:
        pid = os.fork()
    except BlockingIOError:
        break
    if pid == 0:
        signal.pause()
    children += 1
print(children, flush=True)
signal.pause()
"""

STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
while True:
    signal.pause()
"""


class Clients:
    """Ask again and again from several threads; every failure is kept."""

    def __init__(self, port: int, threads: int = 4) -> None:
        self._port = port
        self._done = threading.Event()
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._done.is_set():
            try:
                self.answers[request(self._port)] += 1
            except OSError as error:
                self.failures.append(repr(error))

    def stop(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()


def enforced(host: RealHost, file: Path, *options: str) -> Running:
    running = host.start(file, "--limits", "enforce", *options)
    running.until_started()
    running.until_state("ready")
    return running


def test_an_instance_that_takes_too_much_memory_is_killed_alone_and_started_again(real_host: RealHost) -> None:
    port = real_host.port()
    file = real_host.program(GREEDY, port=port, instances=3, memory_limit="32Mi")
    running = enforced(real_host, file)
    others = [one["pid"] for one in running.instances()[1:]]
    clients = Clients(port)
    until(lambda: len(clients.answers) == 3, "all three serve")

    os.kill(running.app(0), signal.SIGUSR1)
    assert "used more memory than its limit allows" in running.until_said(".0 was killed")
    running.until_state("ready")
    before = clients.answers.copy()
    until(lambda: clients.answers.total() > before.total() + 50, "requests are served after the kill")
    clients.stop()

    assert clients.failures == []
    first, *rest = real_host.ps()
    assert first["last_exit"]["oom_killed"] is True
    assert first["last_exit"]["signal"] == signal.SIGKILL
    assert first["restarts"] == 1
    assert first["memory"]["oom_kills"] > 0
    assert [(one["restarts"], one["last_exit"], one["memory"]["oom_kills"]) for one in rest] == [(0, None, 0)] * 2
    assert [one["pid"] for one in running.instances()[1:]] == others
    running.stop()


def test_every_limit_is_in_force_for_every_instance_and_can_be_read(real_host: RealHost) -> None:
    file = real_host.container(
        executable="/bin/sleep",
        arguments=["1000"],
        instances=2,
        memory_limit="48Mi",
        cpu_limit=0.5,
        cpu_shares=2048,
        pids_limit=20,
        cgroup={"memory.high": "40Mi", "io.weight": "default 200"},
    )
    running = enforced(real_host, file)
    expected = {
        "memory.max": f"{48 * MIB}",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "memory.high": f"{40 * MIB}",
        "cpu.max": "50000 100000",
        "cpu.weight": "200",
        "pids.max": "20",
        "io.weight": "default 200",
    }
    for instance in real_host.ps():
        group = MOUNT / instance["cgroup"]
        assert {name: (group / name).read_text().strip() for name in expected} == expected
        memory = instance["memory"]
        assert (memory["source"], memory["max"], memory["oom_kills"]) == ("cgroup", 48 * MIB, 0)
        assert 0 < memory["current"] <= memory["peak"] < 48 * MIB
        assert str(instance["pid"]) in (group / "cgroup.procs").read_text().split()
    running.stop()


def test_a_group_without_limits_is_measured_all_the_same(real_host: RealHost) -> None:
    running = enforced(real_host, real_host.container(executable="/bin/sleep", arguments=["1000"]))
    (instance,) = real_host.ps()
    assert instance["memory"]["max"] is None
    assert instance["memory"]["current"] > 0
    families = {family.name: family for family in text_string_to_metric_families(real_host.lithos("metrics").stdout)}
    (sample,) = families["lithos_instance_memory_bytes"].samples
    assert sample.value > 0
    assert (
        "lithos_instance_memory_max_bytes" not in families or not families["lithos_instance_memory_max_bytes"].samples
    )
    running.stop()


def test_a_fork_bomb_stops_at_its_limit(real_host: RealHost) -> None:
    running = enforced(real_host, real_host.program(BOMB, pids_limit=20))
    said = until(lambda: real_host.log("stdout").strip(), "the bomb has gone off")
    # The init and the application are two of the twenty.
    assert int(said) == 18
    (instance,) = real_host.ps()
    assert (MOUNT / instance["cgroup"] / "pids.current").read_text().strip() == "20"
    running.stop()


def test_who_ignores_the_stop_signal_is_gone_after_kill_timeout(real_host: RealHost) -> None:
    running = enforced(real_host, real_host.program(STUBBORN, kill_timeout=1))
    until(lambda: "deaf" in real_host.log("stdout"), "the application ignores SIGTERM")
    assert any("has not ended by its stop signal" in line for line in running.stop())


def test_a_memory_limit_that_the_setup_itself_can_hardly_live_in(real_host: RealHost) -> None:
    """A child of the supervisor is charged only for the pages that it writes, so little is enough for the set-up."""
    file = real_host.container(executable="/bin/sleep", arguments=["1000"], memory_limit="2Mi", init=False)
    running = enforced(real_host, file)
    (instance,) = real_host.ps()
    assert instance["memory"]["max"] == 2 * MIB
    running.stop()
