"""A Flask application as its tutorial has it; nothing in here knows of lithos."""

import os

from flask import Flask, Response

NAME = os.environ.get("LITHOS_NAME", "a plain process")
VERSION = os.environ.get("VERSION", "0")

app = Flask(__name__)


@app.get("/")
def hello() -> Response:
    """Say who answers."""
    return Response(f"Hello from {NAME}, version {VERSION}\n", mimetype="text/plain")


if __name__ == "__main__":
    app.run(port=8000)
