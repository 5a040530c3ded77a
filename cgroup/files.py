"""The forms that cgroup v2 files have, as typed descriptors on top of cgroupspy's.

cgroupspy knows v1 only; its idea of a *typed file descriptor on a controller object* fits v2 as well, so
each class here is one of its interfaces with the v2 form and with types. A descriptor asks its object for
`get_property(name)` and `set_property(name, value)`; `cgroup.controllers` has those objects.

The forms: https://docs.kernel.org/admin-guide/cgroup-v2.html#format
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, Self, TypeVar, overload

from cgroupspy import interfaces
from cgroupspy.contenttypes import BaseContentType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cgroup.controllers import Controller

T = TypeVar("T")


class Stall(NamedTuple):
    """How much of the time processes waited for a resource, https://docs.kernel.org/accounting/psi.html."""

    #: Percent of the last 10, 60 and 300 seconds.
    avg10: float
    avg60: float
    avg300: float
    #: Microseconds since the group was made.
    total: int


def parse_limit(text: str) -> int | None:
    """An integer, or None for `max`."""
    return None if text.strip() == "max" else int(text)


def format_limit(value: int | None) -> str:
    """The text for an integer, or `max` for None."""
    return "max" if value is None else str(int(value))


def parse_flat(text: str) -> dict[str, int]:
    """Lines of a key and an integer; no lines at all are an empty mapping."""
    words = text.split()
    return dict(zip(words[::2], map(int, words[1::2]), strict=True))


def format_flat(values: Mapping[str, int]) -> str:
    """One line per key."""
    return "\n".join(f"{key} {number}" for key, number in values.items())


def parse_nested(text: str) -> dict[str, dict[str, str]]:
    """Lines of a key and ``name=value`` pairs, the values as they stand: some are `max` or fractions."""
    rows = (line.split() for line in text.splitlines())
    return {key: dict(pair.split("=") for pair in pairs) for key, *pairs in rows}


def format_nested(values: Mapping[str, Mapping[str, object]]) -> str:
    """One line per key."""
    return "\n".join(
        " ".join([key, *(f"{name}={value}" for name, value in pairs.items())]) for key, pairs in values.items()
    )


def parse_pressure(text: str) -> dict[str, Stall]:
    """The lines ``some avg10=0.00 avg60=0.00 avg300=0.00 total=0`` and ``full …``."""
    return {
        kind: Stall(float(row["avg10"]), float(row["avg60"]), float(row["avg300"]), int(row["total"]))
        for kind, row in parse_nested(text).items()
    }


class _CpuMax(NamedTuple):
    quota: int | None
    period: int = 100_000


# "type: ignore[misc]" from here on: cgroupspy has no type hints, so its classes are Any to mypy.


class CpuMax(_CpuMax, BaseContentType):  # type: ignore[misc]
    """CPU time per period, both in microseconds; a quota of None is no limit."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"{format_limit(self.quota)} {self.period}"

    @classmethod
    def from_string(cls, text: str) -> CpuMax:
        """Parse ``QUOTA PERIOD``; the kernel's default period, 100 ms, stands in for a missing one."""
        quota, _, period = text.partition(" ")
        return cls(parse_limit(quota), int(period or 100_000))


class CgroupFile(interfaces.BaseFileInterface, Generic[T]):  # type: ignore[misc]
    """A file whose value has the type T; on the class it is the descriptor itself, so that `help()` works."""

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: Controller, owner: type) -> T: ...
    def __get__(self, view: Controller | None, owner: type) -> Self | T:
        if view is None:
            return self
        if self.writeonly:
            raise AttributeError(f"{self.filename.decode()} can only be written")
        value: T = super().__get__(view, owner)
        return value

    def __set__(self, view: Controller, value: T) -> None:
        if self.readonly:
            raise AttributeError(f"{self.filename.decode()} can only be read")
        super().__set__(view, value)


class IntegerFile(CgroupFile[int]):
    """One integer. Unlike in v1, -1 is no word for "unlimited"."""

    sanitize_get = staticmethod(int)
    sanitize_set = staticmethod(int)


class LimitFile(CgroupFile[int | None]):
    """An integer, or the word `max`, which reads and writes as None."""

    sanitize_get = staticmethod(parse_limit)
    sanitize_set = staticmethod(format_limit)


class FlagFile(CgroupFile[bool], interfaces.FlagFile):  # type: ignore[misc]
    """0 or 1."""


class WordFile(CgroupFile[str]):
    """One word, such as the type of a group."""


class WordsFile(CgroupFile[list[str]], interfaces.ListFile):  # type: ignore[misc]
    """Words on one line, such as the names of controllers; read-only."""


class IntegersFile(CgroupFile[list[int]], interfaces.IntegerListFile):  # type: ignore[misc]
    """One integer per line, such as process ids; read-only."""


class CpuSetFile(CgroupFile[set[int]], interfaces.CommaDashSetFile):  # type: ignore[misc]
    """Numbers of CPUs or memory nodes as in ``0-3,6``."""


class TypedFile(CgroupFile[T], interfaces.TypedFile):  # type: ignore[misc]
    """A value that a content type of cgroupspy's kind reads and writes."""


class FlatKeyedFile(CgroupFile[dict[str, int]]):
    """Lines of a key and an integer; keys that are not written keep their value."""

    sanitize_get = staticmethod(parse_flat)
    sanitize_set = staticmethod(format_flat)


class NestedKeyedFile(CgroupFile[dict[str, dict[str, str]]]):
    """Lines of a key and ``name=value`` pairs (io.stat, io.max); what is not written keeps its value."""

    sanitize_get = staticmethod(parse_nested)
    sanitize_set = staticmethod(format_nested)


class PressureFile(CgroupFile[dict[str, Stall]]):
    """Pressure stall information by kind, ``some`` and ``full``; read-only."""

    readonly = True
    sanitize_get = staticmethod(parse_pressure)
