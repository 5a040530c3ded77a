"""asyncio and uvloop: the loop runs, and waits for something else, before the server is made: streams.py LOOP."""

from __future__ import annotations

import asyncio
import sys

from start import hold_in_loop, listener, serving


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
    await writer.drain()
    await reader.read()
    writer.close()


async def main() -> None:
    waited = listener()
    await hold_in_loop()
    serving()
    server = await asyncio.start_server(answer, sock=waited)
    await server.serve_forever()


if sys.argv[1] == "uvloop":
    import uvloop

    uvloop.run(main())
else:
    asyncio.run(main())
