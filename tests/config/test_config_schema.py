"""The JSON Schema says of a document what the loader says, as far as JSON Schema can."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from lithos_runner.config import ConfigErrors, Container
from lithos_runner.config.schema import container_schema

TYPES: dict[str, Any] = {
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
}


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    """The part of JSON Schema (draft 2020-12) that `container_schema` makes use of; another word fails."""
    return all(_WORDS[word](value, schema[word], schema) for word in schema)


def _type(value: Any, types: str | list[str], _schema: dict[str, Any]) -> bool:
    names = [types] if isinstance(types, str) else types
    return any(isinstance(value, TYPES[name]) and (name == "boolean" or value is not True) for name in names)


def _object(value: Any, properties: dict[str, Any], schema: dict[str, Any]) -> bool:
    ignored = [re.compile(pattern) for pattern in schema["patternProperties"]]
    return all(
        is_valid(item, properties[name]) if name in properties else any(p.search(name) for p in ignored)
        for name, item in value.items()
    )


def _items_of_mapping(value: Any, items: Any, _schema: dict[str, Any]) -> bool:
    return items is False or all(is_valid(item, items) for item in value.values())


_WORDS: dict[str, Callable[[Any, Any, dict[str, Any]], bool]] = {
    "type": _type,
    "properties": _object,
    "additionalProperties": _items_of_mapping,
    "propertyNames": lambda value, names, _: all(is_valid(name, names) for name in value),
    "required": lambda value, names, _: all(name in value for name in names),
    "items": lambda value, item, _: all(is_valid(each, item) for each in value),
    "anyOf": lambda value, schemas, _: any(is_valid(value, schema) for schema in schemas),
    "not": lambda value, schema, _: not is_valid(value, schema),
    "enum": lambda value, values, _: value in values,
    "const": lambda value, only, _: value is only,
    "minimum": lambda value, bound, _: isinstance(value, str) or value >= bound,
    "maximum": lambda value, bound, _: isinstance(value, str) or value <= bound,
    "pattern": lambda value, pattern, _: not isinstance(value, str) or re.search(pattern, value) is not None,
}
_WORDS |= dict.fromkeys(("$schema", "title", "description", "default", "patternProperties"), lambda *_: True)

GOOD: list[dict[str, Any]] = [
    {},
    {"memory-limit": "80Mi", "instances": 4, "init": False, "cpu-limit": 1.5, "user-id": 0},
    {"memory-limit": 4096, "metadata": {"any": [1]}, "_x": 1, "kind": "Daemon", "stop-signal": "INT"},
    {"environ": {"LISTEN_FDS": 1, "A": "b", "C": 1.5}, "arguments": ["a", 1], "workdir": "/srv"},
    {"cgroup": {"memory.high": "70Mi", "memory.oom.group": 1, "hugetlb.2MB.max": 0}},
    {"tcp-ports": {"8080": {"fd": 3}, "443": {"fd": 4, "host": "::", "reuse-port": False}}},
]
BAD: list[dict[str, Any]] = [
    {"memory-limt": 1},
    {"volumes": {}},
    {"memory-limit": 1},
    {"memory-limit": "64MB"},
    {"instances": "4"},
    {"instances": True},
    {"init": 1},
    {"cpu-limit": 0},
    {"kind": "Command"},
    {"stop-signal": "SIGKILL"},
    {"workdir": "srv"},
    {"arguments": "a"},
    {"environ": {"A=B": "c"}},
    {"environ": {"A": None}},
    {"cgroup": {"cgroup.procs": 1}},
    {"cgroup": {"../memory.max": 1}},
    {"tcp-ports": {"http": {"fd": 3}}},
    {"tcp-ports": {"80": {}}},
    {"tcp-ports": {"80": {"fd": 1}}},
    {"tcp-ports": {"80": {"fd": 3, "reuse-port": True}}},
    {"tcp-ports": {"80": {"fd": 3, "external": True}}},
]


@pytest.mark.parametrize("document", GOOD)
def test_what_the_schema_and_the_loader_accept(load: Callable[..., Container], document: dict[str, Any]) -> None:
    document = {"executable": "/a", **document}

    assert is_valid(document, container_schema())
    load(yaml.safe_dump(document).replace("'8080'", "8080").replace("'443'", "443"))


@pytest.mark.parametrize("document", [{"instances": 1}, *({"executable": "/a", **bad} for bad in BAD)])
def test_what_the_schema_and_the_loader_refuse(load: Callable[..., Container], document: dict[str, Any]) -> None:
    assert not is_valid(document, container_schema())
    with pytest.raises(ConfigErrors):
        load(yaml.safe_dump(document))


def test_the_schema_is_json_with_every_key_described() -> None:
    schema = container_schema()

    assert json.loads(json.dumps(schema)) == schema
    assert all(entry["description"] for entry in schema["properties"].values())
    ports = schema["properties"]["tcp-ports"]["additionalProperties"]
    assert all(entry["description"] for entry in ports["properties"].values())
    assert schema["properties"]["stop-signal"]["default"] == "SIGTERM"
    assert schema["properties"]["tcp-ports"]["default"] == {}
    assert schema["properties"]["arguments"]["default"] == []
    assert "default" not in schema["properties"]["user-id"]


def test_every_default_is_valid() -> None:
    for entry in container_schema()["properties"].values():
        assert "default" not in entry or is_valid(entry["default"], entry)
