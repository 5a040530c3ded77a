"""What a key may hold: values that describe a file format, read by the walk, the schema and the reference.

A class of the configuration declares each of its keys once, with `key(...)`; a new file format is a new
class, not new code.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import attrs

from .errors import Path, Place

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
    units: Mapping[str, int] = {}
    """Suffixes that only this key has."""
    octal: bool = False
    """Permission bits: written with `0o`, because a decimal number is a mistake there."""
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
    """True or false."""


class ListOf(NamedTuple):
    """A list; an empty value is an empty list."""

    item: Kind
    single: bool = False
    """Whether one item may stand there without being a list."""


class MapOf(NamedTuple):
    """A mapping whose keys the user chooses; an empty value is an empty mapping."""

    key: Text | Integer
    value: Kind


class Tagged(NamedTuple):
    """A value whose tag, such as `!Tmpfs`, says of which kind it is."""

    words: str
    options: Mapping[str, Record[Any]]
    plain: Text | None = None
    """What may stand there without a tag."""


class Found(NamedTuple):
    """A value that the file holds; None when it is wrong (and reported already)."""

    value: Any
    place: Place
    key: Any = None
    """The key as read, for a value in a mapping whose keys the user chooses."""

    @property
    def line(self) -> int:
        """The line on which the value stands."""
        return self.place.line


Check = Callable[[Mapping[Path, Found]], Iterator[tuple[Path, str]]]
"""A rule about several keys of a record: what it holds in, (path, sentence) of each fault out."""


class Record(NamedTuple, Generic[T]):
    """A mapping with the keys of an attrs class."""

    cls: type[T]
    title: str
    ignored: Mapping[str, str] = {}
    """Accepted keys that mean nothing here, with the reason."""
    checks: tuple[Check, ...] = ()
    short: str = ""
    """The key that is meant where a value stands instead of a mapping: `!Persistent /db`."""


Kind = Text | Integer | Number | Flag | ListOf | MapOf | Tagged | Record[Any]


class Refused(enum.Enum):
    """Who refuses a key although it is read and checked: a key without its machinery must not be ignored."""

    NEVER = enum.auto()
    BY_RUN = enum.auto()
    """`lithos run`, which has no machinery for it yet."""
    ALWAYS = enum.auto()
    """Every command."""


class Key(NamedTuple):
    """One key of a record as `keys()` lists it."""

    attribute: str
    name: str
    """The key as it is documented; the file may also write it with underscores."""
    kind: Kind
    doc: str
    default: Any
    origin: str
    sets: tuple[str, ...]
    refused: Refused
    off: bool
    also: tuple[str, ...]

    @property
    def required(self) -> bool:
        """Whether the file must hold the key."""
        return self.default is REQUIRED


def key(
    kind: Kind,
    doc: str,
    *,
    default: Any = REQUIRED,
    origin: str = "lithos",
    sets: tuple[str, ...] = (),
    refused: Refused = Refused.NEVER,
    off: bool = False,
    also: tuple[str, ...] = (),
) -> Any:
    """Declare an attribute that a file sets.

    `doc` is the sentence of the reference page (Markdown), `origin` says whose key it is (lithos or
    lithos-runner), `sets` names the cgroup files that are written because of it. With `off`, `null` is
    not "left at the default" but None. `also` are other spellings that lithos's documentation shows.
    """
    metadata = {"kind": kind, "doc": doc, "origin": origin, "sets": sets, "refused": refused, "off": off, "also": also}
    return attrs.field(default=default, metadata=metadata)


def keys(cls: type[Any]) -> tuple[Key, ...]:
    """The keys of a class, in the order of its attributes."""
    if cls not in _KEYS:
        _KEYS[cls] = tuple(
            Key(field.name, field.name.replace("_", "-"), default=_default(field), **field.metadata)
            for field in attrs.fields(cls)
        )
    return _KEYS[cls]


def spellings(cls: type[Any]) -> Mapping[str, Key]:
    """Every way to write a key of a class."""
    if cls not in _SPELLINGS:
        names = [(name, key) for key in keys(cls) for name in (key.name, *key.also)]
        _SPELLINGS[cls] = {text: key for name, key in names for text in (name, name.replace("-", "_"))}
    return _SPELLINGS[cls]


# Made once for each class: a configuration has thousands of records.
_KEYS: dict[type[Any], tuple[Key, ...]] = {}
_SPELLINGS: dict[type[Any], Mapping[str, Key]] = {}


def _default(field: attrs.Attribute[Any]) -> Any:
    # Factory is the way to have a mutable default; its product is what a reader wants to see.
    factory = getattr(field.default, "factory", None)
    return field.default if factory is None else factory()
