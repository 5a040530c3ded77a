"""Flask with Werkzeug's server, which listens when it is made and serves later."""

from __future__ import annotations

from flask import Flask
from start import LISTENER, hold, serving
from werkzeug.serving import make_server

app = Flask(__name__)


@app.get("/")
def hello() -> str:
    return "hello"


server = make_server("127.0.0.1", 0, app, threaded=True, fd=LISTENER)
hold()
serving()
server.serve_forever()
