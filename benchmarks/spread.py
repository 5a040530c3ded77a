"""How evenly are connections spread? `python -m benchmarks.spread`, as root, runs four instances under `lithos run`.

For each application, each way to share an address and each number of clients it makes several runs of the same number
of requests, one connection each, and prints the medians of the largest and the smallest share that an instance had of
a run. Even would be 25 % and 25 %.

Without a FILE the applications are two small ones that wait for connections in epoll and in accept. A FILE is a
container file of examples/, set up as its README says; its port must be free.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml

from . import program

INSTANCES = 4
PATIENCE = 60.0  # seconds

_ANSWER = """
import os, selectors, socket
listener = socket.socket(fileno=3)
name = os.environ["LITHOS_NAME"].encode()
page = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name)
def answer():
    client, _ = listener.accept()
    client.recv(1000)
    client.sendall(page)
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

_NAME = re.compile(r"run/spread\.\d+")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.spread", description=__doc__)
    parser.add_argument("--runs", type=program.positive, default=9, metavar="N", help="runs of each (default: 9)")
    parser.add_argument(
        "--requests", type=program.positive, default=400, metavar="N", help="requests of a run (default: 400)"
    )
    parser.add_argument("files", nargs="*", metavar="FILE", type=Path, help="container files of applications")
    return parser.parse_args()


def _run(options: argparse.Namespace) -> int:
    applications = {file.stem: yaml.safe_load(file.read_text()) for file in options.files} or own_applications()
    print(f"{INSTANCES} instances, {options.runs} runs of {options.requests} requests; medians over the runs\n")
    print("| application | address | clients | largest share | smallest share |\n|---|---|---|---|---|")
    for name, container in applications.items():
        for reuse_port in (False, True):
            with service(container, reuse_port) as port:
                for clients in (1, 32):
                    runs = [shares(port, options.requests, clients) for _ in range(options.runs)]
                    print(row(name, reuse_port, clients, runs), flush=True)
    return 0


def own_applications() -> dict[str, dict[str, Any]]:
    """The container files of `PROGRAMS`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return {
        name: {
            "executable": program.PYTHON,
            "arguments": ["-I", "-S", "-c", _ANSWER + source],
            "tcp-ports": {port: {"fd": 3, "host": "127.0.0.1"}},
        }
        for name, source in PROGRAMS.items()
    }


def row(name: str, reuse_port: bool, clients: int, runs: list[list[float]]) -> str:
    """One line of the table; each run is the shares that the instances had of it."""
    largest, smallest = (statistics.median(pick(run) for run in runs) for pick in (max, min))
    kind = "`reuse-port`" if reuse_port else "shared"
    return f"| {name} | {kind} | {clients} | {largest:.0%} | {smallest:.0%} |"


def shares(port: int, requests: int, clients: int) -> list[float]:
    """The share of each instance in so many requests, made by so many clients at once."""
    with ThreadPoolExecutor(clients) as pool:
        names = Counter(pool.map(ask, [port] * requests))
    return [names[f"run/spread.{index}"] / requests for index in range(INSTANCES)]


def ask(port: int) -> str:
    """Make one request; returns the name of the instance that answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with closing(connection):
        connection.request("GET", "/")
        page = connection.getresponse().read().decode()
    found = _NAME.search(page)
    assert found, page
    return found[0]


@contextmanager
def service(container: dict[str, Any], reuse_port: bool) -> Iterator[int]:
    """Run the instances and yield their port when all are ready."""
    ((port, entry),) = container["tcp-ports"].items()
    changed = container | {"tcp-ports": {port: entry | {"reuse-port": reuse_port, "listen-backlog": 1024}}}
    with tempfile.TemporaryDirectory(prefix="lithos-spread-", dir="/var/tmp") as directory:
        file = Path(directory, "spread.yaml")
        file.write_text(json.dumps(changed))
        environ = {**os.environ, "LITHOS_RUNTIME_DIR": f"{directory}/run", "LITHOS_LOG_DIR": f"{directory}/log"}
        run = [*program.LITHOS, "run", str(file), "--instances", str(INSTANCES), "--limits", "available"]
        supervisor = subprocess.Popen(run, env=environ, stderr=subprocess.PIPE)
        try:
            _wait([*program.LITHOS, "ps", "--json"], environ, supervisor)
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
    raise program.Failed("the instances did not become ready")


if __name__ == "__main__":
    sys.exit(program.main("spread", _run, _parse()))
