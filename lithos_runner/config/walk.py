"""The one walk from YAML nodes to attrs classes; it goes on after every error, so that all are reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, assert_never

import yaml

from . import scalars
from .errors import ConfigErrors, Error, Path, did_you_mean, quoted, written
from .kinds import Flag, Found, Integer, Kind, ListOf, MapOf, Number, Record, Text, keys
from .variables import substitute_given
from .yaml_nodes import Pair, compose, pairs, position, read_file

T = TypeVar("T")


def load(file: str, kind: Record[T], variables: Mapping[str, str]) -> T:
    """The object that a configuration file describes; raises ConfigErrors with every fault of the file."""
    errors: list[Error] = []
    root = compose(file, read_file(file), errors)
    if root is None:
        raise ConfigErrors([Error(file, 1, 1, "", f"is empty: expected a {kind.title}")])
    walk = _Walk(file, variables, errors)
    value: T = walk.build(kind, root, ())
    walk.check(kind)
    if errors:
        raise ConfigErrors(errors)
    return value


class _Walk:
    """Turns nodes into values; a value that is wrong is reported and becomes None.

    An object built from such values never leaves `load`; it only lets the walk go on.
    """

    def __init__(self, file: str, variables: Mapping[str, str], errors: list[Error]) -> None:
        self.file = file
        self.variables = variables
        self.errors = errors
        self.found: dict[Path, Found] = {}

    def build(self, kind: Kind, node: yaml.Node, path: Path) -> Any:
        """The value of a node, remembered under its path for the checks between keys."""
        value = self._try(kind, node, path)
        self.found[path] = Found(value, *position(node))
        return value

    def check(self, kind: Record[Any]) -> None:
        """Apply the rules that concern several keys."""
        for rule in kind.checks:
            for path, message in rule(self.found):
                found = self.found[path]
                self.errors.append(Error(self.file, found.line, found.column, written(path), message))

    def _try(self, kind: Kind, node: yaml.Node, path: Path) -> Any:
        try:
            return self._read(kind, node, path)
        except ValueError as error:
            self._report(node, path, str(error))
            return None

    def _read(self, kind: Kind, node: yaml.Node, path: Path) -> Any:
        match kind:
            case Text():
                return self._text(kind, node)
            case Integer():
                return scalars.integer(node, kind, self._substituted(kind, node))
            case Number():
                return scalars.number(node, kind)
            case Flag():
                return scalars.flag(node, kind)
            case ListOf():
                items = _items(node)
                return tuple(self.build(kind.item, item, (*path, i)) for i, item in enumerate(items))
            case MapOf():
                return self._map(kind, node, path)
            case Record():
                return self._record(kind, node, path)
        assert_never(kind)

    def _text(self, kind: Text, node: yaml.Node) -> Any:
        if kind.numbers and node.tag == scalars.INTEGER:
            return kind.parse(str(scalars.integer(node, _ANY_INTEGER)))
        text = scalars.text(node, kind.words)
        return kind.parse(substitute_given(text, self.variables) if kind.variables else text)

    def _substituted(self, kind: Integer, node: yaml.Node) -> str | None:
        if kind.variables and node.tag == scalars.STRING:
            return substitute_given(node.value, self.variables)
        return None

    def _map(self, kind: MapOf, node: yaml.Node, path: Path) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in _pairs(node):
            at = (*path, key_node.value)
            name = self._try(kind.key, key_node, at)
            value = self.build(kind.value, value_node, at)
            if name in lines:
                self._report(key_node, at, f"is {quoted(str(name))} again (first on line {lines[name]})")
            elif name is not None:
                lines[name] = position(key_node)[0]
                result[name] = value
        return result

    def _record(self, kind: Record[T], node: yaml.Node, path: Path) -> T:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        known = {spelling: key for key in keys(kind.cls) for spelling in (key.name, key.attribute)}
        for key_node, value_node in _pairs(node):
            key = known.get(key_node.value)
            if key is None:
                self._other_key(kind, key_node, path)
            elif key.name in lines:
                self._report(key_node, path, f"key {key.name} is there already, on line {lines[key.name]}")
            else:
                lines[key.name] = position(key_node)[0]
                if key.required or not scalars.is_null(value_node):
                    values[key.attribute] = self.build(key.kind, value_node, (*path, key.name))
        for key in keys(kind.cls):
            if key.required and key.name not in lines:
                self._report(node, path, f"missing required key {quoted(key.name)}")
                values[key.attribute] = None
        return kind.cls(**values)

    def _other_key(self, kind: Record[Any], key_node: yaml.ScalarNode, path: Path) -> None:
        name = key_node.value.replace("_", "-")
        if key_node.value.startswith("_") or name in kind.ignored:
            return
        if name in kind.later:
            self._report(key_node, path, f"key {quoted(key_node.value)} is not supported yet: remove it")
        else:
            offers = [key.name for key in keys(kind.cls)] + [*kind.ignored, *kind.later]
            hint = did_you_mean(name, offers)
            self._report(key_node, path, f"unknown key {quoted(key_node.value)}{hint}")

    def _report(self, node: yaml.Node, path: Path, message: str) -> None:
        self.errors.append(Error(self.file, *position(node), written(path), message))


_ANY_INTEGER = Integer(minimum=-(1 << 63), maximum=(1 << 64) - 1)


def _items(node: yaml.Node) -> list[yaml.Node]:
    if scalars.is_null(node):
        return []
    if not isinstance(node, yaml.SequenceNode) or node.tag != scalars.SEQUENCE:
        raise ValueError(f"expected a list, found {scalars.describe(node)}")
    return list(node.value)


def _pairs(node: yaml.Node) -> list[Pair]:
    if scalars.is_null(node):
        return []
    if not isinstance(node, yaml.MappingNode) or node.tag != scalars.MAPPING:
        raise ValueError(f"expected a mapping, found {scalars.describe(node)}")
    return list(pairs(node))
