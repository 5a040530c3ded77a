"""What a key may hold: values that describe a file format, read by the walk, the schema and the reference.

A class of the configuration declares each of its keys once, with `key(...)`; a new file format is a new
class, not new code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import attrs

from .errors import Path

T = TypeVar("T")

REQUIRED = attrs.NOTHING


class Text(NamedTuple):
    """A string. `parse` turns it into its value or raises ValueError with a sentence."""

    words: str = "string"
    parse: Callable[[str], Any] = str
    schema: Mapping[str, Any] = {}
    """What JSON Schema can say of the strings that `parse` accepts."""
    variables: bool = False
    """Whether `@{name}` is substituted before `parse`."""
    numbers: bool = False
    """Whether any way to write an integer is welcome and reaches `parse` as plain decimal digits."""


class Integer(NamedTuple):
    """A whole number within bounds."""

    minimum: int
    maximum: int
    unit: str = ""
    suffixes: bool = False
    """Whether `k ki M Mi G Gi T Ti` may follow the digits."""
    refused: Mapping[int, str] = {}
    """Numbers inside or outside the bounds that deserve their own sentence."""
    variables: bool = False
    named: Callable[[str], str] | None = None
    """For a key that takes a number only: what to say of a name written there."""


class Number(NamedTuple):
    """A number within bounds, fractions included."""

    minimum: float
    maximum: float
    unit: str = ""


class Flag(NamedTuple):
    """True or false; `only` is the one value that is supported so far."""

    only: bool | None = None


class ListOf(NamedTuple):
    """A list; an empty value is an empty list."""

    item: Kind


class MapOf(NamedTuple):
    """A mapping whose keys the user chooses; an empty value is an empty mapping."""

    key: Text | Integer
    value: Kind


class Found(NamedTuple):
    """A value that the file holds; None when it is wrong (and reported already)."""

    value: Any
    line: int
    column: int


Check = Callable[[Mapping[Path, Found]], Iterator[tuple[Path, str]]]
"""A rule about several keys: everything found in the file in, (path, sentence) of each fault out."""


class Record(NamedTuple, Generic[T]):
    """A mapping with the keys of an attrs class."""

    cls: type[T]
    title: str
    ignored: Mapping[str, str] = {}
    """Accepted keys that mean nothing here, with the reason."""
    later: Mapping[str, str] = {}
    """Known keys that are refused so far, with their origin: never ignored, they may be safety or limits."""
    checks: tuple[Check, ...] = ()


Kind = Text | Integer | Number | Flag | ListOf | MapOf | Record[Any]


class Key(NamedTuple):
    """One key of a record as `keys()` lists it."""

    attribute: str
    kind: Kind
    doc: str
    default: Any
    origin: str
    sets: tuple[str, ...]

    @property
    def name(self) -> str:
        """The key as it is documented; the file may also write it with underscores."""
        return self.attribute.replace("_", "-")

    @property
    def required(self) -> bool:
        """Whether the file must hold the key."""
        return self.default is REQUIRED


def key(kind: Kind, doc: str, *, default: Any = REQUIRED, origin: str = "lithos", sets: tuple[str, ...] = ()) -> Any:
    """Declare an attribute that a file sets.

    `doc` is the sentence of the reference page (Markdown), `origin` says whose key it is (lithos or
    lithos-runner), `sets` names the cgroup files that are written because of it.
    """
    return attrs.field(default=default, metadata={"kind": kind, "doc": doc, "origin": origin, "sets": sets})


def keys(cls: type[Any]) -> list[Key]:
    """The keys of a class, in the order of its attributes."""
    return [Key(attribute=field.name, default=_default(field), **field.metadata) for field in attrs.fields(cls)]


def _default(field: attrs.Attribute[Any]) -> Any:
    # Factory is the way to have a mutable default; its product is what a reader wants to see.
    factory = getattr(field.default, "factory", None)
    return field.default if factory is None else factory()
