"""The ways to wait for a connection that libc offers; each holds still before it waits: plain.py KIND."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading

from start import GO, NEWS, hold, listener, serving

IN = select.EPOLLIN


def answer(waited: socket.socket) -> None:
    client, _ = waited.accept()
    client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
    client.recv(1000)


def accept() -> None:
    waited = listener()
    hold()
    serving()
    while True:
        answer(waited)


def use_select() -> None:
    waited = listener()
    hold()
    serving()
    while select.select([GO, waited], [], []):
        answer(waited)


def use_poll() -> None:
    waited = listener()
    poll = select.poll()
    poll.register(waited, select.POLLIN)
    hold()
    serving()
    while poll.poll():
        answer(waited)


def epoll(mask: int = IN) -> None:
    waited = listener()
    interest = select.epoll()
    interest.register(waited, mask)
    hold()
    serving()
    while interest.poll():
        answer(waited)
        interest.modify(waited, mask)


def one_shot() -> None:
    epoll(IN | select.EPOLLONESHOT)


def edge_triggered() -> None:
    """Waits in epoll_wait long before it serves, with a socket in the set that it does not accept from yet."""
    waited = listener()
    interest = select.epoll()
    interest.register(waited, IN | select.EPOLLET)
    interest.register(GO, IN)
    os.write(NEWS, b"h")
    interest.poll()
    interest.unregister(GO)
    serving()
    while interest.poll():
        answer(waited)


def no_interest() -> None:
    """Has the socket in the set it waits on, but does not ask for connections, as a server at its limit."""
    waited = listener()
    interest = select.epoll()
    interest.register(waited, 0)
    interest.register(GO, IN)
    os.write(NEWS, b"h")
    interest.poll()
    interest.unregister(GO)
    interest.modify(waited, IN)
    serving()
    while interest.poll():
        answer(waited)


def _inner() -> tuple[socket.socket, select.epoll]:
    waited = listener()
    interest = select.epoll()
    interest.register(waited, IN)
    return waited, interest


def epoll_in_epoll() -> None:
    waited, inner = _inner()
    outer = select.epoll()
    outer.register(inner, IN)
    hold()
    serving()
    while outer.poll():
        answer(waited)


def epoll_in_poll() -> None:
    waited, inner = _inner()
    poll = select.poll()
    poll.register(inner, select.POLLIN)
    hold()
    serving()
    while poll.poll():
        answer(waited)


def other_thread() -> None:
    """The main thread has more to do than to serve."""
    waited = listener()
    hold()
    serving()
    threading.Thread(target=answer, args=[waited]).start()
    threading.Event().wait()


def child() -> None:
    """The parent only holds the socket."""
    hold()
    if os.fork():
        os.wait()
    serving()
    waited = listener()
    while True:
        answer(waited)


def duplicate() -> None:
    """The number that was passed is closed."""
    with listener() as passed:
        waited = passed.dup()
    hold()
    serving()
    while True:
        answer(waited)


KINDS = {
    "accept": accept,
    "select": use_select,
    "poll": use_poll,
    "epoll": epoll,
    "one-shot": one_shot,
    "edge-triggered": edge_triggered,
    "no-interest": no_interest,
    "epoll-in-epoll": epoll_in_epoll,
    "epoll-in-poll": epoll_in_poll,
    "other-thread": other_thread,
    "child": child,
    "duplicate": duplicate,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]]()
