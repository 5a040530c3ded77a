"""`!Http` readiness: the page of one instance, however many share its socket."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from programs import STACKS
from real_host import PATIENCE, until

from lithos_runner.supervisor.loop import Loop
from lithos_runner.supervisor.readiness import connections
from lithos_runner.supervisor.readiness.http import Request
from lithos_runner.supervisor.readiness.listening import Wait
from lithos_runner.supervisor.readiness.page import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from programs import Program

KINDS = ("asyncio", "accept")


class Asked:
    """A page of the processes `pids`, and what was told of it."""

    def __init__(self, listener: socket.socket, pids: Callable[[], list[int]]) -> None:
        host, port = listener.getsockname()[:2]
        self.loop = Loop()
        self.told: list[tuple[bool, str]] = []
        self.what = f"GET /up from {f'[{host}]' if ':' in host else host}:{port}"
        request = Request((host, port), "/up", PATIENCE)
        self.page = Page(request, self.loop, pids, None, lambda: True, lambda *told: self.told.append(told))

    def until_told(self) -> tuple[bool, str]:
        while not self.told:
            self.loop.turn()
        return self.told.pop()

    def ask(self) -> bool:
        self.page.ask()
        assert self.told == [], "not before it returns"
        return self.until_told()[0]

    def close(self) -> None:
        self.page.close()
        self.loop.close()


@pytest.fixture
def asked() -> Iterator[Callable[..., Asked]]:
    with ExitStack() as stack:

        def make(listener: socket.socket, pids: Callable[[], list[int]]) -> Asked:
            made = Asked(listener, pids)
            stack.callback(made.close)
            return made

        yield make


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as made:
        made.settimeout(PATIENCE)
        yield made


def ourselves() -> list[int]:
    return [os.getpid()]


def page(kind: str, status: int) -> list[str]:
    return [sys.executable, str(STACKS / "page.py"), kind, str(status)]


def serve(started: Program) -> None:
    started.let_go()
    until(lambda: started.look() is Wait.WAITING, "it serves")


@pytest.mark.parametrize("older", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("old", "new"), [(200, 503), (503, 200)])
def test_others_at_the_same_socket_are_never_asked(
    program: Callable[..., Program], asked: Callable[..., Asked], kind: str, older: int, old: int, new: int
) -> None:
    others = [program(*page(kind, old)) for _ in range(older)]
    started = program(*page(kind, new))
    for each in (*others, started):
        each.until_held()
    for each in others:
        serve(each)
    one = asked(started.listener, started.pids)
    for _ in range(5):
        assert not one.ask(), "it does not serve yet, the others do"
        assert one.page.fault.startswith(f"{one.what} was not answered: other instances took ")
    serve(started)
    # None of a hundred rounds, most of 16 connections at once, is not bad luck.
    answers = [one.ask() for _ in range(100) if new != 200 or one.page.fault]
    assert (one.page.fault, answers[-1]) == (
        ("", True) if new == 200 else (f"{one.what} was answered with status 503", False)
    )
    assert sum(answers) == (new == 200)


@pytest.mark.parametrize("kind", KINDS)
def test_the_one_that_was_started_first_is_asked_too(
    program: Callable[..., Program], asked: Callable[..., Asked], kind: str
) -> None:
    """Of those in epoll_wait(2) it is the last one to be woken."""
    started, *others = [program(*page(kind, status)) for status in (200, 503, 503, 503)]
    for each in (started, *others):
        each.until_held()
        serve(each)
    one = asked(started.listener, started.pids)
    assert any(one.ask() for _ in range(100))
    assert one.page.fault == ""


def test_a_connection_waits_until_the_instance_accepts(
    program: Callable[..., Program], asked: Callable[..., Asked]
) -> None:
    started = program(*page("accept", 204))
    started.until_held()
    one = asked(started.listener, started.pids)
    one.page.ask()
    for _ in range(10):
        one.loop.turn()
    assert one.told == []
    assert one.page.fault == f"{one.what}: nobody has accepted the connection"
    started.let_go()
    assert one.until_told() == (True, "")
    assert one.page.fault == ""


def test_nobody_listens(asked: Callable[..., Asked], listener: socket.socket) -> None:
    one = asked(listener, ourselves)
    listener.close()
    assert not one.ask()
    assert one.page.fault == f"{one.what} failed: Connection refused"


@pytest.mark.parametrize(
    ("linger", "reason"), [(0, "the connection was closed before the request"), (1, "Connection reset by peer")]
)
def test_a_connection_that_is_closed_unasked(
    asked: Callable[..., Asked], listener: socket.socket, linger: int, reason: str
) -> None:
    one = asked(listener, ourselves)
    one.page.ask()
    one.loop.turn()
    client, _ = listener.accept()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger.to_bytes(4, sys.byteorder) + bytes(4))
    client.close()
    assert one.until_told() == (False, "")
    assert one.page.fault == f"{one.what} failed: {reason}"


def test_what_is_taken_back_leaves_nothing(asked: Callable[..., Asked], listener: socket.socket) -> None:
    one = asked(listener, ourselves)
    before = os.listdir("/proc/self/fd")
    one.page.ask()
    one.loop.turn()
    one.page.close()
    assert os.listdir("/proc/self/fd") == before
    one.loop.deadline("end", 0.0, lambda: None)
    one.loop.turn()
    assert one.told == []


# Where it cannot be seen


def answered(one: Asked, listener: socket.socket) -> tuple[bool, str]:
    """Ask, and answer it ourselves."""
    one.page.ask()
    one.loop.turn()
    client, _ = listener.accept()
    with client:
        while not one.told:
            one.loop.turn()
            client.setblocking(False)
            try:
                client.recv(1000)
            except BlockingIOError:
                continue
            client.sendall(b"HTTP/1.0 200 OK\r\n")
    return one.told.pop()


REMARK = "it cannot be seen who accepts a connection ({}), so whoever answers is taken to be it"


def test_with_too_many_descriptors_any_answer_counts_and_that_is_said(
    asked: Callable[..., Asked], listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answered(asked(listener, ourselves), listener) == (True, "")
    monkeypatch.setattr(connections, "MOST_DESCRIPTORS", 2)
    remark = REMARK.format("it has too many descriptors to look at")
    assert answered(asked(listener, ourselves), listener) == (True, remark)


def test_with_a_kernel_that_finds_no_connections_any_answer_counts_and_that_is_said(
    asked: Callable[..., Asked], listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown protocol is answered as TCP is without the module."""
    monkeypatch.setattr(socket, "IPPROTO_TCP", 254)
    kernel = "cannot list TCP connections: No such file or directory; the kernel needs CONFIG_INET_TCP_DIAG"
    assert answered(asked(listener, list), listener) == (True, REMARK.format(kernel))


def test_without_the_right_to_look_any_answer_counts_and_that_is_said(
    asked: Callable[..., Asked], listener: socket.socket
) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setresuid(65534, 65534, 65534)
            told = answered(asked(listener, lambda: [1]), listener)
            code = told != (True, REMARK.format("cannot read /proc/1/fd: Permission denied"))
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
