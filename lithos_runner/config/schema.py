"""JSON Schema of the file formats, built from the same classes that the loader uses.

A schema is stricter than the loader where a style is concerned (dashes in keys) and laxer where it has no
words for a rule (files of the cgroup, descriptors used twice).
"""

from __future__ import annotations

from typing import Any, assert_never

from .container import CONTAINER
from .kinds import Flag, Integer, Key, Kind, ListOf, MapOf, Number, Record, Text, keys
from .scalars import UNITS

Schema = dict[str, Any]


def container_schema() -> Schema:
    """The JSON Schema (draft 2020-12) of a container file, for editors and other tools."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": CONTAINER.title}
    return head | _schema(CONTAINER)


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
            return {"type": "boolean"} if kind.only is None else {"const": kind.only}
        case ListOf():
            return {"type": "array", "items": _schema(kind.item)}
        case MapOf():
            names = _names(kind.key)
            return {"type": "object", "propertyNames": names, "additionalProperties": _schema(kind.value)}
        case Record():
            return _record(kind)
    assert_never(kind)


def _integer(kind: Integer) -> Schema:
    plain: Schema = {"type": "integer", "minimum": kind.minimum, "maximum": kind.maximum}
    refused = [value for value in kind.refused if kind.minimum <= value <= kind.maximum]
    if refused:
        plain["not"] = {"enum": refused}
    if not kind.suffixes:
        return plain
    units = "|".join(unit for unit in UNITS if unit)
    return {"anyOf": [plain, {"type": "string", "pattern": f"^[0-9][0-9_]*({units})$"}]}


def _names(kind: Text | Integer) -> Schema:
    """Keys are strings to JSON Schema; of a number it can only count the digits."""
    if isinstance(kind, Integer):
        return {"pattern": rf"^[0-9]{{1,{len(str(kind.maximum))}}}$|@\{{"}
    return dict(kind.schema)


def _record(kind: Record[Any]) -> Schema:
    properties = {key.name: _property(key) for key in keys(kind.cls)}
    properties |= {name: {"description": doc} for name, doc in kind.ignored.items()}
    return {
        "type": "object",
        "properties": properties,
        "required": [key.name for key in keys(kind.cls) if key.required],
        "patternProperties": {"^_": {}},
        "additionalProperties": False,
    }


def _property(key: Key) -> Schema:
    schema = {**_schema(key.kind), "description": key.doc}
    if key.required or key.default is None:
        return schema
    return {**schema, "default": _plain(key)}


def _plain(key: Key) -> Any:
    """A default as JSON has it."""
    if isinstance(key.default, tuple):
        return list(key.default)
    return getattr(key.default, "name", key.default)
