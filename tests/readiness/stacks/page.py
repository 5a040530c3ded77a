"""A page with a status, on a socket that others may share: page.py asyncio|accept STATUS."""

from __future__ import annotations

import asyncio
import sys

from start import hold, hold_in_loop, listener, serving

ANSWER = f"HTTP/1.0 {sys.argv[2]} x\r\n\r\n".encode()


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await reader.read(1000):
        writer.write(ANSWER)
    writer.close()


async def in_epoll() -> None:
    waited = listener()
    await hold_in_loop()
    serving()
    server = await asyncio.start_server(answer, sock=waited)
    await server.serve_forever()


def one_by_one() -> None:
    waited = listener()
    hold()
    serving()
    while True:
        with waited.accept()[0] as client:
            if client.recv(1000):
                client.sendall(ANSWER)


if sys.argv[1] == "asyncio":
    asyncio.run(in_epoll())
else:
    one_by_one()
