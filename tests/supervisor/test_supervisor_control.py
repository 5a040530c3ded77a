from __future__ import annotations

import json
import os
import resource
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from real_host import PATIENCE, PYTHON

from lithos_runner.supervisor import control
from lithos_runner.supervisor.control import LONGEST, MOST_CLIENTS, Control
from lithos_runner.supervisor.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from real_host import RealHost

LARGE = "x" * (1 << 20)  # bytes; more than any socket buffer takes at once


class Served:
    """A control socket, its loop, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "control"
        self.asked: list[dict[str, Any]] = []
        self.loop = Loop()
        self.control = Control(str(self.path), self.loop, self._answer)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        return {"large": LARGE} if "large" in request else {"heard": request}

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(self.path))
        client.setblocking(False)
        return client

    def answer(self, client: socket.socket) -> bytes:
        """Turn the loop until `client` has been cut off; return what it got."""
        received = b""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.turns(1)
            try:
                more = client.recv(1 << 16)
            except BlockingIOError:
                continue
            except ConnectionResetError:  # it was cut off with a request of it unread
                return received
            if not more:
                client.close()
                return received
            received += more
        raise AssertionError("neither answered nor cut off")

    def exchange(self, sent: bytes) -> Any:
        client = self.connect()
        client.sendall(sent)
        received = self.answer(client)
        return json.loads(received) if received else None

    def turns(self, count: int) -> None:
        for _ in range(count):
            self.loop.deadline("turn", time.monotonic(), lambda: None)
            self.loop.turn()


@pytest.fixture
def served(real_host: RealHost) -> Iterator[Served]:
    """Not in pytest's directory, which only root can enter: the test of strangers needs more than that."""
    made = Served(real_host.directory)
    yield made
    made.control.close()
    assert not made.path.exists()
    made.loop.close()


def test_a_request_is_answered(served: Served) -> None:
    assert served.exchange(b'{"command": "status"}\n') == {"heard": {"command": "status"}}


def test_a_request_may_come_in_pieces(served: Served) -> None:
    client = served.connect()
    for piece in (b'{"command"', b': "sta', b'tus"}\n'):
        client.sendall(piece)
        served.turns(2)
    assert json.loads(served.answer(client)) == {"heard": {"command": "status"}}


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\n",
        b"hello\n",
        b"\0\0\0\n",
        b"\xff\xfe\n",
        b"[1]\n",
        b'"text"\n',
        b"[" * 4000 + b"\n",
        b"1e999999\n",
        b"NaN\n",
    ],
    ids=["empty", "word", "nul", "no-utf-8", "list", "text", "deep", "number", "nan"],
)
def test_nonsense_gets_a_sentence(served: Served, nonsense: bytes) -> None:
    assert served.exchange(nonsense)["error"].startswith("expected")
    assert served.asked == []


@pytest.mark.parametrize("sent", [b"", b'{"command": "status"}', b"\0" * LONGEST, b"x" * 3 * LONGEST])
def test_who_sends_no_line_or_too_much_is_cut_off(served: Served, sent: bytes) -> None:
    client = served.connect()
    client.sendall(sent)
    client.shutdown(socket.SHUT_WR)
    assert served.answer(client) == b""
    assert served.asked == []


def test_a_client_that_is_gone_before_its_answer_is_no_harm(served: Served) -> None:
    client = served.connect()
    client.sendall(b'{"large": 1}\n')
    client.close()
    served.turns(3)
    assert served.exchange(b"{}\n") == {"heard": {}}


def test_an_answer_larger_than_the_socket_takes_comes_whole_and_others_do_not_wait(served: Served) -> None:
    slow = served.connect()
    slow.sendall(b'{"large": 1}\n')
    served.turns(3)
    assert served.exchange(b"{}\n") == {"heard": {}}
    assert json.loads(served.answer(slow)) == {"large": LARGE}


def test_sixteen_clients_are_served_and_the_next_is_cut_off(served: Served) -> None:
    clients = [served.connect() for _ in range(MOST_CLIENTS)]
    served.turns(MOST_CLIENTS)
    assert served.answer(served.connect()) == b""
    clients[0].sendall(b"{}\n")
    assert served.answer(clients.pop(0)) == b'{"heard": {}}\n'
    # A place is free again.
    assert served.exchange(b"{}\n") == {"heard": {}}
    for client in clients:
        client.sendall(b'{"n": 1}\n')
        assert served.answer(client) == b'{"heard": {"n": 1}}\n'


def test_who_is_silent_loses_the_place(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PATIENCE", 0.05)
    silent = served.connect()
    deaf = served.connect()
    deaf.sendall(b'{"large": 1}\n')
    start = time.monotonic()
    assert served.answer(silent) == b""
    assert time.monotonic() - start >= 0.05
    served.turns(1)
    assert len(served.answer(deaf)) < len(LARGE)


def test_without_a_free_descriptor_a_client_waits_and_the_loop_sleeps(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "PATIENCE", 0.05)
    client = served.connect()
    client.sendall(b"{}\n")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(client.fileno())
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
    start = time.monotonic()
    served.loop.turn()  # the client cannot be accepted
    served.loop.turn()  # nothing but the deadline
    resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert time.monotonic() - start >= 0.05
    assert json.loads(served.answer(client)) == {"heard": {}}


def test_only_root_can_connect(served: Served) -> None:
    assert served.path.stat().st_mode & 0o777 == 0o600
    assert _as_nobody(served) == "PermissionError"


def test_who_is_not_root_is_cut_off_even_when_the_mode_was_opened_up(served: Served) -> None:
    served.path.chmod(0o666)
    assert _as_nobody(served) == "cut off"
    assert served.asked == []


# The request is sent after the hang-up where the supervisor is fast: EPIPE says the same as an empty answer.
_STRANGER = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
try:
    client.connect(sys.argv[1])
    client.sendall(b"{}\\n")
    print(client.recv(100).decode() or "cut off")
except PermissionError as error:
    print(type(error).__name__)
except (BrokenPipeError, ConnectionResetError):
    print("cut off")
"""


def _as_nobody(served: Served) -> str:
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", PYTHON, "-c", _STRANGER, str(served.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stranger:
        while stranger.poll() is None:
            served.loop.deadline("turn", time.monotonic() + 0.01, lambda: None)
            served.loop.turn()
        assert stranger.stdout is not None
        return stranger.stdout.read().strip()


def test_a_socket_that_was_left_behind_is_replaced(served: Served) -> None:
    again = Control(str(served.path), served.loop, lambda _request: {"new": True})
    client = served.connect()
    client.sendall(b"{}\n")
    assert served.answer(client) == b'{"new": true}\n'
    again.close()


def test_whoever_finds_the_socket_can_connect(tmp_path: Path) -> None:
    path = tmp_path / "control"
    answers: list[int] = []

    def look(_frame: object, event: str, _function: object) -> None:
        if event == "c_return" and path.is_socket():
            with socket.socket(socket.AF_UNIX) as client:
                answers.append(client.connect_ex(str(path)))

    loop = Loop()
    sys.setprofile(look)  # after every call that is made
    try:
        served = Control(str(path), loop, lambda request: request)
    finally:
        sys.setprofile(None)
    served.close()
    loop.close()
    assert set(answers) == {0}
