"""The slow start that every program has: it holds still until the test lets it go, and says when it will serve."""

from __future__ import annotations

import os
import socket

LISTENER, GO, NEWS = 3, 4, 5


def hold() -> None:
    """Block outside of any event loop."""
    os.write(NEWS, b"h")
    os.read(GO, 1)


async def hold_in_loop() -> None:
    """Wait inside the event loop, as for a database that does not answer yet."""
    import asyncio

    loop = asyncio.get_running_loop()
    go = loop.create_future()
    loop.add_reader(GO, go.set_result, None)
    os.write(NEWS, b"h")
    await go
    loop.remove_reader(GO)


def serving() -> None:
    """Say that the next thing is to serve."""
    os.write(NEWS, b"s")


def listener() -> socket.socket:
    return socket.socket(fileno=LISTENER)
