"""The one walk from YAML nodes to attrs classes; it goes on after every error, so that all are reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar, assert_never

import yaml

from . import scalars
from .errors import Error, Fault, Path, Place, did_you_mean, quoted
from .kinds import (
    Flag,
    Found,
    Integer,
    Key,
    Kind,
    ListOf,
    MapOf,
    Number,
    Record,
    Refused,
    Tagged,
    Text,
    keys,
    spellings,
)
from .resolve import BrokenNode, Tree
from .variables import NO_VARIABLES, Variables
from .yaml_nodes import Pair, pairs, place

T = TypeVar("T")


class Document(NamedTuple, Generic[T]):
    """What a file holds and where. Only a document without faults has a value without holes.

    A value that is wrong is None, so that the rest can still be checked.
    """

    file: str
    value: T
    found: Mapping[Path, Found]
    faults: tuple[Fault, ...]
    refused: tuple[tuple[Refused, Error], ...]

    def errors(self, *, by_run: bool = False) -> list[Error]:
        """Every fault, and every key that is refused so far; with `by_run` those of `lithos run` too."""
        refused = [error for who, error in self.refused if by_run or who is Refused.ALWAYS]
        return [fault.error for fault in self.faults] + refused

    def is_sound(self, path: Path = ()) -> bool:
        """Whether there is no fault below a path."""
        return not any(fault.path[: len(path)] == path for fault in self.faults)

    def place(self, path: Path) -> Place:
        """Where a value stands; for one that is not there, where the nearest mapping above it stands."""
        while path and path not in self.found:
            path = path[:-1]
        return self.found[path].place if path in self.found else Place(self.file)

    def error(self, path: Path, message: str) -> Error:
        """The error about a value of this document."""
        return Fault.at(self.place(path), path, message).error


def read_document(tree: Tree, kind: Kind, variables: Variables = NO_VARIABLES) -> Document[Any]:
    """What a file holds, read as `kind`; its value is None where the root is wrong or missing."""
    walk = _Walk(variables, list(tree.faults))
    root = tree.root
    if root is None and isinstance(kind, Record) and any(key.required for key in keys(kind.cls)):
        walk.faults.append(Fault.at(Place(tree.file), (), f"is empty: expected a {kind.title}"))
        return Document(tree.file, None, {}, tuple(walk.faults), ())
    value = walk.build(kind, _nothing(tree.file) if root is None else root, ())
    return Document(tree.file, value, walk.found, tuple(walk.faults), tuple(walk.refused))


def _nothing(file: str) -> yaml.ScalarNode:
    mark = yaml.Mark(file, 0, 0, 0, None, 0)
    return yaml.ScalarNode(scalars.NULL, "", mark, mark)


class _Walk:
    """Turns nodes into values; a value that is wrong is reported and becomes None."""

    def __init__(self, variables: Variables, faults: list[Fault]) -> None:
        self.variables = variables
        self.faults = faults
        self.found: dict[Path, Found] = {}
        self.refused: list[tuple[Refused, Error]] = []

    def build(self, kind: Kind, node: yaml.Node, path: Path, name: Any = None) -> Any:
        """The value of a node, remembered under its path for the checks between keys."""
        where = place(node)
        self.found[path] = Found(None, where, name)
        value = self._try(kind, node, path)
        self.found[path] = Found(value, where, name)
        return value

    def _try(self, kind: Kind, node: yaml.Node, path: Path) -> Any:
        if isinstance(node, BrokenNode):
            return None
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
                return self._integer(kind, node)
            case Number():
                return scalars.number(node, kind)
            case Flag():
                return scalars.flag(node)
            case ListOf():
                return self._list(kind, node, path)
            case MapOf():
                return self._map(kind, node, path)
            case Tagged():
                return self._tagged(kind, node, path)
            case Record():
                return self._record(kind, node, path)
        assert_never(kind)

    def _text(self, kind: Text, node: yaml.Node) -> Any:
        if kind.numbers and node.tag == scalars.INTEGER:
            return kind.parse(str(scalars.integer(node, _ANY_INTEGER)))
        text = scalars.text(node, kind.words)
        return kind.parse(self.variables.put_into(text) if kind.variables else text)

    def _integer(self, kind: Integer, node: yaml.Node) -> int | None:
        if not kind.variables or node.tag != scalars.STRING:
            return scalars.integer(node, kind)
        if self.variables.is_open(node.value):
            return None
        return scalars.integer(node, kind, self.variables.put_into(node.value))

    def _list(self, kind: ListOf, node: yaml.Node, path: Path) -> tuple[Any, ...]:
        if kind.single and isinstance(node, yaml.ScalarNode) and not scalars.is_null(node):
            return (self.build(kind.item, node, (*path, 0)),)
        return tuple(self.build(kind.item, item, (*path, i)) for i, item in enumerate(_items(node)))

    def _map(self, kind: MapOf, node: yaml.Node, path: Path) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in _pairs(node):
            at = (*path, key_node.value)
            name = self._try(kind.key, key_node, at)
            value = self.build(kind.value, value_node, at, name)
            if name in lines:
                self._report(key_node, at, f"is {quoted(str(name))} again (first on line {lines[name]})")
            elif name is not None:
                lines[name] = place(key_node).line
                result[name] = value
        return result

    def _tagged(self, kind: Tagged, node: yaml.Node, path: Path) -> Any:
        option = kind.options.get(node.tag)
        if option is not None:
            return self._record(option, scalars.untagged(node), path)
        if kind.plain is not None and not node.tag.startswith("!"):
            return self._text(kind.plain, node)
        written = node.tag if node.tag.startswith("!") else f"!{node.value}"
        hint = did_you_mean(written, kind.options)
        tags = ", ".join(kind.options)
        raise ValueError(f"expected {kind.words} with one of the tags {tags}, found {scalars.describe(node)}{hint}")

    def _record(self, kind: Record[T], node: yaml.Node, path: Path) -> T:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in self._fields(kind, node):
            key = spellings(kind.cls).get(key_node.value)
            if key is None:
                self._other_key(kind, key_node, path)
            elif key.name in lines:
                self._report(key_node, path, f"key {key.name} is there already, on line {lines[key.name]}")
            else:
                lines[key.name] = place(key_node).line
                if key.required or key.off or not scalars.is_null(value_node):
                    values[key.attribute] = self._value(key, value_node, (*path, key.name))
        for key in keys(kind.cls):
            if key.required and key.name not in lines:
                self._report(node, path, f"missing required key {quoted(key.name)}")
                values[key.attribute] = None
        if kind.checks:
            self._check(kind, path)
        return kind.cls(**values)

    def _check(self, kind: Record[Any], path: Path) -> None:
        below = {at[len(path) :]: found for at, found in self.found.items() if at[: len(path)] == path}
        for rule in kind.checks:
            for at, message in rule(below):
                self.faults.append(Fault.at(below[at].place, (*path, *at), message))

    def _fields(self, kind: Record[Any], node: yaml.Node) -> list[Pair]:
        """The pairs of a record; where a value stands instead of a mapping, the short form's one pair."""
        if not kind.short or isinstance(node, yaml.MappingNode) or scalars.is_null(node):
            return _pairs(node)
        return [(yaml.ScalarNode(scalars.STRING, kind.short, node.start_mark, node.end_mark), node)]

    def _value(self, key: Key, node: yaml.Node, path: Path) -> Any:
        if key.off and scalars.is_null(node):
            self.found[path] = Found(None, place(node))
            return None
        value = self.build(key.kind, node, path)
        if key.refused is not Refused.NEVER and value is not None and value != key.default:
            what = f"{quoted(node.value)} is" if isinstance(node, yaml.ScalarNode) and node.value else "is"
            whom = " by `lithos run`" if key.refused is Refused.BY_RUN else ""
            error = Fault.at(place(node), path, f"{what} not supported yet{whom}: remove it").error
            self.refused.append((key.refused, error))
        return value

    def _other_key(self, kind: Record[Any], key_node: yaml.ScalarNode, path: Path) -> None:
        name = key_node.value.replace("_", "-")
        if key_node.value.startswith("_") or name in kind.ignored:
            return
        hint = did_you_mean(name, [*(key.name for key in keys(kind.cls)), *kind.ignored])
        self._report(key_node, path, f"unknown key {quoted(key_node.value)}{hint}")

    def _report(self, node: yaml.Node, path: Path, message: str) -> None:
        self.faults.append(Fault.at(place(node), path, message))


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
