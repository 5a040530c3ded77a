"""A container as a flat list of what is configured: key → text, as people write and compare it."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from .container import Container
from .kinds import keys

_NOT_OF_AN_INSTANCE = ("kind", "instances", "variables")  # their values have been put in
_BYTES = ("memory-limit", "size")
_UNITS = (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10))


def facts(container: Container) -> dict[str, str]:
    """Return every key that differs from its default; keys of mappings are joined by dots (`environ.HOME`)."""
    return {name: text for name, text in _keys("", container) if name not in _NOT_OF_AN_INSTANCE}


def _keys(prefix: str, record: Any) -> Iterator[tuple[str, str]]:
    for key in keys(type(record)):
        value = getattr(record, key.attribute)
        if key.required or value != key.default:
            yield from _flat(f"{prefix}{key.name}", value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(f"{name}.{key}", each)
    elif attrs.has(type(value)):
        # Which kind of volume it is, and that it is there at all.
        yield name, f"!{type(value).__name__}"
        yield from _keys(f"{name}.", value)
    else:
        yield name, _text(name, value)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if name == "stop-signal":
        return signal.Signals(value).name
    if name.rpartition(".")[2] in _BYTES and isinstance(value, int):
        return size(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(_text(name, each) for each in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def size(number: int) -> str:
    """Write a number of bytes with the largest unit that it is a multiple of."""
    for unit, factor in _UNITS:
        if number and number % factor == 0:
            return f"{number // factor}{unit}"
    return str(number)
