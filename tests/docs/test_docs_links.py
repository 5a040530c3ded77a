"""What the documentation points to is there, and its picture is the one that its script draws."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, PROJECT, anchors, links, paths

every_page = pytest.mark.parametrize("path", PAGES, ids=[page.name for page in PAGES])


def broken_links(page: str, folder: Path) -> list[str]:
    return [link for link in links(page) if not leads_somewhere(link, page, folder)]


def leads_somewhere(link: str, page: str, folder: Path) -> bool:
    name, _, anchor = link.partition("#")
    target = folder / name
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target.read_text() if name else page)


@every_page
def test_links_lead_somewhere(path: Path) -> None:
    assert broken_links(path.read_text(), path.parent) == []


@pytest.mark.parametrize(
    "link", ["docs/nothing.md", "docs/operating.md#nothing", "#nothing", "docs/_static/nothing.svg"]
)
def test_a_broken_link_is_found(link: str) -> None:
    assert broken_links(f"# Heading\n\n[text]({link}) ![picture](LICENSE) [above](#heading)", PROJECT) == [link]


def missing_paths(page: str) -> list[str]:
    return [path for path in paths(page) if not (PROJECT / path).exists()]


@every_page
def test_paths_exist(path: Path) -> None:
    assert missing_paths(path.read_text()) == []


def test_a_missing_path_is_found() -> None:
    page = "`tests/docs`, `integration/vm test`, `/etc/passwd`, `integration/nothing -x` and `lithos_runner/nothing.py`"

    assert missing_paths(page) == ["integration/nothing", "lithos_runner/nothing.py"]


def test_every_page_can_be_reached() -> None:
    listed = {line for page in PAGES if page.name == "index.md" for line in page.read_text().splitlines()}

    assert {page.stem for page in PAGES if page.parent.name in ("docs", "recipes")} - {"index"} <= listed


def test_the_picture_is_what_its_script_draws() -> None:
    folder = PROJECT / "docs/_static"
    drawn = subprocess.run([sys.executable, folder / "overview.py"], check=True, capture_output=True, text=True).stdout

    assert (folder / "overview.svg").read_text() == drawn, (
        "run: python docs/_static/overview.py > docs/_static/overview.svg"
    )
