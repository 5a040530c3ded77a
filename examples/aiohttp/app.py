"""An aiohttp application: with lithos it serves on descriptor 3, by hand on port 8000."""

import os
import socket

from aiohttp import web

NAME = os.environ.get("LITHOS_NAME", "a plain process")
VERSION = os.environ.get("VERSION", "0")


async def hello(_request: web.Request) -> web.Response:
    """Say who answers."""
    return web.Response(text=f"Hello from {NAME}, version {VERSION}\n")


app = web.Application()
app.router.add_get("/", hello)

if __name__ == "__main__":
    if os.environ.get("LISTEN_FDS") == "1":
        web.run_app(app, sock=socket.socket(fileno=3))
    else:
        web.run_app(app, host="127.0.0.1", port=8000)
