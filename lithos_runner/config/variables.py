"""`@{name}` in a configuration: lithos's substitution of values that differ between hosts and instances."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .errors import quoted

BUILT_IN = ("lithos:name", "lithos:config_filename", "lithos:pid")
"""Known only when an instance starts: `load_container` leaves them in place for `substitute`."""

_VARIABLE = re.compile(r"@\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def substitute(text: str, variables: Mapping[str, str], remedy: str = "give its value with --set") -> str:
    """`text` with every `@{name}` replaced once; spaces inside the braces do not count.

    As in lithos, an unclosed `@{` is literal and there is no escape. Raises ValueError, with the
    sentence for the user, for a variable that is not in `variables`.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1].strip()
        if name not in variables:
            what_to_do = f"there are {', '.join(BUILT_IN)}" if name.startswith("lithos:") else remedy
            raise ValueError(f"unknown variable {quoted(name)}: {what_to_do}")
        return variables[name]

    return _VARIABLE.sub(value, text)


class Variables(NamedTuple):
    """The variables while a file is loaded. The built-ins stay, to be replaced for each instance."""

    values: Mapping[str, str]
    open: frozenset[str] = frozenset()
    """Declared variables without a value: what holds one of them is checked as far as that goes."""
    remedy: str = "give its value with --set"

    def put_into(self, text: str) -> str:
        """`text` with every variable replaced but the built-in and the open ones; raises ValueError.

        A value must not hold `@{`, else that second substitution would read it as a variable.
        """
        if "@{" not in text:
            return text
        for name in _names(text):
            if "@{" in self.values.get(name, ""):
                raise ValueError(f"the variable {quoted(name)} holds '@{{': a value is not substituted again")
        kept = {name: f"@{{{name}}}" for name in (*BUILT_IN, *self.open)}
        return substitute(text, {**self.values, **kept}, self.remedy)

    def is_open(self, text: str) -> bool:
        """Whether the text cannot be known because it holds a variable without a value."""
        return not self.open.isdisjoint(_names(text))


NO_VARIABLES = Variables({})


def is_variable(text: str) -> str:
    """The name of the variable that is the whole of a text; empty when there is more or less in it."""
    match = _VARIABLE.fullmatch(text.strip())
    return match[1].strip() if match else ""


def _names(text: str) -> list[str]:
    return [match[1].strip() for match in _VARIABLE.finditer(text)]


def settings(assignments: Iterable[str]) -> dict[str, str]:
    """`VAR=VALUE` arguments as a mapping; the last of two wins. Raises ValueError with a sentence."""
    variables = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(f"cannot use {quoted(assignment)} as a variable: write VAR=VALUE")
        variables[name] = value
    return variables
