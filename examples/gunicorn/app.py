"""A WSGI application, here of Flask; nothing in here knows of lithos or gunicorn."""

import os

from flask import Flask, Response

NAME = os.environ.get("LITHOS_NAME", "a plain process")
VERSION = os.environ.get("VERSION", "0")

app = Flask(__name__)


@app.get("/")
def hello() -> Response:
    """Say who answers."""
    return Response(f"Hello from {NAME}, version {VERSION}\n", mimetype="text/plain")
