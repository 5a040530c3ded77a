"""`!Http` readiness: one GET on the event loop."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from real_host import PATIENCE

from lithos_runner.supervisor.loop import Loop
from lithos_runner.supervisor.readiness.http import Address, Get, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def connected(address: Address) -> socket.socket:
    connection = socket.create_connection(address, timeout=PATIENCE)
    connection.setblocking(False)
    return connection


def ask(loop: Loop, address: Address, path: str = "/", timeout: float = PATIENCE) -> str | None:
    """Ask, and turn the loop until the result is told."""
    results: list[str | None] = []
    connection = connected(address)
    Get(connection, Request(address, path, timeout), loop, results.append)
    assert results == [], "not before the request exists"
    while not results:
        loop.turn()
    # Whatever is left of the request would be told now.
    loop.deadline("end", time.monotonic(), lambda: None)
    loop.turn()
    assert len(results) == 1
    assert connection.fileno() == -1, "it is closed"
    return results[0]


class Handler(http.server.BaseHTTPRequestHandler):
    requests: list[tuple[str, str | None]] = []  # noqa: RUF012 - each test's own, see `server`

    def do_GET(self) -> None:
        self.requests.append((self.path, self.headers["Host"]))
        self.send_response(int(self.path.rpartition("/")[2]) if self.path[-1].isdigit() else 200)
        self.end_headers()
        self.wfile.write(b"x" * 100000)  # more than anybody asked for

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, int]]:
    Handler.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=[0.01])
        thread.start()
        yield "127.0.0.1", made.server_address[1]
        made.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "sent"), [("/", "/"), ("/up?a=b", "/up?a=b"), ("/ü b\r\nX: y", "/%C3%BC%20b%0D%0AX:%20y")]
)
def test_a_good_answer(loop: Loop, server: tuple[str, int], path: str, sent: str) -> None:
    assert ask(loop, server, path) is None
    assert Handler.requests == [(sent, f"127.0.0.1:{server[1]}")]


@pytest.mark.parametrize("status", [301, 404, 503])
def test_the_status_decides(loop: Loop, server: tuple[str, int], status: int) -> None:
    good = status < 400
    expected = None if good else f"GET /{status} from 127.0.0.1:{server[1]} was answered with status {status}"
    assert ask(loop, server, f"/{status}") == expected


def test_nobody_answers_in_time(loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert (
            ask(loop, ("127.0.0.1", port), "/up", 0.05) == f"GET /up from 127.0.0.1:{port} was not answered in 0.05 s"
        )


@pytest.fixture
def speak() -> Iterator[Callable[[socket.socket, list[bytes]], None]]:
    """Answer the next connection with pieces, each once the one before has been taken, and close it."""
    threads: list[threading.Thread] = []

    def speak(listener: socket.socket, pieces: list[bytes]) -> None:
        def run() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(4096)
                for piece in pieces:
                    client.send(piece)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield speak
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("pieces", "wrong"),
    [
        ([b"HT", b"TP/1.1 2", b"00 OK\r", b"\n"], None),
        ([b"HTTP/1.1 200 OK"], None),  # closed without an end of the line: the status is there
        ([], "was not answered: the connection was closed"),
        ([b"x" * 3000], "was not answered in HTTP"),
        ([b"\0\xff\r\n"], "was not answered in HTTP"),
    ],
)
def test_answers_in_pieces_and_nonsense(
    loop: Loop, speak: Callable[..., None], pieces: list[bytes], wrong: str | None
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        speak(listener, pieces)
        port = listener.getsockname()[1]
        expected = f"GET / from 127.0.0.1:{port} {wrong}" if wrong else None
        assert ask(loop, ("127.0.0.1", port)) == expected


def test_a_connection_that_is_reset(loop: Loop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        results: list[str | None] = []
        address = ("127.0.0.1", port)
        Get(connected(address), Request(address, "/", PATIENCE), loop, results.append)
        loop.turn()
        client, _ = listener.accept()
        client.recv(1)  # the rest stays unread, so that close() resets
        client.close()
        while not results:
            loop.turn()
        assert results == [f"GET / from 127.0.0.1:{port} failed: Connection reset by peer"]


def test_ipv6(loop: Loop, speak: Callable[..., None]) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        speak(listener, [b"HTTP/1.1 500 x\r\n"])
        port = listener.getsockname()[1]
        assert ask(loop, ("::1", port)) == f"GET / from [::1]:{port} was answered with status 500"


def test_a_request_that_is_taken_back_tells_nothing(loop: Loop, server: tuple[str, int]) -> None:
    results: list[str | None] = []
    Get(connected(server), Request(server, "/", 0.0), loop, results.append).close()
    loop.deadline("end", time.monotonic(), lambda: None)
    loop.turn()
    assert results == []
