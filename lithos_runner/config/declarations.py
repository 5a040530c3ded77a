"""The variables that a container file declares: what a process file may put into it, and nothing else.

They are typed so that a value which an orchestrator supplies cannot become code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import attrs

from .errors import quoted
from .formats import one_of
from .kinds import ListOf, MapOf, Record, Tagged, Text, key


@attrs.frozen(kw_only=True)
class PortVariable:
    """`!TcpPort`: a number from 1 to 65535 that the sandbox allows."""

    activation: str | None = key(
        one_of("activation", "systemd"),
        "`systemd`: listen on this port and hand the socket over in systemd's way, at descriptor 3 and up "
        "in the order of the names.",
        default=None,
    )

    def check(self, value: str) -> None:
        """Raise ValueError when it is no port."""
        if not re.fullmatch("[1-9][0-9]{0,4}", value) or int(value) > 65535:
            raise ValueError(f"expected a port from 1 to 65535, found {quoted(value)}")


@attrs.frozen(kw_only=True)
class ChoiceVariable:
    """`!Choice`: one of the listed values."""

    options: tuple[str, ...] = key(ListOf(Text()), "The values to choose from.")

    def check(self, value: str) -> None:
        """Raise ValueError when it is none of them."""
        if value not in self.options:
            raise ValueError(f"expected one of {', '.join(map(quoted, self.options))}, found {quoted(value)}")


@attrs.frozen(kw_only=True)
class NameVariable:
    """`!Name`: letters, digits, dashes and underscores."""

    def check(self, value: str) -> None:
        """Raise ValueError when it holds anything else or is empty."""
        if not re.fullmatch("[0-9a-zA-Z_-]+", value):
            raise ValueError(f"expected letters, digits, - and _ only, found {quoted(value)}")


@attrs.frozen(kw_only=True)
class DottedNameVariable:
    """`!DottedName`: names that are joined by dots; none begins or ends with a dash."""

    def check(self, value: str) -> None:
        """Raise ValueError when it holds anything else."""
        part = "[0-9a-zA-Z_]([0-9a-zA-Z_-]*[0-9a-zA-Z_])?"
        if not re.fullmatch(rf"{part}(\.{part})*", value):
            raise ValueError(
                f"expected names joined by dots, none of which begins or ends with -, found {quoted(value)}"
            )


Declared = PortVariable | ChoiceVariable | NameVariable | DottedNameVariable


def _declared_name(text: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_.-]+", text):
        raise ValueError(f"{quoted(text)} cannot name a variable: it takes letters, digits, '.', - and _")
    return text


VARIABLES = MapOf(
    Text(words="name", parse=_declared_name, schema={"pattern": "^[A-Za-z0-9_.-]+$"}),
    Tagged(
        words="the type of a variable",
        options={
            "!TcpPort": Record(PortVariable, "port variable"),
            "!Choice": Record(ChoiceVariable, "choice variable", short="options"),
            "!Name": Record(NameVariable, "name variable"),
            "!DottedName": Record(DottedNameVariable, "dotted name variable"),
        },
    ),
)


def faults_of_values(declared: Mapping[str, Declared], supplied: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(name, sentence) of every supplied value that is not of the declared type."""
    for name, kind in declared.items():
        if name in supplied:
            try:
                kind.check(supplied[name])
            except ValueError as error:
                yield name, str(error)


def missing_values(declared: Mapping[str, Declared], supplied: Mapping[str, str]) -> list[str]:
    """The declared variables without a value."""
    return [name for name in declared if name not in supplied]
