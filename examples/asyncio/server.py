"""A web server on asyncio streams: with lithos it serves on descriptor 3, by hand on port 8000."""

import asyncio
import os
import signal
import socket

NAME = os.environ.get("LITHOS_NAME", "a plain process")
VERSION = os.environ.get("VERSION", "0")
PAGE = f"Hello from {NAME}, version {VERSION}\n".encode()
HEAD = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(PAGE)}\r\n".encode()


class Server:
    """Connections that are kept between requests, and an end that cuts none of them off."""

    def __init__(self) -> None:
        self.stopping = False
        self.connections: set[asyncio.Task[None]] = set()
        self.idle: set[asyncio.StreamWriter] = set()  # have had an answer, and no request since

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one client; this is what a task is started for with each connection."""
        task = asyncio.current_task()
        self.connections.add(task)
        try:
            await self.answer(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # the client is gone, or it is no client of ours
        finally:
            self.idle.discard(writer)
            self.connections.discard(task)
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer until the client closes the connection, or we say that we do."""
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            self.idle.discard(writer)
            # What takes its time to work out a page does it here.
            closing = self.stopping or b"\r\nconnection: close\r\n" in request.lower()
            writer.write(HEAD + (b"Connection: close\r\n\r\n" if closing else b"\r\n") + PAGE)
            await writer.drain()
            if closing or self.stopping:
                return
            self.idle.add(writer)

    async def stop(self, listener: socket.socket) -> None:
        """Accept no more, finish every request, close the connections that have none."""
        self.stopping = True
        # Not close() of the server: in the middle of an accept it would drop that connection.
        asyncio.get_running_loop().remove_reader(listener)
        await asyncio.sleep(0.1)  # what has just been accepted gets its task in the next turns of the loop
        for writer in self.idle:
            writer.close()
        if self.connections:
            await asyncio.wait(self.connections)


async def main() -> None:
    """Serve until SIGTERM."""
    if os.environ.get("LISTEN_FDS") == "1":
        listener = socket.socket(fileno=3)
    else:
        listener = socket.create_server(("127.0.0.1", 8000))
    server = Server()
    terminated = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminated.set)
    await asyncio.start_server(server.serve, sock=listener)
    await terminated.wait()
    await server.stop(listener)


if __name__ == "__main__":
    asyncio.run(main())
