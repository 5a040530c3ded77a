"""Changing one value of a process file and nothing else: comments, order and spelling stay as somebody wrote them."""

from __future__ import annotations

import yaml

from .errors import quoted
from .yaml_nodes import compose, pairs


def with_instances(text: str, process: str, instances: int) -> str:
    """Return the text of a process file with another number of ``instances`` for ``process``.

    Raises ValueError (ConfigErrors for what is no YAML) when the number is not written there in so many words.
    """
    key, entry = _pair(compose("process file", text, yaml.SafeLoader), process)
    if not isinstance(entry, yaml.MappingNode) or entry.start_mark.index < key.end_mark.index or not entry.value:
        raise ValueError(f"the entry of {quoted(process)} is written elsewhere: change it there")
    for name, value in pairs(entry):
        if name.value == "instances":
            start, end = value.start_mark.index, value.end_mark.index
            if start < name.end_mark.index or text[start] == "!":
                raise ValueError(f"instances of {quoted(process)} is written elsewhere: change it there")
            if text[start] == "&":
                raise ValueError(f"instances of {quoted(process)} has a name that others use: change it by hand")
            return f"{text[:start]}{instances}{text[end:]}"
    first = entry.value[0][0].start_mark
    separator = ", " if entry.flow_style else "\n" + " " * first.column
    return f"{text[: first.index]}instances: {instances}{separator}{text[first.index :]}"


def _pair(root: yaml.Node | None, process: str) -> tuple[yaml.ScalarNode, yaml.Node]:
    if isinstance(root, yaml.MappingNode):
        for key, value in pairs(root):
            if key.value == process:
                return key, value
    raise ValueError(f"there is no process {quoted(process)} in it")
