"""`readiness: !Http` asks the instance that starts, and nobody else, on a shared socket and with `reuse-port`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from real_host import PATIENCE, queued, request, until
from real_tree import HANGS, SERVER, Load

if TYPE_CHECKING:
    from real_tree import RealTree

# `SERVER`, and in addition it answers a GET: with STATUS, or not at all. It prints who came: GET or client.
PAGE = SERVER.replace(
    "    client.settimeout(60)\n    if client.recv(100) ==",
    """    client.settimeout(60)
    said = client.recv(1000)
    if not said:  # it was not for this instance
        client.close()
        continue
    print("GET" if said.startswith(b"GET") else "client", flush=True)
    if said.startswith(b"GET"):
        asked += 1
        ANSWER
        client.close()
        continue
    if said ==""",
).replace("listener.setblocking", "asked, kept = 0, []\nlistener.setblocking")
ANSWERS = 'client.sendall(f"HTTP/1.0 {status} x\\r\\n\\r\\n".encode())'
GOOD = PAGE.replace("ANSWER", f"status = 200; {ANSWERS}")
BAD = PAGE.replace("ANSWER", f"status = 500; {ANSWERS}")
DEAF = PAGE.replace("ANSWER", "kept.append(client.dup())")
GOOD_AT_LAST = PAGE.replace("ANSWER", f"status = 503 if asked <= 20 else 200; {ANSWERS}")
# The same with epoll, where all that wait are woken, and the last one to come first.
EPOLL = """
import os, select, signal, socket
listener = socket.socket(fileno=3)
listener.setblocking(False)
epoll = select.epoll()
epoll.register(listener, select.EPOLLIN)
clients = {}
while True:
    for number, events in epoll.poll():
        if number == 3:
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                continue
            clients[client.fileno()] = client
            epoll.register(client, select.EPOLLIN)
            continue
        client = clients.pop(number)
        epoll.unregister(client)
        with client:
            if client.recv(1000):
                client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
"""
BLOCKING = """
import socket
listener = socket.socket(fileno=3)
while True:
    client, _ = listener.accept()
    with client:
        if client.recv(1000):
            client.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
"""


def socket_keys(reuse_port: bool, port: int) -> dict[str, Any]:
    return {"port": port, "socket": {"reuse-port": reuse_port}, "readiness": "!Http {path: /up, timeout: 0.2}"}


@pytest.mark.parametrize("reuse_port", [False, True], ids=["shared", "reuse-port"])
@pytest.mark.parametrize(
    ("program", "why"),
    [
        (BAD, "was answered with status 500"),
        (DEAF, "was not answered in 0.2 s"),
        (HANGS, ""),  # it never accepts
    ],
    ids=["500", "deaf", "hangs"],
)
def test_a_version_is_not_ready_because_the_old_one_answers(
    real_tree: RealTree, reuse_port: bool, program: str, why: str
) -> None:
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("v1", GOOD, **socket_keys(reuse_port, port))
    real_tree.image("v2", program, readiness_timeout=2, **socket_keys(reuse_port, port))
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    before = running.pids()
    real_tree.processes("shop", {"web": real_tree.entry("v2", 2)})
    running.reload()
    running.until_phases("shop/web", phase="rolled back")
    reason = running.services()["shop/web"]["reason"]
    assert f"was not ready after 2 s: GET /up from 127.0.0.1:{port}" in reason
    assert why in reason
    until(lambda: set(running.states().values()) == {"ready"}, "the new one is gone")
    assert running.pids() == before
    running.stop()


def test_a_version_that_never_gets_ready_meets_no_client(real_tree: RealTree) -> None:
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("v1", GOOD, **socket_keys(True, port))
    real_tree.image("v2", BAD, readiness_timeout=2, **socket_keys(True, port))
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    with Load(port, clients=4) as load:
        load.until_answered_by("v1")
        real_tree.processes("shop", {"web": real_tree.entry("v2", 2)})
        running.reload()
        running.until_phases("shop/web", phase="rolled back")
        load.until_answered_by("v1")
    assert load.failures == []
    assert set(load.versions()) == {"v1"}
    running.stop()


def test_it_is_asked_before_any_client_reaches_it(real_tree: RealTree) -> None:
    """With `reuse-port`: 21 times here, while clients come all the time."""
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("v1", GOOD, **socket_keys(True, port))
    real_tree.image("v2", GOOD_AT_LAST, **socket_keys(True, port))
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    with Load(port, clients=4) as load:
        load.until_answered_by("v1")
        real_tree.processes("shop", {"web": real_tree.entry("v2", 2, upgrade={"max-surge": 2})})
        running.reload()
        running.until_phases("shop/web")
        load.until_answered_by("v2")
    assert load.failures == []
    for name in running.pids():
        came = real_tree.log_of(name).split()
        first = len(came) - came[::-1].index("GET")
        assert came[first - 21 : first] == ["GET"] * 21, came
    running.stop()


@pytest.mark.parametrize("reuse_port", [False, True], ids=["shared", "reuse-port"])
def test_the_next_supervisor_asks_anew(real_tree: RealTree, reuse_port: bool) -> None:
    """The first one is killed while its question waits in the queue of an instance that does not serve yet."""
    port, gate = real_tree.port(), real_tree.port()
    keys = {"readiness": f"!Http {{port: {port}}}"}
    sockets = {str(port): {"fd": 3, "host": "127.0.0.1", "reuse-port": reuse_port}}
    sockets |= {str(gate): {"fd": 4, "host": "127.0.0.1"}}
    real_tree.sandbox("shop")
    real_tree.image("v1", f"import socket\nsocket.socket(fileno=4).accept()\n{GOOD}", tcp_ports=sockets, **keys)
    real_tree.processes("shop", {"web": real_tree.entry("v1")})
    first = real_tree.tree()
    until(lambda: queued(port), "the question waits")
    before = first.pids()
    first.kill()
    running = real_tree.tree()
    until(lambda: queued(port) > 1, "the next one's waits, too")
    assert running.states() == {"shop/web.0": "starting"}
    with socket.create_connection(("127.0.0.1", gate), timeout=PATIENCE):
        running.until_phases("shop/web")
    assert running.pids() == before
    assert request(port) == "v1 shop/web.0"
    running.stop()


@pytest.mark.parametrize("program", [EPOLL, BLOCKING], ids=["epoll", "accept"])
def test_of_several_that_share_a_socket_each_is_asked(real_tree: RealTree, program: str) -> None:
    """Started at once, they compete for the questions; in accept(2) they take turns, in epoll_wait(2) they do not."""
    port = real_tree.port()
    real_tree.sandbox("shop")
    for version in ("v1", "v2"):
        real_tree.image(version, program, **socket_keys(False, port))
    real_tree.processes("shop", {"web": real_tree.entry("v1", 4)})
    running = real_tree.tree().until_serving()
    real_tree.processes("shop", {"web": real_tree.entry("v2", 4)})
    running.reload()
    running.until_phases("shop/web")
    assert set(running.states().values()) == {"ready"}
    assert {one["restarts"] for one in running.instances()} == {0}
    running.stop()
