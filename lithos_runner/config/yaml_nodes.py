"""Text to YAML node tree: every node knows its file and position, and no later step need fear its size.

PyYAML's composer recurses, in C without a guard: a few thousand brackets end the process with a
segmentation fault. So the *events* of the file, which are a flat stream, are measured first.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import yaml
from yaml.reader import Reader

from .errors import ConfigErrors, Error, Place
from .files import place_after

MAX_NODES = 100_000
"""Nodes after every alias is expanded, so that nine lines of aliases cannot stand for a billion values."""
MAX_DEPTH = 64

Pair = tuple[yaml.ScalarNode, yaml.Node]

_LOADER: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_HINTS = {
    "@": "a value that begins with '@' needs quotes",
    "`": "a value that begins with '`' needs quotes",
    "%": "a value that begins with '%' needs quotes",
    "\t": "indent with spaces, not with tabs",
}


def compose(
    file: str,
    text: str,
    loader: type[yaml.SafeLoader] | type[yaml.CSafeLoader] = _LOADER,
) -> yaml.Node | None:
    """The root of the only document in `text`, as it is written; None when there is none.

    `file` is the name for messages. Raises ConfigErrors when there is no tree to go on with: bad syntax,
    several documents, a forbidden character, more than MAX_NODES or MAX_DEPTH.
    """
    if found := Reader.NON_PRINTABLE.search(text):
        message = f"holds the control character U+{ord(found[0]):04X}: write it as an escape in double quotes"
        raise ConfigErrors([Error(*place_after(file, text[: found.start()]), "", message)])
    try:
        _Measure(file).measure(yaml.parse(_Named(text, file), Loader=loader))
        root: yaml.Node | None = yaml.compose(_Named(text, file), Loader=loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: chr() of an escape, in the pure Python loader
        raise ConfigErrors([_syntax_error(file, text, error)]) from error
    return root


class _Named(io.StringIO):
    """A text whose name PyYAML copies into the mark of every node, so that included nodes keep their file."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def pairs(mapping: yaml.MappingNode) -> Iterator[Pair]:
    """The keys and values of a composed mapping; its keys are scalars, its merges are done."""
    return iter(mapping.value)


def place(item: yaml.Node | yaml.Event) -> Place:
    """Where a node or an event starts."""
    mark = item.start_mark
    assert mark is not None  # noqa: S101 - only for events and nodes made by hand
    return Place(mark.name, mark.line + 1, mark.column + 1)


def _syntax_error(file: str, text: str, error: Exception) -> Error:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return Error(*Place(file), "", f"is not YAML: {str(error).splitlines()[0]}")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    context = getattr(error, "context", None)
    in_tag = context == "while scanning a tag"
    hint = "put a space behind the tag" if in_tag else _HINTS.get(line[mark.column : mark.column + 1], "")
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
        raise ConfigErrors([Error(*place(event), "", message)])
