"""A small web server on asyncio that works with and without lithos.

Started by lithos it gets the listening socket as descriptor 3, shared with all other instances; started by hand it
opens port 8000 itself. Nothing else in here knows of lithos.
"""

import asyncio
import os
import signal
import socket

PAGE = "Hello from {name}, user {user}, {memory} MiB of memory used\n"


def memory_used() -> int:
    """Return the resident memory of this process in MiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection: any request gets the page, until the client closes."""
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            name = os.environ.get("LITHOS_NAME", "a plain process")
            page = PAGE.format(name=name, user=os.getuid(), memory=memory_used()).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(page)}\r\n\r\n"
            writer.write(head.encode() + page)
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        pass
    finally:
        writer.close()


async def main() -> None:
    """Serve until SIGTERM."""
    if os.environ.get("LISTEN_FDS") == "1":
        server = await asyncio.start_server(answer, sock=socket.socket(fileno=3))
    else:
        server = await asyncio.start_server(answer, "127.0.0.1", 8000)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print("serving", *(listener.getsockname() for listener in server.sockets), flush=True)
    await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())
