"""The tables of the reference pages, generated from the classes that load the files.

`python -m lithos_runner.config.reference docs/container-file.md` brings a page up to date: it replaces what
stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, assert_never

from .container import CONTAINER, TcpPort
from .kinds import Flag, Integer, Key, Kind, ListOf, MapOf, Number, Record, Text, keys

_TABLE = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str) -> str:
    """The text of a page with all its tables made anew; raises KeyError for a table that is not known."""
    return _TABLE.sub(lambda match: match[1] + _TABLES[match[2]] + match[3], text)


def table(cls: type[Any]) -> str:
    """One row for every key of a class."""
    rows = ["| key | value | default | meaning | from |", "|---|---|---|---|---|"]
    rows += [
        f"| `{key.name}` | {_words(key.kind)} | {_default(key)} | {_meaning(key)} | {key.origin} |" for key in keys(cls)
    ]
    return "\n".join(rows) + "\n"


def later(kind: Record[Any]) -> str:
    """The known keys that are refused so far."""
    rows = [f"| `{name}` | {origin} |" for name, origin in kind.later.items()]
    return "\n".join(["| key | from |", "|---|---|", *rows]) + "\n"


def _words(kind: Kind) -> str:
    match kind:
        case Text():
            return kind.words
        case Integer():
            units = ", units" if kind.suffixes else ""
            return _bounds("whole number" + (f" of {kind.unit}" if kind.unit else ""), kind) + units
        case Number():
            return _bounds(f"number of {kind.unit}" if kind.unit else "number", kind)
        case Flag():
            return "true or false" if kind.only is None else f"only `{str(kind.only).lower()}`"
        case ListOf():
            return f"list: {_words(kind.item)}"
        case MapOf():
            return f"mapping: {_words(kind.key)} → {_words(kind.value)}"
        case Record():
            return kind.title
    assert_never(kind)


def _bounds(words: str, kind: Integer | Number) -> str:
    # 2^63-1 and its kin only say that there is no bound.
    most = f" to {kind.maximum}" if kind.maximum < 1 << 62 else ""
    return f"{words}, {kind.minimum}{most or ' and up'}"


def _default(key: Key) -> str:
    if key.required:
        return "**required**"
    if key.default is None:
        return "none"
    if isinstance(key.default, Mapping | tuple):
        return "empty"
    if isinstance(key.default, bool):
        return f"`{str(key.default).lower()}`"
    if isinstance(key.default, float):
        return f"`{key.default:g}`"
    return f"`{getattr(key.default, 'name', key.default)}`"


def _meaning(key: Key) -> str:
    files = " and ".join(f"`{file}`" for file in key.sets)
    return f"{key.doc} Sets {files}." if files else key.doc


_TABLES = {
    "container": table(CONTAINER.cls),
    "tcp-ports": table(TcpPort),
    "later": later(CONTAINER),
}


def main(paths: list[str]) -> None:
    """Rewrite the given pages in place."""
    for path in paths:
        with open(path, encoding="utf-8") as stream:
            text = stream.read()
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(page(text))


if __name__ == "__main__":
    main(sys.argv[1:])
