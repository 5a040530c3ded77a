"""The tables of the reference pages, generated from the classes that load the files.

`python -m lithos_runner.config.reference docs/*-file.md` brings the pages up to date: it replaces what
stands between `<!-- table: NAME -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, assert_never

import attrs

from . import container, id_map, master, ports, process, sandbox, volumes
from .kinds import Flag, Integer, Key, Kind, ListOf, MapOf, Number, Record, Refused, Tagged, Text, keys

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


def refused(*classes: type[Any]) -> str:
    """The keys that are read and checked but refused so far, and by whom."""
    rows = ["| key | refused by | from |", "|---|---|---|"]
    rows += [
        f"| `{key.name}` | {_WHO[key.refused]} | {key.origin} |"
        for cls in classes
        for key in keys(cls)
        if key.refused is not Refused.NEVER
    ]
    return "\n".join(rows) + "\n"


_WHO = {Refused.BY_RUN: "`lithos run`", Refused.ALWAYS: "every command"}


def _words(kind: Kind) -> str:
    match kind:
        case Text():
            return kind.words
        case Integer() if kind.octal:
            return f"permission bits, 0 to {kind.maximum:#o}"
        case Integer():
            units = ", units" if kind.suffixes else ""
            return _bounds("whole number" + (f" of {kind.unit}" if kind.unit else ""), kind) + units
        case Number():
            return _bounds(f"number of {kind.unit}" if kind.unit else "number", kind)
        case Flag():
            return "true or false"
        case ListOf():
            words = _words(kind.item)
            return f"{words}, or list: {words}" if kind.single else f"list: {words}"
        case MapOf():
            return f"mapping: {_words(kind.key)} → {_words(kind.value)}"
        case Tagged():
            plain = [_words(kind.plain)] if kind.plain is not None else []
            return " or ".join([*plain, *(f"`{tag}`" for tag in kind.options)])
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
    if isinstance(key.default, Mapping | tuple) or attrs.has(type(key.default)):
        return "empty" if not key.default or attrs.has(type(key.default)) else f"`{list(key.default)}`"
    if isinstance(key.kind, Integer) and key.kind.octal:
        return f"`{key.default:#o}`"
    if isinstance(key.default, bool):
        return f"`{str(key.default).lower()}`"
    if isinstance(key.default, float):
        return f"`{key.default:g}`"
    return f"`{getattr(key.default, 'name', key.default)}`"


def _meaning(key: Key) -> str:
    files = " and ".join(f"`{file}`" for file in key.sets)
    return f"{key.doc} Sets {files}." if files else key.doc


_TABLES = {
    "master": table(master.Master),
    "sandbox": table(sandbox.Sandbox),
    "sandbox-refused": refused(sandbox.Sandbox),
    "bridged-network": table(sandbox.BridgedNetwork),
    "id-map": table(id_map.IdMap),
    "process": table(process.Process),
    "process-refused": refused(process.Process),
    "upgrade": table(process.Upgrade),
    "container": table(container.Container),
    "container-refused": refused(container.Container, ports.TcpPort, ports.UdpPort),
    "tcp-ports": table(ports.TcpPort),
    "udp-ports": table(ports.UdpPort),
    "unix-sockets": table(ports.UnixSocket),
    "readonly": table(volumes.Readonly),
    "persistent": table(volumes.Persistent),
    "tmpfs": table(volumes.Tmpfs),
    "statedir": table(volumes.Statedir),
    "http": table(container.Http),
    "resolv-conf": table(container.ResolvConf),
    "hosts-file": table(container.HostsFile),
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
