"""An application for uvicorn whose lifespan takes its time to start; the server begins when that has been told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from start import hold_in_loop, serving

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await hold_in_loop()
        serving()
        await send({"type": "lifespan.startup.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})
