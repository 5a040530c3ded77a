"""NAME on the command line: `sandbox/process` for all of its instances, `sandbox/process.N` for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class UnknownNameError(Exception):
    """No instance has this name; the text says which ones there are."""


def matches(name: str, instance: str) -> bool:
    """Whether the instance ("run/hello.0") is one of those that `name` stands for."""
    return name in (instance, process_of(instance))


def process_of(instance: str) -> str:
    """The `sandbox/process` of an instance."""
    return instance.rpartition(".")[0]


def select(name: str, instances: Collection[str]) -> list[str]:
    """The instances that `name` stands for, in their order; raises `UnknownNameError` when there are none."""
    chosen = [instance for instance in instances if matches(name, instance)]
    if not chosen:
        raise UnknownNameError(_sentence(name, instances))
    return chosen


def _sentence(name: str, instances: Collection[str]) -> str:
    if not instances:
        return f"there is no {name}: there are no instances at all"
    from difflib import get_close_matches  # slow to import, and needed for a mistake only

    there = dict.fromkeys([*map(process_of, instances), *instances])
    close = get_close_matches(name, there, n=1)
    hint = f", did you mean {close[0]}?" if close else ""
    return f"there is no {name}{hint} (there are: {', '.join(instances)})"
