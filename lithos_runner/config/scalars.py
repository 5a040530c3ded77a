"""One scalar of a YAML file to a string, number or flag, without the surprises of YAML 1.1.

PyYAML resolves plain scalars by the rules of YAML 1.1 (https://yaml.org/type/): `no` is false, `010` is 8,
`3.10` is 3.1 and `12:30:45` is 45045. The node still has the text as written, so each reader takes only
what means the same to YAML and to a human, and otherwise says what YAML makes of it. All readers raise
ValueError with the sentence for the user.
"""

from __future__ import annotations

import re

import yaml

from .errors import quoted, unquoted
from .kinds import Integer, Number

_TAG = "tag:yaml.org,2002:"
STRING, INTEGER, FLOAT, FLAG, NULL = (_TAG + name for name in ("str", "int", "float", "bool", "null"))
SEQUENCE, MAPPING = _TAG + "seq", _TAG + "map"

# Plain `=` and `<<` have tags of their own but are only text where a value is expected.
_TEXT_TAGS = (STRING, _TAG + "value", _TAG + "merge")
_TWISTED_TAGS = (INTEGER, FLOAT, FLAG, _TAG + "timestamp")

UNITS = {
    "": 1,
    "k": 1000,
    "ki": 1 << 10,
    "M": 1000**2,
    "Mi": 1 << 20,
    "G": 1000**3,
    "Gi": 1 << 30,
    "T": 1000**4,
    "Ti": 1 << 40,
}
"""The suffixes of lithos (quire's table) and, one step further, tera."""

_DIGITS = r"0x[0-9a-fA-F][0-9a-fA-F_]*|0o[0-7][0-7_]*|0b[01][01_]*|0|[1-9][0-9_]*"
_WHOLE = re.compile(rf"([-+]?)({_DIGITS})( ?[kKmMgGtT][iI]?[bB]?| ?[bB])?")
_DECIMAL = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|\.[0-9]+)")
_BASES = {"0x": 16, "0o": 8, "0b": 2}
_LONGEST = 80  # characters; int() of CPython refuses more than 4300 digits with a sentence of its own

_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}

_NAMES = {
    STRING: "the string",
    INTEGER: "the integer",
    FLOAT: "the number",
    FLAG: "true or false",
    SEQUENCE: "a list",
    MAPPING: "a mapping",
    _TAG + "timestamp": "the date",
}


def describe(node: yaml.Node) -> str:
    """What a node is, in words for the second half of "expected …, found …"."""
    if node.tag == NULL:
        return "nothing"
    name = _NAMES.get(node.tag)
    if name is None:
        return f"a value with the tag {quoted(node.tag.removeprefix(_TAG))}"
    return f"{name} {quoted(node.value)}" if isinstance(node, yaml.ScalarNode) else name


def untagged(node: yaml.Node) -> yaml.Node:
    """The node as it would be without a tag of its own: `!Persistent /db` is the string `/db` then."""
    if isinstance(node, yaml.ScalarNode):
        tag = STRING if node.style else _RESOLVER.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
        return yaml.ScalarNode(tag, node.value, node.start_mark, node.end_mark, style=node.style)
    kind, tag = (yaml.MappingNode, MAPPING) if isinstance(node, yaml.MappingNode) else (yaml.SequenceNode, SEQUENCE)
    return kind(tag, node.value, node.start_mark, node.end_mark)


_RESOLVER = yaml.resolver.Resolver()


def is_null(node: yaml.Node) -> bool:
    """Whether the value is empty, `~` or `null`: lithos takes these as "not given"."""
    return isinstance(node, yaml.ScalarNode) and node.tag == NULL


def text(node: yaml.Node, words: str = "string") -> str:
    """The string as written: quoted, or plain where YAML changes nothing about it (`1`, `1.5`, `word`)."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag in _TEXT_TAGS or _is_canonical(node):
            return _passable(node.value)
        if node.tag in _TWISTED_TAGS:
            value = unquoted(node.value)
            raise ValueError(f'expected {_a(words)}, but YAML reads {value} as {_yaml_reads(node)}: write "{value}"')
    hint = ': write "" for an empty string' if is_null(node) else ""
    raise ValueError(f"expected {_a(words)}, found {describe(node)}{hint}")


def integer(node: yaml.Node, kind: Integer, substituted: str | None = None) -> int:
    """A whole number with the underscores, bases and unit suffixes of lithos, within the kind's bounds.

    `substituted` replaces the node's text where variables were put in.
    """
    if not isinstance(node, yaml.ScalarNode) or node.tag not in (STRING, INTEGER):
        raise ValueError(f"expected {_whole(kind)}, found {describe(node)}")
    written = node.value if substituted is None else substituted
    if kind.octal and re.fullmatch(r"0?[1-9][0-9]*", written):
        raise ValueError(f"expected {_whole(kind)}, found {quoted(written)}: write 0o{written.lstrip('0')}")
    match = _WHOLE.fullmatch(written)
    if match is None:
        raise ValueError(_not_whole(written, node, kind))
    sign, digits, suffix = match.groups(default="")
    if node.style and not suffix and not kind.variables:
        raise ValueError(f"expected {_whole(kind)}, found {describe(node)}: write it without quotes")
    if suffix and not kind.suffixes:
        raise ValueError(f"expected {_whole(kind)}, found {quoted(written)}: this key takes no unit")
    value = _digits(digits) * (kind.units.get(suffix) or _unit(digits, suffix))
    return _bounded_integer(-value if sign == "-" else value, kind)


def number(node: yaml.Node, kind: Number) -> float:
    """A number with an optional decimal fraction, within the kind's bounds."""
    words = f"a number of {kind.unit}" if kind.unit else "a number"
    if not isinstance(node, yaml.ScalarNode) or node.tag not in (STRING, INTEGER, FLOAT):
        raise ValueError(f"expected {words}, found {describe(node)}")
    if node.style:
        raise ValueError(f"expected {words}, found {describe(node)}")
    whole = _WHOLE.fullmatch(node.value)
    if whole is not None and not whole[3]:
        value = float(_digits(whole[2])) * (-1 if whole[1] == "-" else 1)
    elif _DECIMAL.fullmatch(node.value):
        value = float(node.value)
    else:
        raise ValueError(_misread(node, f"expected {words}"))
    _check_bounds(value, kind)
    return value


