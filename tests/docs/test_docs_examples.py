"""What the documentation shows to be typed or copied works: container files load, commands parse, programs serve."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
import yaml
from pages import PAGES, PROJECT, blocks, commands, make_targets, spans

from lithos_runner.commands.main import COMMANDS, parser_for
from lithos_runner.config import ConfigErrors, load_container

# Files of other programs, by a key at their top; every other YAML block is a container file.
OTHER_FILES = {"scrape_configs": "Prometheus", "groups": "Prometheus"}

every_page = pytest.mark.parametrize("page", [page.read_text() for page in PAGES], ids=[page.name for page in PAGES])


def faults_of_container_files(page: str, folder: Path) -> list[str]:
    faults = []
    for block in blocks(page, "yaml"):
        if OTHER_FILES.keys() & (yaml.safe_load(block.text) or {}).keys():
            continue
        file = folder / "example.yaml"
        file.write_text(block.text)
        try:
            load_container(str(file), {"port": "8080"})
        except ConfigErrors as errors:
            faults.append(str(errors))
    return faults


@every_page
def test_container_files_load(page: str, tmp_path: Path) -> None:
    assert faults_of_container_files(page, tmp_path) == []


@pytest.mark.parametrize("text", ["executabel: /bin/true", "executable: true", "instances: 3", "# nothing"])
def test_a_container_file_with_a_fault_is_found(text: str, tmp_path: Path) -> None:
    assert faults_of_container_files(f"Words.\n\n  ```yaml\n  {text}\n  ```\n", tmp_path)


def fault_of_command(words: list[str]) -> str:
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        try:
            parser_for(words).parse_args(words)
        except SystemExit as end:
            return output.getvalue() if end.code else ""
    return ""


@every_page
def test_commands_parse(page: str) -> None:
    assert [fault for words in commands(page, "lithos") if (fault := fault_of_command(words))] == []


@pytest.mark.parametrize(
    "line",
    [
        "lithos run",
        "sudo lithos ps --jsn",
        ".venv/bin/lithos rnu shop.yaml",
        "lithos run shop.yaml --limits some | cat",
        "ExecStart=/usr/local/bin/lithos forest",
    ],
)
def test_a_command_with_a_fault_is_found(line: str) -> None:
    (words,) = commands(f"```sh\n{line}  # a remark\n```\n", "lithos")

    assert fault_of_command(words)


def test_commands_are_found() -> None:
    assert sum(len([*commands(page.read_text(), "lithos")]) for page in PAGES) >= 10


def unknown_commands(page: str) -> list[str]:
    named = [match[1] for span in spans(page) if (match := re.match(r"lithos ([a-z]+)", span))]
    return [name for name in named if name not in COMMANDS]


@every_page
def test_commands_in_sentences_exist(page: str) -> None:
    assert unknown_commands(page) == []


def test_a_command_that_does_not_exist_is_found() -> None:
    assert unknown_commands("`lithos ps` and `lithos forest -C FILE`") == ["forest"]


@every_page
def test_make_targets_exist(page: str) -> None:
    in_blocks = {words[0] for words in commands(page, "make")}
    in_sentences = {span.split()[1] for span in spans(page) if span.startswith("make ")}

    assert in_blocks | in_sentences <= make_targets()


@every_page
def test_python_compiles(page: str) -> None:
    for block in blocks(page, "python"):
        compile(block.text, "example", "exec")


PROGRAMS = [
    block.text
    for name in ("README.md", "docs/getting-started.md")
    for block in blocks((PROJECT / name).read_text(), "python")
]


@pytest.mark.parametrize("program", PROGRAMS, ids=["README.md", "getting-started.md"])
def test_the_first_programs_serve_on_descriptor_3(program: str, tmp_path: Path) -> None:
    file = tmp_path / "shop.py"
    file.write_text(program)
    environ = {"LISTEN_FDS": "1", "LITHOS_NAME": "run/shop.0"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        moves = [(os.POSIX_SPAWN_DUP2, listener.fileno(), 3)]
        pid = os.posix_spawn(sys.executable, [sys.executable, str(file)], environ, file_actions=moves)
        try:
            with socket.create_connection(listener.getsockname(), timeout=30) as client:
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = client.makefile("rb").read()
        finally:
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)

    assert answer == b"HTTP/1.0 200 OK\r\n\r\nHello from run/shop.0\n"
