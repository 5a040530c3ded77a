"""The options of a port that lithos's documentation shows, as the application and `ss` see them."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from real_host import PYTHON

if TYPE_CHECKING:
    from real_host import RealHost

SHOWS = """
import json, signal, socket
listener = socket.socket(fileno={fd})
option = lambda name: listener.getsockopt(socket.SOL_SOCKET, name)
found = {{
    "address": listener.getsockname(),
    "listens": option(socket.SO_ACCEPTCONN),
    "reuses": option(socket.SO_REUSEADDR),
}}
print(json.dumps(found), flush=True)
signal.pause()
"""


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    "options",
    [
        {"fd": 3, "host": "0.0.0.0", "listen-backlog": 128, "reuse-addr": True},  # noqa: S104
        {"fd": 7, "host": "127.0.0.2", "listen-backlog": 77, "reuse-addr": False},
    ],
    ids=["those of the document", "others"],
)
def test_the_socket_is_as_the_options_say(real_host: RealHost, options: dict[str, Any]) -> None:
    program = ["-I", "-S", "-c", SHOWS.format(fd=options["fd"])]
    file = real_host.container(executable=PYTHON, arguments=program, tcp_ports={"80": options}, readiness="alive")
    running = real_host.start(file)
    running.until_started()

    reuses = int(options["reuse-addr"])
    assert real_host.printed() == {"address": [options["host"], 80], "listens": 1, "reuses": reuses}
    (row,) = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout.splitlines()
    state, _, backlog, address, *_ = row.split()
    assert (state, backlog, address) == ("LISTEN", str(options["listen-backlog"]), f"{options['host']}:80")
    running.stop()