def flag(node: yaml.Node) -> bool:
    """True or false, in any of the words of YAML 1.1 (true, yes, on …)."""
    value = _FLAGS.get(node.value.lower()) if isinstance(node, yaml.ScalarNode) and node.tag == FLAG else None
    if value is None:
        raise ValueError(f"expected true or false, found {describe(node)}")
    return value


def size(written: str) -> int | None:
    """The plain number behind `80Mi`; None when the text is not a number with or without a suffix.

    Raises ValueError for a unit that is not in the table, with what may have been meant.
    """
    match = _WHOLE.fullmatch(written)
    if match is None or match[1]:
        return None
    return _digits(match[2]) * _unit(match[2], match[3] or "")


def _a(words: str) -> str:
    return f"an {words}" if words[0] in "aeiouI" else f"a {words}"


def _passable(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds a NUL character, which ends a string for the kernel (execve(2))")
    if not value.isprintable() and any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("holds half of a surrogate pair, which is no character")
    return value


def _is_canonical(node: yaml.ScalarNode) -> bool:
    """Whether a plain number would be written back exactly as it stands in the file."""
    if node.tag == INTEGER:
        return re.fullmatch(r"0|-?[1-9][0-9]*", node.value) is not None
    if node.tag == FLOAT and re.fullmatch(r"-?[0-9]+\.[0-9]+", node.value):
        return str(float(node.value)) == str(node.value)
    return False


def _yaml_reads(node: yaml.ScalarNode) -> str:
    """What a YAML 1.1 loader returns for a plain scalar, in words."""
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node)
        if isinstance(value, bool):
            return str(value).lower()
        return f"the number {value}" if isinstance(value, int | float) else f"the date {value}"
    except (ValueError, LookupError, AttributeError):  # an impossible date, thousands of digits, `!!bool x`
        return "something it cannot represent"


def _digits(digits: str) -> int:
    if len(digits) > _LONGEST:
        raise ValueError(f"the number {quoted(digits)} is too large")
    return int(digits.replace("_", ""), _BASES.get(digits[:2], 10))


def _unit(digits: str, suffix: str) -> int:
    if suffix in UNITS:
        return UNITS[suffix]
    letter = suffix.strip()[0]
    if letter in "bB":
        raise ValueError(f"unknown unit {quoted(suffix)}, did you mean {digits} (bytes need no unit)?")
    decimal = "k" if letter in "kK" else letter.upper()
    raise ValueError(
        f"unknown unit {quoted(suffix)}, did you mean "
        f"{digits}{decimal}i ({_digits(digits) * UNITS[decimal + 'i']}) "
        f"or {digits}{decimal} ({_digits(digits) * UNITS[decimal]})?"
    )


def _whole(kind: Integer) -> str:
    if kind.octal:
        return "permission bits such as 0o755"
    return f"a whole number of {kind.unit}" if kind.unit else "a whole number"


def _not_whole(written: str, node: yaml.ScalarNode, kind: Integer) -> str:
    if node.tag == STRING and kind.named is not None and not written[:1].isdigit():
        return f"expected {_whole(kind)}, found the name {quoted(written)}, {kind.named(_passable(written))}"
    if node.value != written:
        return f"expected {_whole(kind)}, found {quoted(written)}"
    return _misread(node, f"expected {_whole(kind)}")


def _misread(node: yaml.ScalarNode, expected: str) -> str:
    """The sentence for text that looks like a number but means another one to YAML than to a human."""
    looks_like_a_number = re.fullmatch(r"[-+]?\.?[0-9][0-9_.:eE+-]*", node.value) is not None
    if node.style or not looks_like_a_number:
        return f"{expected}, found {describe(node)}"
    reads = "a string" if node.tag == STRING else _yaml_reads(node)
    return f"{expected}, but YAML reads {quoted(node.value)} as {reads}: write a plain decimal number"


def _bounded_integer(value: int, kind: Integer) -> int:
    if value in kind.refused:
        raise ValueError(f"{value} is refused: {kind.refused[value]}")
    _check_bounds(value, kind)
    return value


def _check_bounds(value: float, kind: Integer | Number) -> None:
    if not kind.minimum <= value <= kind.maximum:
        raise ValueError(f"must be between {_bounds(kind)}, found {_shown(value, kind)}")


def _bounds(kind: Integer | Number) -> str:
    unit = f" {kind.unit}" if kind.unit else ""
    return f"{_shown(kind.minimum, kind)} and {_shown(kind.maximum, kind)}{unit}"


def _shown(value: float, kind: Integer | Number) -> str:
    return f"{value:#o}" if isinstance(kind, Integer) and kind.octal else str(value)
