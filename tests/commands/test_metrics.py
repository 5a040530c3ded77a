from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from fake_host import LITHOS, Host, lithos, state_of
from prometheus_client.parser import text_string_to_metric_families

from lithos_runner.status import exporter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def names(text: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.fixture
def running(host: Host) -> Host:
    host.supervisor().tell("write_instance", state_of(host.instance()))
    return host


@contextmanager
def served(address: str) -> Iterator[tuple[str, int]]:
    server = subprocess.Popen([*LITHOS, "metrics", "--listen", address], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    line = server.stderr.readline()
    found = re.fullmatch(r"lithos: metrics at http://\[?([^]]*?)\]?:(\d+)/metrics\n", line)
    assert found, line
    try:
        yield found[1], int(found[2])
    finally:
        server.terminate()
        server.wait()
        server.stderr.close()


def get(address: tuple[str, int], path: str, method: str = "GET") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request(method, path)
    return connection.getresponse()


@pytest.mark.usefixtures("running")
def test_text_on_standard_output() -> None:
    done = lithos("metrics")
    assert done.returncode == 0
    assert {"lithos_supervisor_up", "lithos_instance_up", "lithos_instance_memory_bytes"} <= names(done.stdout)


@pytest.mark.usefixtures("host")
def test_nothing_runs() -> None:
    done = lithos("metrics")
    assert (done.returncode, names(done.stdout)) == (0, set())


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
@pytest.mark.usefixtures("running")
def test_it_serves(address: str) -> None:
    with served(address) as at:
        for _ in range(3):
            response = get(at, "/metrics")
            assert response.status == 200
            assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert "lithos_instance_up" in names(response.read().decode())


def test_a_scrape_sees_what_changed(running: Host) -> None:
    with served("127.0.0.1:0") as at:
        assert b'process="other"' not in get(at, "/metrics").read()
        running.supervisor("other").tell("write_instance", state_of(None, process="other"))
        assert b'process="other"' in get(at, "/metrics").read()


@pytest.mark.usefixtures("running")
def test_only_one_page_and_only_get() -> None:
    with served("127.0.0.1:0") as at:
        assert get(at, "/").status == 404
        assert get(at, "/metrics?x=1").status == 200
        assert get(at, "/metrics", "POST").status == 501


@pytest.mark.usefixtures("running")
def test_clients_that_say_nothing_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than connections are served at a time; the scrape waits its turn."""
    monkeypatch.setattr(exporter, "DEADLINE", 0.2)
    with exporter.Exporter("127.0.0.1", 0) as server:
        import threading

        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = server.socket.getsockname()
        silent = [socket.create_connection(address) for _ in range(exporter.MAX_CONNECTIONS)]
        silent[0].sendall(b"GET /metrics HTTP/1.1\r\n")
        assert get(address, "/metrics").status == 200
        for client in silent:
            assert client.recv(1) == b""
            client.close()
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("host")
def test_an_address_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = lithos("metrics", "--listen", f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert done.stderr == (
        f"lithos: cannot listen on 127.0.0.1:{port}: Address already in use, choose another address or port\n"
    )


@pytest.mark.parametrize(
    "address", ["9600", ":9600", "localhost", "::1:9600", "127.0.0.1:x", "127.0.0.1:65536", "[]:1"]
)
def test_what_is_no_address(address: str) -> None:
    done = lithos("metrics", "--listen", address)
    assert done.returncode == 2
    assert "--listen" in done.stderr


@pytest.mark.usefixtures("running")
def test_a_file_for_node_exporter(tmp_path: Path) -> None:
    path = tmp_path / "out" / "lithos.prom"
    path.parent.mkdir()
    path.write_text("old")
    path.chmod(0o600)
    before = path.stat().st_ino
    done = subprocess.run([*LITHOS, "metrics", "--textfile", str(path)], umask=0o077, check=True)
    assert done.returncode == 0
    assert "lithos_instance_up" in names(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.stat().st_ino != before
    assert os.listdir(path.parent) == ["lithos.prom"]


@pytest.mark.usefixtures("running")
def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for path in (tmp_path / "missing" / "lithos.prom", tmp_path / "directory"):
        done = lithos("metrics", "--textfile", str(path))
        assert done.returncode == 1
        assert done.stderr.startswith(f"lithos: cannot write {path}: ")
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
