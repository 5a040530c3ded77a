"""The JSON Schema says of a document what the loader says, as far as JSON Schema can."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from lithos_runner.config import ConfigErrors, Container
from lithos_runner.config.files import HostFiles
from lithos_runner.config.resolve import parse_tree
from lithos_runner.config.schema import FILES, schema_of
from lithos_runner.config.walk import read_document

TYPES: dict[str, Any] = {
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


def is_valid(value: Any, schema: dict[str, Any]) -> bool:
    """The part of JSON Schema (draft 2020-12) that the schemas make use of; another word fails."""
    return all(_WORDS[word](value, schema[word], schema) for word in schema)


def _type(value: Any, types: str | list[str], _schema: dict[str, Any]) -> bool:
    names = [types] if isinstance(types, str) else types
    return any(isinstance(value, TYPES[name]) and (name == "boolean" or value is not True) for name in names)


def _object(value: Any, properties: dict[str, Any], schema: dict[str, Any]) -> bool:
    if not isinstance(value, dict):
        return True
    ignored = [re.compile(pattern) for pattern in schema["patternProperties"]]
    return all(
        is_valid(item, properties[name]) if name in properties else any(p.search(name) for p in ignored)
        for name, item in value.items()
    )


def _items_of_mapping(value: Any, items: Any, _schema: dict[str, Any]) -> bool:
    return items is False or not isinstance(value, dict) or all(is_valid(item, items) for item in value.values())


_WORDS: dict[str, Callable[[Any, Any, dict[str, Any]], bool]] = {
    "type": _type,
    "properties": _object,
    "additionalProperties": _items_of_mapping,
    "propertyNames": lambda value, names, _: (
        not isinstance(value, dict) or all(is_valid(name, names) for name in value)
    ),
    "required": lambda value, names, _: not isinstance(value, dict) or all(name in value for name in names),
    "items": lambda value, item, _: not isinstance(value, list) or all(is_valid(each, item) for each in value),
    "minLength": lambda value, least, _: not isinstance(value, str) or len(value) >= least,
    "anyOf": lambda value, schemas, _: any(is_valid(value, schema) for schema in schemas),
    "not": lambda value, schema, _: not is_valid(value, schema),
    "enum": lambda value, values, _: value in values,
    "const": lambda value, only, _: value == only and type(value) is type(only),
    "minimum": lambda value, bound, _: not isinstance(value, int | float) or value >= bound,
    "maximum": lambda value, bound, _: not isinstance(value, int | float) or value <= bound,
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
    {"fileno-limit": "1k", "work-dir": "/srv", "uid-map": [], "volumes": {}, "resolv-conf": {}},
]
BAD: list[dict[str, Any]] = [
    {"memory-limt": 1},
    {"uid-map": [{"inside": 0, "outside": 0, "count": 1}]},
    {"secret-environ": {"A": "v2:a:a:a:a"}},
    {"volumes": {"/a": 5}},
    {"readiness": "soon"},
    {"memory-limit": 1},
    {"memory-limit": "64MB"},
    {"instances": "4"},
    {"instances": True},
    {"init": 1},
    {"cpu-limit": 0},
    {"kind": "Comand"},
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
    {"tcp-ports": {"80": {"fd": 3, "reuse-port": "auto"}}},
    {"tcp-ports": {"80": {"fd": 3, "name": "a:b"}}},
]


CONTAINER = schema_of("container")


@pytest.mark.parametrize("document", GOOD)
def test_what_the_schema_and_the_loader_accept(load: Callable[..., Container], document: dict[str, Any]) -> None:
    document = {"executable": "/a", **document}

    assert is_valid(document, CONTAINER)
    load(yaml.safe_dump(document).replace("'8080'", "8080").replace("'443'", "443"))


@pytest.mark.parametrize("document", [{"instances": 1}, *({"executable": "/a", **bad} for bad in BAD)])
def test_what_the_schema_and_the_loader_refuse(load: Callable[..., Container], document: dict[str, Any]) -> None:
    assert not is_valid(document, CONTAINER)
    with pytest.raises(ConfigErrors):
        load(yaml.safe_dump(document))


OTHERS: list[tuple[str, bool, dict[str, Any]]] = [
    ("master", True, {}),
    ("master", True, {"cgroup-name": None, "config-log-dir": None, "cgroup-controllers": ["name", "cpu"]}),
    ("master", True, {"syslog-name": "x", "log-level": "WARN", "_x": []}),
    ("master", False, {"runtime-dir": "run"}),
    ("master", False, {"state-dir": None, "x": 1}),
    ("master", False, {"log-level": "loud"}),
    ("sandbox", True, {"allow-users": [1, "5-7"], "allow-groups": [0], "readonly-paths": {"/a": "/b"}}),
    ("sandbox", True, {"allow-users": [1], "allow-groups": [0], "memory-limit": "1Gi", "uid-map": []}),
    ("sandbox", False, {"allow-users": ["5-"], "allow-groups": [0]}),
    ("sandbox", False, {"allow-users": [1], "allow-groups": [0], "readonly-paths": {"a": "/b"}}),
    ("sandbox", False, {"allow-users": [1], "allow-groups": [0], "bridged-network": {"bridge": "b"}}),
    ("process", True, {}),
    ("process", True, {"web": {"image": "a", "config": "/c", "upgrade": {"soak": 1.5}, "variables": {"a": 1}}}),
    ("process", False, {"web": {"image": "a"}}),
    ("process", False, {"we.b": {"image": "a", "config": "/c"}}),
    ("process", False, {"web": {"image": "a", "config": "/c", "kind": "CommandOrDaemon"}}),
]


@pytest.mark.parametrize(("name", "valid", "document"), OTHERS)
def test_the_other_files(name: str, valid: bool, document: dict[str, Any]) -> None:
    _, kind = FILES[name]
    found = read_document(parse_tree(HostFiles(secure=False), "f", "f", yaml.safe_dump(document)), kind)

    assert is_valid(document, schema_of(name)) == valid
    assert (found.errors() == []) == valid


# What `yaml.safe_dump` cannot write: tags. An editor sees the value without them.
TAGGED = [
    ("volumes", {"/a": "/db", "/b": {"path": "/db", "mode": "0o700"}, "/c": {}, "/d": None, "/e": {"size": "100m"}}),
    ("variables", {"a": None, "b": ["x", "y"], "c": {"activation": "systemd"}}),
    ("readiness", {"path": "/up", "port": 80}),
    ("readiness", "notify"),
]


@pytest.mark.parametrize(("key", "value"), TAGGED)
def test_values_with_tags(key: str, value: Any) -> None:
    assert is_valid({"executable": "/a", key: value}, CONTAINER)


@pytest.mark.parametrize("name", FILES)
def test_the_schema_is_json_with_every_key_described(name: str) -> None:
    schema = schema_of(name)

    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"] == f"{name} file"
    entries = schema["additionalProperties"] if name == "process" else schema
    assert all(entry["description"] for entry in entries["properties"].values())


def test_defaults_in_the_schema() -> None:
    ports = CONTAINER["properties"]["tcp-ports"]["additionalProperties"]

    assert all(entry["description"] for entry in ports["properties"].values())
    assert CONTAINER["properties"]["stop-signal"]["default"] == "SIGTERM"
    assert CONTAINER["properties"]["tcp-ports"]["default"] == {}
    assert CONTAINER["properties"]["arguments"]["default"] == []
    assert CONTAINER["properties"]["resolv-conf"]["default"] == {}
    assert "default" not in CONTAINER["properties"]["user-id"]


@pytest.mark.parametrize("name", FILES)
def test_every_default_is_valid(name: str) -> None:
    schema = schema_of(name)
    for entry in (schema["additionalProperties"] if name == "process" else schema)["properties"].values():
        assert "default" not in entry or is_valid(entry["default"], entry)


def test_an_unknown_kind_of_file() -> None:
    with pytest.raises(KeyError, match="containers"):
        schema_of("containers")
