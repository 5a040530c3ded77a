"""What is wrong with a configuration file, and where: one line per mistake, all of them at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

Path = tuple[str | int, ...]
"""The keys and list positions that lead from the top of a file to a value."""

SHOWN = 60  # characters of a found value that still fit into a sentence


class Place(NamedTuple):
    """Where something stands: line and column count from 1, the column in characters."""

    file: str
    line: int = 1
    column: int = 1


class Error(NamedTuple):
    """One mistake at a place; `path` is empty for the whole file."""

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}: "
        return printable(place + (f"{self.path}: " if self.path else "") + self.message)


class ConfigErrors(Exception):
    """A configuration was refused; `errors` holds every reason, ordered by position."""

    def __init__(self, errors: Iterable[Error]) -> None:
        self.errors = tuple(sorted(errors, key=lambda error: error[:3]))
        super().__init__("\n".join(map(str, self.errors)))


class Fault(NamedTuple):
    """A mistake and the keys that lead to it, so that what it leaves unharmed can still be used."""

    path: Path
    error: Error

    @classmethod
    def at(cls, place: Place, path: Path, message: str) -> Fault:
        """Write the path out for the reader of the message."""
        return cls(path, Error(*place, written(path), message))


def printable(text: str) -> str:
    """`text` on one line and with control characters escaped: it may be the name of a file, and a terminal reads it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def quoted(text: str) -> str:
    """`text` for a sentence: in quotes, shortened, with control characters escaped (a terminal reads it)."""
    return repr(text) if len(text) <= SHOWN else repr(text[:SHOWN]) + "…"


def unquoted(text: str) -> str:
    """As `quoted`, without the quotes: for sentences that are about quotes."""
    return repr(text[:SHOWN])[1:-1] + ("…" if len(text) > SHOWN else "")


def written(path: Path) -> str:
    """The path as the user reads it: `tcp-ports.8080.fd`, `arguments[2]`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.isprintable() and part else quoted(part))
    return text


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a sentence that offers the most similar of `words`; empty when none is similar."""
    from difflib import get_close_matches  # only needed for a faulty file

    offers = {offer.lower(): offer for offer in words}
    similar = get_close_matches(word.lower(), offers, n=1)
    return f", did you mean {quoted(offers[similar[0]])}?" if similar else ""
