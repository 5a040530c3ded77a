"""A FastAPI application; nothing in here knows of lithos or uvicorn."""

import os

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse

NAME = os.environ.get("LITHOS_NAME", "a plain process")
VERSION = os.environ.get("VERSION", "0")

app = FastAPI()


@app.get("/", response_class=PlainTextResponse)
async def hello() -> str:
    """Say who answers."""
    return f"Hello from {NAME}, version {VERSION}\n"
