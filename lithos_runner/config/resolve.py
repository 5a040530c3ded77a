"""The node tree that the walk reads: includes in place, lists unpacked, keys checked, merges done.

The tags `!*Include`, `!*IncludeSeq`, `!*IncludeMap` and `!*Unpack` are those of lithos's library quire
(https://rust-quire.readthedocs.io/en/latest/user.html).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import yaml

from . import scalars
from .errors import ConfigErrors, Error, Fault, Path, quoted
from .files import Files, Unreadable
from .yaml_nodes import MAX_DEPTH, MAX_NODES, Pair, compose, pairs, place

MAX_INCLUDES = 1000
MAX_INCLUDE_DEPTH = 8
MAX_INCLUDED = 4 << 20
"""Characters of all included files together."""

INCLUDE, INCLUDE_LIST, INCLUDE_MAPPING, UNPACK = "!*Include", "!*IncludeSeq", "!*IncludeMap", "!*Unpack"

_MERGE = "tag:yaml.org,2002:merge"


class BrokenNode(yaml.ScalarNode):
    """Stands for something whose fault was reported: the walk passes it over."""


class Tree(NamedTuple):
    """The nodes of a file and the faults found so far; `file` is its name in messages, None an empty document."""

    file: str
    root: yaml.Node | None
    faults: tuple[Fault, ...]


def read_tree(files: Files, path: str) -> Tree:
    """Read a file and all that it includes. Raises ConfigErrors when there is no tree to go on with."""
    errors: list[Error] = []
    text = files.read(path, errors)
    tree = parse_tree(files, path, files.shown(path), text)
    return tree._replace(faults=(*(Fault((), error) for error in errors), *tree.faults))


def parse_tree(files: Files, path: str, shown: str, text: str) -> Tree:
    """As `read_tree`, for a text that is there already; what it includes is found beside `path` of `files`."""
    resolver = _Resolver(files)
    root = compose(shown, text)
    if root is not None:
        root = resolver.resolve(root, _At(path, (path,), (), depth=1))
    return Tree(shown, root, tuple(resolver.faults))


class _At(NamedTuple):
    """Where the resolver is: in which file, included by which others, below which keys, how deep."""

    file: str
    above: tuple[str, ...]
    path: Path
    depth: int

    def below(self, part: str | int) -> _At:
        return self._replace(path=(*self.path, part), depth=self.depth + 1)


class _Done(NamedTuple):
    """A resolved node, and how much it stands for; `origin` is kept so that its id stays its own."""

    origin: yaml.Node
    node: yaml.Node
    nodes: int
    height: int


class _Resolver:
    """Visits every node once; a node that aliases name again is only measured again.

    A mapping's own pair wins over a merged one, an earlier source over a later one
    (https://yaml.org/type/merge.html). Merged and included nodes keep the place where they were written.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.faults: list[Fault] = []
        self.done: dict[int, _Done] = {}
        self.includes = 0
        self.included = 0

    def resolve(self, node: yaml.Node, at: _At) -> yaml.Node:
        done = self.done.get(id(node))
        if done is None:
            self._check_depth(at.depth - 1, node)
            done = self.done[id(node)] = self._resolve(node, at)
        self._check_size(done, at, node)
        return done.node

    def _resolve(self, node: yaml.Node, at: _At) -> _Done:
        if node.tag in (INCLUDE, INCLUDE_LIST, INCLUDE_MAPPING):
            included = self.resolve(self._include(node, at), at)
            return self.done[id(included)]._replace(origin=node)
        if isinstance(node, yaml.SequenceNode):
            node.value = list(self._items(node, at))
            return self._measured(node, node.value)
        if isinstance(node, yaml.MappingNode):
            self._mapping(node, at)
            return self._measured(node, [value for _, value in node.value])
        return _Done(node, node, 1, 0)

    def _measured(self, node: yaml.Node, below: list[yaml.Node]) -> _Done:
        sizes = [self.done[id(each)] for each in below]
        height = 1 + max((size.height for size in sizes), default=0)
        return _Done(node, node, 1 + sum(size.nodes for size in sizes), height)

    def _check_size(self, done: _Done, at: _At, node: yaml.Node) -> None:
        if done.nodes > MAX_NODES:
            raise ConfigErrors([Error(*place(node), "", f"stands for more than {MAX_NODES} values")])
        self._check_depth(at.depth - 1 + done.height, node)

    def _check_depth(self, depth: int, node: yaml.Node) -> None:
        if depth > MAX_DEPTH:
            raise ConfigErrors([Error(*place(node), "", f"is nested more than {MAX_DEPTH} levels deep")])

    # Lists and mappings

    def _items(self, sequence: yaml.SequenceNode, at: _At) -> Iterator[yaml.Node]:
        for index, item in enumerate(sequence.value):
            resolved = self.resolve(item, at.below(index))
            if resolved.tag == UNPACK:
                yield from self._unpacked(resolved, at.below(index))
            else:
                yield resolved

    def _unpacked(self, node: yaml.Node, at: _At) -> Iterator[yaml.Node]:
        lists = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for each in lists:
            if isinstance(each, yaml.SequenceNode):
                yield from each.value
            else:
                self._report(each, at.path, f"{UNPACK} takes a list of lists: write {UNPACK} [*one, *another]")

    def _mapping(self, mapping: yaml.MappingNode, at: _At) -> None:
        own: dict[str, Pair] = {}
        for key, value in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                self._report(key, at.path, "a key must be a word or a number")
                continue
            resolved = self.resolve(value, at.below(key.value))
            if key.value in own:
                _, line, _ = place(own[key.value][0])
                self._report(key, at.path, f"key {quoted(key.value)} appears twice (first on line {line})")
            else:
                own[key.value] = key, resolved
        merged = [pair for pair in own.values() if pair[0].tag == _MERGE]
        result = {name: pair for name, pair in own.items() if pair[0].tag != _MERGE}
        for _, value in merged:
            for source in self._sources(value, at):
                for key, inherited in pairs(source):
                    result.setdefault(key.value, (key, inherited))
        mapping.value = list(result.values())

    def _sources(self, value: yaml.Node, at: _At) -> Iterator[yaml.MappingNode]:
        nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for node in nodes:
            if isinstance(node, yaml.MappingNode):
                yield node
            elif not isinstance(node, BrokenNode):
                self._report(node, at.path, "'<<' merges a mapping or a list of mappings")

    # Includes

    def _include(self, node: yaml.Node, at: _At) -> yaml.Node:
        try:
            target = scalars.text(scalars.untagged(node), "path")
            if node.tag == INCLUDE:
                return self._file(node, self._beside(at, target), at)
            found = self._matches(at, target, node.tag)
        except OSError as error:
            return self._refused(node, at, f"cannot include {node.value}: {error.strerror}")
        except ValueError as error:
            return self._refused(node, at, f"cannot include: {error}")
        if node.tag == INCLUDE_LIST:
            items = [self._file(node, path, at.below(index)) for index, (_, path) in enumerate(found)]
            return yaml.SequenceNode(scalars.SEQUENCE, items, node.start_mark, node.end_mark)
        return yaml.MappingNode(
            scalars.MAPPING,
            [(_key(name, node), self._file(node, path, at.below(name))) for name, path in found],
            node.start_mark,
            node.end_mark,
        )

    def _file(self, node: yaml.Node, path: str, at: _At) -> yaml.Node:
        """The root of an included file, in place of the node that includes it."""
        self.includes += 1
        if self.includes > MAX_INCLUDES:
            raise ConfigErrors([Error(*place(node), "", f"more than {MAX_INCLUDES} files are included")])
        shown = self.files.shown(path)
        if path in at.above:
            chain = " → ".join(map(self.files.shown, (*at.above[at.above.index(path) :], path)))
            return self._refused(node, at, f"a file includes itself: {chain}")
        if len(at.above) > MAX_INCLUDE_DEPTH:
            return self._refused(node, at, f"files include each other more than {MAX_INCLUDE_DEPTH} levels deep")
        errors: list[Error] = []
        try:
            text = self.files.read(path, errors)
        except Unreadable as refused:
            return self._refused(node, at, f"cannot include {shown}: {refused.errors[0].message}")
        self.included += len(text)
        if self.included > MAX_INCLUDED:
            raise ConfigErrors([Error(*place(node), "", f"more than {MAX_INCLUDED} characters are included")])
        try:
            root = compose(shown, text)
        except ConfigErrors as refused:
            errors += refused.errors
            root = _broken(node)
        self.faults += [Fault(at.path, error) for error in errors]
        if root is None:
            root = yaml.ScalarNode(scalars.NULL, "", node.start_mark, node.end_mark)
        return self.resolve(root, at._replace(file=path, above=(*at.above, path)))

    def _matches(self, at: _At, pattern: str, tag: str) -> list[tuple[str, str]]:
        """(what the star stands for, path) of every file that a pattern such as `parts/*.yaml` names."""
        star = "(*)" if tag == INCLUDE_MAPPING else "*"
        directory, _, last = pattern.rpartition("/")
        before, found, after = last.partition(star)
        if not found or "*" in directory + before + after:
            raise ValueError(f"{tag} takes a path with one {star} in its last component, found {quoted(pattern)}")
        folder = self._beside(at, directory)
        names = [
            name
            for name in self.files.names(folder)
            if len(name) >= len(before) + len(after) and name.startswith(before) and name.endswith(after)
        ]
        stems = [name[len(before) : len(name) - len(after)] for name in names]
        return [
            (stem, os.path.join(folder, name)) for stem, name in zip(stems, names, strict=True) if name[0] not in ".#"
        ]

    def _beside(self, at: _At, path: str) -> str:
        return os.path.normpath(os.path.join(os.path.dirname(at.file), path))

    def _refused(self, node: yaml.Node, at: _At, message: str) -> yaml.Node:
        self._report(node, at.path, message)
        return _broken(node)

    def _report(self, node: yaml.Node, path: Path, message: str) -> None:
        self.faults.append(Fault.at(place(node), path, message))


def _broken(node: yaml.Node) -> BrokenNode:
    return BrokenNode("", "", node.start_mark, node.end_mark)


def _key(name: str, node: yaml.Node) -> yaml.ScalarNode:
    return yaml.ScalarNode(scalars.STRING, name, node.start_mark, node.end_mark)
