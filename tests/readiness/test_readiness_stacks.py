"""`listening` readiness with real servers: it is never early, and where it cannot see it says so."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from programs import STACKS
from real_host import until

from lithos_runner.supervisor.readiness.listening import Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from programs import Program

LOOKS = 20
BIN = Path(sys.executable).parent


def python(name: str, *arguments: str) -> list[str]:
    return [sys.executable, str(STACKS / name), *arguments]


def node(when: str) -> list[str]:
    return ["node", str(STACKS / "node_http.js"), when]


def gunicorn(worker: str) -> list[str]:
    options = ["--worker-class", worker, "--threads", "2"] if worker == "gthread" else ["--worker-class", worker]
    hooks = str(STACKS / "gunicorn_hooks.py")
    return [str(BIN / "gunicorn"), "wsgi:app", "--bind", "fd://3", "--config", hooks, *options]


def uvicorn(loop: str) -> list[str]:
    return [str(BIN / "uvicorn"), "asgi:app", "--fd", "3", "--loop", loop]


SEEN = {
    "asyncio": python("streams.py", "asyncio"),
    "uvloop": python("streams.py", "uvloop"),
    "Flask": python("flask_server.py"),
    "Twisted": python("twisted_server.py"),
    "Node, which listens and then blocks": node("early"),
    "Node, whose loop runs before": node("late"),
    "gunicorn sync": gunicorn("sync"),
    "gunicorn gthread": gunicorn("gthread"),
    "uvicorn": uvicorn("asyncio"),
    "uvicorn on uvloop": uvicorn("uvloop"),
    **{
        kind: python("plain.py", kind)
        for kind in (
            "accept",
            "select",
            "poll",
            "epoll",
            "one-shot",
            "no-interest",
            "epoll-in-epoll",
            "epoll-in-poll",
            "other-thread",
            "child",
            "duplicate",
        )
    },
}


def never_early(started: Program, wait: Wait) -> None:
    """While it holds still, no look says `wait`; after that one does, but not before the program has said it."""
    started.until_held()
    for _ in range(LOOKS):
        assert started.look() is Wait.NOT_YET
    started.let_go()
    until(lambda: started.look() is wait, wait.value)
    assert started.said_that_it_serves()


@pytest.mark.parametrize("command", SEEN.values(), ids=SEEN)
def test_a_server_is_seen_when_it_serves_and_not_before(program: Callable[..., Program], command: list[str]) -> None:
    started = program(*command)
    never_early(started, Wait.WAITING)
    with started.connect() as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert client.recv(12).startswith(b"HTTP/1."), "it does serve"


def test_go_is_unclear_once_it_has_opened_the_socket(program: Callable[..., Program], go_http: str) -> None:
    started = program(go_http, "late")
    never_early(started, Wait.UNCLEAR)
    keep_alive_proves_it(started)


def test_go_that_opens_the_socket_early_is_never_taken_for_serving(
    program: Callable[..., Program], go_http: str
) -> None:
    """The runtime sleeps in epoll_wait with the socket in its set, and nobody accepts."""
    started = program(go_http, "early")
    started.until_held()
    with started.connect():
        for _ in range(LOOKS):
            # A thread that has just been woken, and runs, is seen to wait for nothing.
            assert {started.look(), started.look_with_connections()} <= {Wait.UNCLEAR, Wait.NOT_YET}
        until(lambda: started.look() is Wait.UNCLEAR, "it sleeps again")
    started.let_go()
    keep_alive_proves_it(started)


def keep_alive_proves_it(started: Program) -> None:
    """A connection that was accepted proves what no thread shows."""
    with started.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(12).startswith(b"HTTP/1.")
        assert started.said_that_it_serves()
        until(lambda: started.look() is Wait.UNCLEAR, "it sleeps again")
        assert started.look_with_connections() is Wait.ACCEPTED


def test_an_edge_triggered_set_is_no_proof(program: Callable[..., Program]) -> None:
    started = program(*python("plain.py", "edge-triggered"))
    started.until_held()
    until(lambda: started.look() is Wait.UNCLEAR, "it is in epoll_wait")
    assert not started.said_that_it_serves()


def test_an_accept_in_an_io_uring_is_unclear(program: Callable[..., Program]) -> None:
    never_early(program(*python("io_uring.py")), Wait.UNCLEAR)
