"""The reference pages: their tables are those of the classes, their examples are right."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lithos_runner.config import Container, Master, Process, Sandbox, TcpPort
from lithos_runner.config.container import Http
from lithos_runner.config.files import HostFiles
from lithos_runner.config.kinds import Refused, keys
from lithos_runner.config.ports import UdpPort, UnixSocket
from lithos_runner.config.process import Upgrade
from lithos_runner.config.reference import page
from lithos_runner.config.resolve import parse_tree
from lithos_runner.config.sandbox import BridgedNetwork
from lithos_runner.config.schema import FILES
from lithos_runner.config.volumes import Persistent, Readonly, Statedir, Tmpfs
from lithos_runner.config.walk import read_document

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {name: DOCS / f"{name}-file.md" for name in FILES}
DESCRIBED: dict[str, tuple[type[Any], ...]] = {
    "master": (Master,),
    "sandbox": (Sandbox, BridgedNetwork),
    "process": (Process, Upgrade),
    "container": (Container, TcpPort, UdpPort, UnixSocket, Readonly, Persistent, Tmpfs, Statedir, Http),
}
EXAMPLES = [
    (info, text)
    for path in PAGES.values()
    for info, text in re.findall(r"```yaml([^\n]*)\n(.*?)```", path.read_text(), re.DOTALL)
]


@pytest.mark.parametrize("path", PAGES.values(), ids=PAGES)
def test_the_committed_pages_are_up_to_date(path: Path) -> None:
    text = path.read_text()

    assert page(text) == text, "run: python -m lithos_runner.config.reference docs/*-file.md"


@pytest.mark.parametrize("name", FILES)
def test_a_page_has_a_row_for_every_key(name: str) -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", PAGES[name].read_text(), re.MULTILINE)
    described = [key.name for cls in DESCRIBED[name] for key in keys(cls)]
    refused = [key.name for cls in DESCRIBED[name] for key in keys(cls) if key.refused is not Refused.NEVER]

    assert set(described) <= set(rows)
    assert all(rows.count(key) > 1 for key in refused)


def test_the_command_rewrites_only_what_is_between_the_marks(tmp_path: Path) -> None:
    copies = [tmp_path / path.name for path in PAGES.values()]
    for copy in copies:
        copy.write_text(re.sub(r"(<!-- table: .*-->\n)(\|.*\n)*", r"\1", (DOCS / copy.name).read_text()))
        assert copy.read_text() != (DOCS / copy.name).read_text()
    subprocess.run([sys.executable, "-m", "lithos_runner.config.reference", *copies], check=True)

    assert [copy.read_text() for copy in copies] == [path.read_text() for path in PAGES.values()]


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="colours"):
        page("<!-- table: colours -->\n<!-- end -->")


def test_the_pages_have_examples_of_every_kind() -> None:
    infos = {info.strip() for info, _ in EXAMPLES}

    assert infos == {"", *(f"{name} file" for name in FILES)}
    assert len(EXAMPLES) >= 10


@pytest.mark.parametrize("example", [text for info, text in EXAMPLES if not info])
def test_every_plain_example_runs(load: Callable[..., Container], example: str) -> None:
    assert load(example, {"port": "8080"}).executable.startswith("/")


@pytest.mark.parametrize(("info", "example"), [each for each in EXAMPLES if each[0]])
def test_every_other_example_is_right(checked: Callable[..., Container], info: str, example: str) -> None:
    name = info.split()[0]
    _, kind = FILES[name]

    if name == "container":
        checked(example)
    else:
        document = read_document(parse_tree(HostFiles(secure=False), "f", "f", example), kind)
        assert document.errors() == []
        assert document.value
