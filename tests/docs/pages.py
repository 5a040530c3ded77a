"""The documentation as data: its pages, their code blocks, commands, links and the paths that they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[2]
PAGES = [
    PROJECT / "README.md",
    *sorted((PROJECT / "docs").glob("*.md")),
    *sorted((PROJECT / "docs/recipes").glob("*.md")),
    *sorted((PROJECT / "examples").glob("*/README.md")),
]

_BLOCK = re.compile(r"^([ \t]*)```([^\n`]*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
_MAKE_TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
# What may stand before a command, and what ends it.
_PREFIX = re.compile(r"^(\$ |sudo |ExecStart=)?(\S*/)?")
_END = {"|", ";", "&", "&&", "||", ">", "2>&1", "do", "done"}


class Block(NamedTuple):
    """A fenced code block."""

    language: str
    text: str


def blocks(page: str, *languages: str) -> list[Block]:
    """The code blocks of a page, all or those in certain languages."""
    found = [
        Block(info.strip(), re.sub(rf"^{indent}", "", text, flags=re.MULTILINE))
        for indent, info, text in _BLOCK.findall(page)
    ]
    return [block for block in found if not languages or block.language in languages]


def prose(page: str) -> str:
    """A page without its code blocks."""
    return _BLOCK.sub("", page)


def spans(page: str) -> list[str]:
    """What stands between single backticks."""
    return _SPAN.findall(prose(page))


def commands(page: str, program: str) -> Iterator[list[str]]:
    """The arguments of every call of a program in the shell and unit file blocks of a page."""
    for block in blocks(page, "sh", "ini"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(_PREFIX.sub("", line, count=1), comments=True)
            if words[:1] == [program]:
                yield words[1 : next((n for n, word in enumerate(words) if word in _END), None)]


def make_targets() -> set[str]:
    """What `make` can be asked for."""
    return {*_MAKE_TARGET.findall((PROJECT / "Makefile").read_text())}


def links(page: str) -> list[str]:
    """The targets of links and pictures that lie in this repository."""
    return [link for link in _LINK.findall(prose(page)) if "://" not in link]


def anchors(page: str) -> set[str]:
    """The names under which the headings of a page can be linked to; GitHub and MyST agree on them."""
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in _HEADING.findall(prose(page))
    }


def paths(page: str) -> list[str]:
    """The paths of this repository that a page names: what begins with one of its top-level folders."""
    folders = {path.name for path in PROJECT.iterdir() if path.is_dir()}
    first_words = [span.split()[0] for span in spans(page)]
    return [word for word in first_words if "/" in word and word.partition("/")[0] in folders]
