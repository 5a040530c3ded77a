"""How evenly are connections spread? `python -m benchmarks.spread`, as root, runs four instances under `lithos run`.

For each way to share an address, each way to wait for connections and each number of clients it makes several runs of
the same number of requests, one connection each, and prints the medians of the largest and the smallest share that an
instance had of a run. Even would be 25 % and 25 %.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

INSTANCES = 4
PATIENCE = 60.0  # seconds
PYTHON = "/usr/bin/python3"  # the instances' user can reach it, which is not so for every virtual environment

_ANSWER = """
import os, selectors, socket
listener = socket.socket(fileno=3)
name = os.environ["LITHOS_NAME"].encode()
def answer():
    client, _ = listener.accept()
    client.sendall(name)
    client.close()
"""
# As event loops do it, and as threads do it: the kernel wakes them in different orders.
PROGRAMS = {
    "epoll": """
listener.setblocking(False)
waiting = selectors.EpollSelector()
waiting.register(listener, selectors.EVENT_READ)
while True:
    waiting.select()
    try:
        answer()
    except BlockingIOError:  # another one was faster
        pass
""",
    "accept": "while True: answer()\n",
}


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spread", description=__doc__)
    parser.add_argument("--runs", type=int, default=9, metavar="N", help="runs of each (default: 9)")
    parser.add_argument("--requests", type=int, default=400, metavar="N", help="requests of a run (default: 400)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("benchmarks.spread: instances need root: run as root", file=sys.stderr)
        return 1
    print(f"{INSTANCES} instances, {options.runs} runs of {options.requests} requests; medians over the runs\n")
    print("| address | waits in | clients | largest share | smallest share |\n|---|---|---|---|---|")
    for reuse_port in (False, True):
        for program in PROGRAMS:
            with service(program, reuse_port) as port:
                for clients in (1, 32):
                    runs = [shares(port, options.requests, clients) for _ in range(options.runs)]
                    print(row(reuse_port, program, clients, runs), flush=True)
    return 0


def row(reuse_port: bool, program: str, clients: int, runs: list[list[float]]) -> str:
    """One line of the table; each run is the shares that the instances had of it."""
    largest, smallest = (statistics.median(pick(run) for run in runs) for pick in (max, min))
    kind = "`reuse-port`" if reuse_port else "shared"
    return f"| {kind} | {program} | {clients} | {largest:.0%} | {smallest:.0%} |"


def shares(port: int, requests: int, clients: int) -> list[float]:
    """The share of each instance in so many requests, made by so many clients at once."""
    with ThreadPoolExecutor(clients) as pool:
        names = Counter(pool.map(ask, [port] * requests))
    return [names[f"run/spread.{index}"] / requests for index in range(INSTANCES)]


def ask(port: int) -> str:
    """Make one request; returns the name of the instance that answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        return client.recv(100).decode()


@contextmanager
def service(program: str, reuse_port: bool) -> Iterator[int]:
    """Run the instances and yield their port when all are ready."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="lithos-spread-", dir="/var/tmp") as directory:
        entry = {"fd": 3, "host": "127.0.0.1", "reuse-port": reuse_port, "listen-backlog": 1024}
        arguments = ["-I", "-S", "-c", _ANSWER + PROGRAMS[program]]
        file = Path(directory, "spread.yaml")
        file.write_text(json.dumps({"executable": PYTHON, "arguments": arguments, "tcp-ports": {str(port): entry}}))
        environ = {**os.environ, "LITHOS_RUNTIME_DIR": f"{directory}/run", "LITHOS_LOG_DIR": f"{directory}/log"}
        lithos = [sys.executable, "-m", "lithos_runner.commands.main"]
        run = [*lithos, "run", str(file), "--instances", str(INSTANCES), "--limits", "available"]
        supervisor = subprocess.Popen(run, env=environ, stderr=subprocess.PIPE)
        try:
            _wait([*lithos, "ps", "--json"], environ, supervisor)
            yield port
        finally:
            supervisor.terminate()
            supervisor.communicate(timeout=PATIENCE)


def _wait(ps: list[str], environ: dict[str, str], supervisor: subprocess.Popen[bytes]) -> None:
    """Until every instance is ready, and so waits for connections."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and supervisor.poll() is None:
        answer = json.loads(subprocess.run(ps, env=environ, stdout=subprocess.PIPE, check=True).stdout)
        states = [one["state"] for each in answer["supervisors"] for one in each["instances"]]
        if states == ["ready"] * INSTANCES:
            return
    raise SystemExit("benchmarks.spread: the instances did not become ready")


if __name__ == "__main__":
    sys.exit(main())
