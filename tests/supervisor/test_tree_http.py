"""`readiness: !Http` asks the instance that starts, and nobody else, on a shared socket and with `reuse-port`."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from clients import Line, Load
from real_host import PATIENCE, queued, request, until
from real_tree import ACCEPTING, HANGS

if TYPE_CHECKING:
    from real_tree import RealTree

# Like `SERVER`; a GET it answers with a status, None for not at all. It prints its version and who came.
PAGE = f"""
import os
version = os.environ["VERSION"]
asked, kept = 0, []
{ACCEPTING}
    said = client.recv(1000)
    if said.startswith(b"GET"):
        asked += 1
        print(version, "GET", flush=True)
        status = STATUS
        if status is None:
            kept.append(client)
            continue
        client.sendall(f"HTTP/1.0 {{status}} x\\r\\n\\r\\n".encode())
    elif said:  # else the question was for another instance
        print(version, "client", flush=True)
        client.sendall(f"{{version}} {{os.environ['LITHOS_NAME']}}".encode())
    client.close()
"""
GOOD, BAD, DEAF = (PAGE.replace("STATUS", status) for status in ("200", "500", "None"))
GOOD_AT_LAST = PAGE.replace("STATUS", "200 if asked > 20 else 503")
# All instances in epoll_wait(2) are woken by each connection, always in the same order.
EPOLL = """
import select, socket
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
# Of those in accept(2) one is woken, in turn.
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
    # Of a shared socket the others may be faster all the time.
    assert why in reason or (not reuse_port and "was not answered: other instances took " in reason)
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
    with Load(port, 4 * [Line]) as load:
        load.until_answered_by("v1")
        real_tree.processes("shop", {"web": real_tree.entry("v2", 2)})
        running.reload()
        running.until_phases("shop/web", phase="rolled back")
        load.until_answered_by("v1")
    assert load.failures == []
    assert load.versions() == {"v1"}
    running.stop()


def test_it_is_asked_before_any_client_reaches_it(real_tree: RealTree) -> None:
    """With `reuse-port`: 21 times here, while clients come all the time."""
    port = real_tree.port()
    real_tree.sandbox("shop")
    real_tree.image("v1", GOOD, **socket_keys(True, port))
    real_tree.image("v2", GOOD_AT_LAST, **socket_keys(True, port))
    real_tree.processes("shop", {"web": real_tree.entry("v1", 2)})
    running = real_tree.tree().until_serving()
    with Load(port, 4 * [Line]) as load:
        load.until_answered_by("v1")
        upgrade = {"max-surge": 2, "warm-up": 0.5}
        real_tree.processes("shop", {"web": real_tree.entry("v2", 2, upgrade=upgrade)})
        running.reload()
        running.until_phases("shop/web")
        load.until_answered_by("v2")
    assert load.failures == []
    for name in running.pids():
        came = [line for line in real_tree.log_of(name).splitlines() if line.startswith("v2 ")]
        assert came[:21] == ["v2 GET"] * 21
        assert "v2 GET" not in came[21:]
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
    """Started at once, they compete for the questions."""
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
