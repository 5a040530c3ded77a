"""The reference page: its tables are those of the classes, its examples load."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lithos_runner.config import Container, TcpPort
from lithos_runner.config.container import CONTAINER
from lithos_runner.config.kinds import keys
from lithos_runner.config.reference import page

PAGE = Path(__file__).parents[2] / "docs" / "container-file.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_the_committed_page_is_up_to_date() -> None:
    text = PAGE.read_text()

    assert page(text) == text, "run: python -m lithos_runner.config.reference docs/container-file.md"


def test_the_page_has_a_row_for_every_key() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)
    known = [key.name for cls in (Container, TcpPort) for key in keys(cls)]

    assert rows == [*known, *CONTAINER.later]


def test_the_command_rewrites_only_what_is_between_the_marks(tmp_path: Path) -> None:
    copy = tmp_path / "page.md"
    copy.write_text(re.sub(r"\n\|.*", "", PAGE.read_text()))
    subprocess.run([sys.executable, "-m", "lithos_runner.config.reference", copy], check=True)

    assert copy.read_text() == PAGE.read_text()


def test_an_unknown_table_is_an_error() -> None:
    with pytest.raises(KeyError, match="volumes"):
        page("<!-- table: volumes -->\n<!-- end -->")


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) >= 5


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_loads(load: Callable[..., Container], example: str) -> None:
    assert load(example, {"port": "8080"}).executable.startswith("/")
