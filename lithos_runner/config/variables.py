"""`@{name}` in a configuration: lithos's substitution of values that differ between hosts and instances."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from .errors import quoted

BUILT_IN = ("lithos:name", "lithos:config_filename", "lithos:pid")
"""Known only when an instance starts: `load_container` leaves them in place for `substitute`."""

_VARIABLE = re.compile(r"@\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def substitute(text: str, variables: Mapping[str, str]) -> str:
    """`text` with every `@{name}` replaced once; spaces inside the braces do not count.

    As in lithos, an unclosed `@{` is literal and there is no escape. Raises ValueError, with the
    sentence for the user, for a variable that is not in `variables`.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1].strip()
        if name not in variables:
            raise ValueError(f"unknown variable {quoted(name)}: give its value with --set")
        return variables[name]

    return _VARIABLE.sub(value, text)


def substitute_given(text: str, given: Mapping[str, str]) -> str:
    """`substitute` while a file is loaded: the built-ins stay, to be replaced for each instance.

    A given value must not hold `@{`, else that second substitution would read it as a variable.
    """
    for match in _VARIABLE.finditer(text):
        if "@{" in given.get(match[1].strip(), ""):
            raise ValueError(f"the variable {quoted(match[1])} holds '@{{': a value is not substituted again")
    return substitute(text, {**given, **{name: f"@{{{name}}}" for name in BUILT_IN}})


def settings(assignments: Iterable[str]) -> dict[str, str]:
    """`VAR=VALUE` arguments as a mapping; the last of two wins. Raises ValueError with a sentence."""
    variables = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(f"cannot use {quoted(assignment)} as a variable: write VAR=VALUE")
        variables[name] = value
    return variables
