"""Text to YAML node tree: positions kept, merges resolved, and nothing in it that a later step must fear.

PyYAML's composer recurses, in C without a guard: a few thousand brackets end the process with a
segmentation fault. So the *events* of the file, which are a flat stream, are measured first.
"""

from __future__ import annotations

from collections.abc import Iterator

import yaml
from yaml.reader import Reader

from .errors import ConfigErrors, Error, Path, quoted, written

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
"""Nodes after every alias is expanded, so that nine lines of aliases cannot stand for a billion values."""
MAX_DEPTH = 64

MERGE = "tag:yaml.org,2002:merge"

Pair = tuple[yaml.ScalarNode, yaml.Node]

_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_HINTS = {
    "@": "a value that begins with '@' needs quotes",
    "`": "a value that begins with '`' needs quotes",
    "%": "a value that begins with '%' needs quotes",
    "\t": "indent with spaces, not with tabs",
}


def read_file(file: str) -> str:
    """The text of a configuration file; raises ConfigErrors when it cannot be read or is not UTF-8."""
    try:
        with open(file, "rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigErrors([Error(file, 1, 1, "", f"cannot be read: {error.strerror}")]) from error
    if len(raw) > MAX_BYTES:
        raise ConfigErrors([Error(file, 1, 1, "", f"is larger than {MAX_BYTES} bytes")])
    try:
        return raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        message = f"is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}"
        good = raw[: error.start].decode().removeprefix("\ufeff")
        raise ConfigErrors([Error(file, *_after(good), "", message)]) from error


def compose(
    file: str,
    text: str,
    errors: list[Error],
    loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = _LOADER,
) -> yaml.Node | None:
    """The root of the only document in `text`; None when there is none.

    Faults of keys are added to `errors`, so that they are shown beside those of the values. Raises
    ConfigErrors when there is no tree to go on with: bad syntax, several documents, a forbidden
    character, more than MAX_NODES or MAX_DEPTH.
    """
    if found := Reader.NON_PRINTABLE.search(text):
        message = f"holds the control character U+{ord(found[0]):04X}: write it as an escape in double quotes"
        raise ConfigErrors([Error(file, *_after(text[: found.start()]), "", message)])
    try:
        _Measure(file).measure(yaml.parse(text, Loader=loader))
        root: yaml.Node | None = yaml.compose(text, Loader=loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: chr() of an escape, in the pure Python loader
        raise ConfigErrors([_syntax_error(file, text, error)]) from error
    if root is not None:
        _Keys(file, errors).visit(root, ())
    return root


def pairs(mapping: yaml.MappingNode) -> Iterator[Pair]:
    """The keys and values of a composed mapping; its keys are scalars, its merges are done."""
    return iter(mapping.value)


def position(item: yaml.Node | yaml.Event) -> tuple[int, int]:
    """Line and column, from 1, where a node or an event starts."""
    mark = item.start_mark
    assert mark is not None  # noqa: S101 - only for events and nodes made by hand
    return mark.line + 1, mark.column + 1


def _after(before: str) -> tuple[int, int]:
    """Line and column, from 1, of the character that follows `before`."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _syntax_error(file: str, text: str, error: Exception) -> Error:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Error(file, 1, 1, "", f"is not YAML: {str(error).splitlines()[0]}")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    hint = _HINTS.get(line[mark.column : mark.column + 1], "")
    context = getattr(error, "context", None)
    parts = [f"{context}: " if context else "", str(getattr(error, "problem", error)), hint and f" ({hint})"]
    return Error(file, mark.line + 1, mark.column + 1, "", f"is not YAML: {''.join(parts)}")


class _Size:
    """How much a node stands for when its aliases are expanded; open until its end was seen."""

    def __init__(self, height: int) -> None:
        self.nodes = 1
        self.height = height
        self.is_open = height > 0


class _Measure:
    """Follows the events of one file and refuses it as soon as it grows beyond the limits."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.documents = 0
        self.anchors: dict[str, _Size] = {}
        self.above = [_Size(height=1)]

    def measure(self, events: Iterator[yaml.Event]) -> None:
        for event in events:
            match event:
                case yaml.DocumentStartEvent():
                    self._document(event)
                case yaml.CollectionStartEvent():
                    self._start(event)
                case yaml.CollectionEndEvent():
                    self._add(self._end(), event)
                case yaml.ScalarEvent():
                    self._add(self._remember(event, _Size(height=0)), event)
                case yaml.AliasEvent():
                    self._alias(event)

    def _document(self, event: yaml.Event) -> None:
        self.documents += 1
        if self.documents > 1:
            self._refuse(event, "holds several YAML documents: put each into a file of its own")

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        self.above.append(self._remember(event, _Size(height=1)))
        self._check_depth(len(self.above) - 1, event)

    def _end(self) -> _Size:
        size = self.above.pop()
        size.is_open = False
        return size

    def _alias(self, event: yaml.AliasEvent) -> None:
        size = self.anchors.get(event.anchor or "")
        if size is None:
            return  # the composer names an undefined alias
        if size.is_open:
            self._refuse(event, f"the alias *{event.anchor} stands for something that contains it")
        self._add(size, event)

    def _remember(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, size: _Size) -> _Size:
        if event.anchor is not None:
            self.anchors[event.anchor] = size
        return size

    def _add(self, size: _Size, event: yaml.Event) -> None:
        parent = self.above[-1]
        parent.nodes += size.nodes
        parent.height = max(parent.height, size.height + 1)
        if parent.nodes > MAX_NODES:
            self._refuse(event, f"stands for more than {MAX_NODES} values")
        self._check_depth(len(self.above) - 1 + size.height, event)

    def _check_depth(self, depth: int, event: yaml.Event) -> None:
        if depth > MAX_DEPTH:
            self._refuse(event, f"is nested more than {MAX_DEPTH} levels deep")

    def _refuse(self, event: yaml.Event, message: str) -> None:
        raise ConfigErrors([Error(self.file, *position(event), "", message)])


class _Keys:
    """Checks the keys of every mapping and puts merged pairs in place of `<<`.

    A mapping's own pair wins over a merged one, an earlier source over a later one
    (https://yaml.org/type/merge.html). Merged nodes keep the position where they were written.
    """

    def __init__(self, file: str, errors: list[Error]) -> None:
        self.file = file
        self.errors = errors
        self.done: set[int] = set()

    def visit(self, node: yaml.Node, path: Path) -> None:
        if id(node) in self.done:
            return
        self.done.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                self.visit(item, (*path, index))
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                self.visit(value, (*path, key.value) if isinstance(key, yaml.ScalarNode) else path)
            node.value = self._pairs(node, path)

    def _pairs(self, mapping: yaml.MappingNode, path: Path) -> list[Pair]:
        own: dict[str, Pair] = {}
        for key, value in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                self._report(key, path, "a key must be a word or a number")
            elif key.value in own:
                line, _ = position(own[key.value][0])
                self._report(key, path, f"key {quoted(key.value)} appears twice (first on line {line})")
            else:
                own[key.value] = key, value
        merged = [pair for pair in own.values() if pair[0].tag == MERGE]
        result = {name: pair for name, pair in own.items() if pair[0].tag != MERGE}
        for _, value in merged:
            for source in self._sources(value, path):
                for key, inherited in pairs(source):
                    result.setdefault(key.value, (key, inherited))
        return list(result.values())

    def _sources(self, value: yaml.Node, path: Path) -> Iterator[yaml.MappingNode]:
        nodes = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for node in nodes:
            if isinstance(node, yaml.MappingNode):
                yield node
            else:
                self._report(node, path, "'<<' merges a mapping or a list of mappings")

    def _report(self, node: yaml.Node, path: Path, message: str) -> None:
        self.errors.append(Error(self.file, *position(node), written(path), message))
