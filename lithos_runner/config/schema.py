"""JSON Schema of the file formats, built from the same classes that the loader uses.

A schema is stricter than the loader where a style is concerned (dashes in keys) and laxer where it has no
words for a rule (files of the cgroup, descriptors used twice, tags such as `!Tmpfs`).
"""

from __future__ import annotations

from typing import Any, assert_never

import attrs

from .container import CONTAINER
from .kinds import Flag, Integer, Key, Kind, ListOf, MapOf, Number, Record, Refused, Tagged, Text, keys
from .master import MASTER
from .process import PROCESSES
from .sandbox import SANDBOX
from .scalars import UNITS

Schema = dict[str, Any]

FILES: dict[str, tuple[str, Kind]] = {
    "master": (MASTER.title, MASTER),
    "sandbox": (SANDBOX.title, SANDBOX),
    "process": ("process file", PROCESSES),
    "container": (CONTAINER.title, CONTAINER),
}
"""The four kinds of file: their names on the command line, in a sentence, and what they hold."""


def schema_of(name: str) -> Schema:
    """The JSON Schema (draft 2020-12) of a kind of file, for editors and other tools. Raises KeyError."""
    title, kind = FILES[name]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | _schema(kind)


def _schema(kind: Kind) -> Schema:
    match kind:
        case Text():
            # YAML makes a number of a plain `1`, which the loader takes as the string that was written.
            return {"type": "string", **kind.schema} if kind.schema else {"type": ["string", "number"]}
        case Integer():
            return _integer(kind)
        case Number():
            return {"type": "number", "minimum": kind.minimum, "maximum": kind.maximum}
        case Flag():
            return {"type": "boolean"}
        case ListOf():
            return _list(kind)
        case MapOf():
            names = _names(kind.key)
            return {"type": "object", "propertyNames": names, "additionalProperties": _schema(kind.value)}
        case Tagged():
            return _tagged(kind)
        case Record():
            return _record(kind)
    assert_never(kind)


def _integer(kind: Integer) -> Schema:
    if kind.octal:
        return {"anyOf": [{"const": 0}, {"type": "string", "pattern": "^0o[0-7]+$"}]}
    plain: Schema = {"type": "integer", "minimum": kind.minimum, "maximum": kind.maximum}
    refused = [value for value in kind.refused if kind.minimum <= value <= kind.maximum]
    if refused:
        plain["not"] = {"enum": refused}
    if not kind.suffixes:
        return plain
    units = "|".join(unit for unit in (*UNITS, *kind.units) if unit)
    return {"anyOf": [plain, {"type": "string", "pattern": f"^[0-9][0-9_]*({units})$"}]}


def _names(kind: Text | Integer) -> Schema:
    """Keys are strings to JSON Schema; of a number it can only count the digits."""
    if isinstance(kind, Integer):
        return {"pattern": rf"^[0-9]{{1,{len(str(kind.maximum))}}}$|@\{{"}
    return dict(kind.schema)


def _list(kind: ListOf) -> Schema:
    item = _schema(kind.item)
    whole: Schema = {"type": "array", "items": item}
    return {"anyOf": [item, whole]} if kind.single else whole


def _tagged(kind: Tagged) -> Schema:
    """JSON has no tags, so any of the kinds will do; one without required keys may be empty."""
    options = [_schema(option) for option in kind.options.values()]
    shorts = [
        _schema(key.kind) for option in kind.options.values() for key in keys(option.cls) if key.name == option.short
    ]
    plain = [_schema(kind.plain)] if kind.plain is not None else []
    distinct = [each for n, each in enumerate(shorts) if each not in shorts[:n]]
    return {"anyOf": [*plain, *options, *distinct, {"type": "null"}]}


def _record(kind: Record[Any]) -> Schema:
    properties = {key.name: _property(key) for key in keys(kind.cls)}
    properties |= {other: properties[key.name] for key in keys(kind.cls) for other in key.also}
    properties |= {name: {"description": doc} for name, doc in kind.ignored.items()}
    return {
        "type": "object",
        "properties": properties,
        "required": [key.name for key in keys(kind.cls) if key.required],
        "patternProperties": {"^_": {}},
        "additionalProperties": False,
    }


def _property(key: Key) -> Schema:
    if key.refused is Refused.ALWAYS:
        return {"const": plain(key.default), "description": f"{key.doc} Not supported yet."}
    schema = _schema(key.kind)
    if key.off:
        schema = {"anyOf": [schema, {"type": "null"}]}
    schema = {**schema, "description": key.doc}
    if key.required or key.default is None:
        return schema
    return {**schema, "default": plain(key.default, octal=isinstance(key.kind, Integer) and key.kind.octal)}


def plain(value: Any, *, octal: bool = False) -> Any:
    """A default as JSON has it."""
    if octal and value:
        return f"{value:#o}"
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if attrs.has(type(value)):
        return {}  # a record whose keys all have defaults
    return getattr(value, "name", value)
