"""Metrics for a scraper: over HTTP from this process, or as a file for node_exporter."""

from __future__ import annotations

import os
import resource
import socket
import sys
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cgroup.usage import USAGE_FILES
from lithos_runner.status.prometheus import Page, scrape
from lithos_runner.status.readings import Observer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: A scraper asks over one connection at a time; this leaves room for a second one and for curious people.
MAX_CONNECTIONS = 8
#: Seconds for a whole request, however slowly it comes; Prometheus itself gives up after ten.
DEADLINE = 10.0
#: Descriptors for connections and everything else that is not a file of a cgroup.
OTHER_DESCRIPTORS = 64


class Handler(BaseHTTPRequestHandler):
    """Answers GET /metrics."""

    server: Exporter
    server_version = "lithos"
    sys_version = ""

    def do_GET(self) -> None:
        """Send the metrics of this moment."""
        if self.path.partition("?")[0] == "/metrics":
            self._answer(HTTPStatus.OK, CONTENT_TYPE, self.server.scrape())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", "the metrics are at /metrics\n")

    def _answer(self, status: HTTPStatus, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: a scrape every few seconds is not worth a line."""


class Exporter(ThreadingHTTPServer):
    """Serves the metrics of this host at an address; a bounded number of connections, each with a deadline."""

    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, host: str, port: int) -> None:
        # The base class creates a socket of this family and does not look the name up itself.
        (self.address_family, *_), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._observer = Observer(keep=(raise_descriptor_limit() - OTHER_DESCRIPTORS) // len(USAGE_FILES))
        self._page = Page()
        self._looking = threading.Lock()
        super().__init__((host, port), Handler)

    def scrape(self) -> str:
        """The text of this moment."""
        with self._looking:
            return scrape(self._observer, self._page)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own; while all are busy, the others wait in the kernel's queue."""
        self._free.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection, and cut it off at its deadline."""
        cut = threading.Timer(DEADLINE, _shut_down, [request])
        cut.daemon = True
        cut.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            cut.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host, port, *_ = self.socket.getsockname()
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def raise_descriptor_limit() -> int:
    """Allow this process all the descriptors that it may have, and return their number.

    The soft limit is kept low for those who use select(): systemd.exec(5), LimitNOFILE.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def write_textfile(path: str) -> None:
    """Write the metrics to a file that node_exporter's textfile collector reads, or raise `OSError`.

    It appears at once as a whole, readable for every user.
    """
    with Observer() as observer:
        text = scrape(observer, Page())
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, f".{name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        os.rename(temporary, path)
    except OSError:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
