"""The spellings that several files share: paths, addresses, ranges, names. Every parser raises ValueError."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from typing import NamedTuple

from .errors import quoted
from .kinds import Flag, Integer, Number, Text

RUNNER = "lithos-runner"

BYTES = "bytes"
SECONDS = "seconds"

MOST_IDS = (1 << 32) - 1

ABSOLUTE_PATTERN = "^/"
NAME_PATTERN = "^[A-Za-z0-9_][A-Za-z0-9_-]{0,99}$"

# A page, the unit in which the kernel counts memory; less would round down to a limit of 0.
MEMORY = Integer(minimum=4096, maximum=(1 << 63) - 1, unit=BYTES, suffixes=True)
# The scheduler takes no quota below 1 ms, which is 0.01 of the usual period of 100 ms
# (Documentation/scheduler/sched-bwc.rst); 8192 is the largest NR_CPUS of x86.
CPUS = Number(minimum=0.01, maximum=8192, unit="cpus")
PIDS = Integer(minimum=1, maximum=1 << 22)  # PID_MAX_LIMIT, proc_sys_kernel(5)
DAY = Number(minimum=0, maximum=86400, unit=SECONDS)
FLAG = Flag()
MODE = Integer(minimum=0, maximum=0o1777, octal=True)

_UNCHANGED = {MOST_IDS: "setresuid(2) and setresgid(2) take it as 'leave the id unchanged'"}


class Range(NamedTuple):
    """Numbers from `first` to `last`, both included."""

    first: int
    last: int

    def holds(self, number: int) -> bool:
        """Whether a number lies in the range."""
        return self.first <= number <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


def allows(ranges: tuple[Range, ...], number: int) -> bool:
    """Whether a number lies in one of the ranges."""
    return any(each.holds(number) for each in ranges)


def covers(ranges: tuple[Range, ...], wanted: Range) -> bool:
    """Whether every number of `wanted` lies in one of the ranges."""
    missing = wanted.first
    for each in sorted(ranges):
        if each.holds(missing):
            missing = each.last + 1
    return missing > wanted.last


def ranges_in_words(ranges: tuple[Range, ...]) -> str:
    """The ranges as a file would write them."""
    return f"[{', '.join(map(str, ranges))}]"


def absolute(text: str) -> str:
    """A path from the root, as it is written."""
    if not text.startswith("/"):
        raise ValueError(f"expected an absolute path, found {quoted(text)}")
    return text


def program(text: str) -> str:
    """The path of a program."""
    if not text.startswith("/"):
        raise ValueError(f"expected an absolute path, found {quoted(text)}: it is not searched for in PATH")
    return text


def plain_path(text: str) -> str:
    """An absolute path without `..`, in its shortest spelling: what is compared by prefix."""
    parts = [part for part in absolute(text).split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"{quoted(text)} holds '..', write where it leads")
    return "/" + "/".join(parts)


def some_path(text: str) -> str:
    """A path that may be relative, to a directory that the key names."""
    if not text:
        raise ValueError("expected a path, found an empty string")
    return text


def address(text: str) -> str:
    """An IP address in the kernel's spelling, so that one address has one identity."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_ntop(family, socket.inet_pton(family, text))
        except OSError:
            continue
    raise ValueError(
        f'{quoted(text)} is not an IPv4 or IPv6 address: names are not looked up, write 0.0.0.0, 127.0.0.1 or "::"'
    )


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def network(text: str) -> Network:
    """An IP network; as in lithos, the address of a host in it names it too."""
    if not re.fullmatch(r"[0-9a-fA-F.:]+/[0-9]+", text):
        raise ValueError(f"{quoted(text)} is not a network such as 10.0.0.0/24")
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{quoted(text)} is not a network such as 10.0.0.0/24") from None


def name_of_component(text: str) -> str:
    """The name of a sandbox or a process: one component of a path, a cgroup and `sandbox/process.N`.

    A dot would make `web.1` ambiguous, and a cgroup cannot be called `memory.max`.
    """
    if not re.fullmatch(NAME_PATTERN, text):
        raise ValueError(
            f"{quoted(text)} cannot be a name: write letters, digits, - and _, at most 100, and no - first"
        )
    return text


def variable_name(text: str) -> str:
    """The name of an environment variable."""
    if not text or "=" in text:
        raise ValueError(f"{quoted(text)} cannot name an environment variable: it is empty or holds '='")
    return text


def one_of(what: str, *words: str) -> Text:
    """A string that is one of a few words."""
    either = " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected {either}, found {quoted(text)}")
        return text

    return Text(words=what, parse=parse, schema={"enum": list(words)})


def _range(most: int) -> Callable[[str], Range]:
    def parse(text: str) -> Range:
        match = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", text)
        if match is None:
            raise ValueError(f"expected a number or a range such as 1-1000, found {quoted(text)}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"the range {text} holds nothing: write {last}-{first}")
        if last > most:
            raise ValueError(f"must end at {most} at most, found {last}")
        return Range(first, last)

    return parse


_RANGE_SCHEMA = {"type": ["string", "integer"], "pattern": "^[0-9]+(-[0-9]+)?$"}

ABSOLUTE = Text(words="absolute path", parse=absolute, schema={"pattern": ABSOLUTE_PATTERN})
PLAIN_PATH = Text(words="absolute path", parse=plain_path, schema={"pattern": ABSOLUTE_PATTERN})
PROGRAM = Text(words="absolute path", parse=program, schema={"pattern": ABSOLUTE_PATTERN})
PATH = Text(words="path", parse=some_path, schema={"minLength": 1})
ADDRESS = Text(words="IP address", parse=address)
NAME = Text(words="name", parse=name_of_component, schema={"pattern": NAME_PATTERN})
ID_RANGE = Text(words="range of ids", parse=_range(MOST_IDS), schema=_RANGE_SCHEMA, numbers=True)
PORT_RANGE = Text(words="range of ports", parse=_range(65535), schema=_RANGE_SCHEMA, numbers=True)


def _number_of_user(name: str) -> str:
    import pwd

    try:
        return f"which is {pwd.getpwnam(name).pw_uid} on this host: write the number"
    except KeyError:
        return "which this host does not know: write the number"


def _number_of_group(name: str) -> str:
    import grp

    try:
        return f"which is {grp.getgrnam(name).gr_gid} on this host: write the number"
    except KeyError:
        return "which this host does not know: write the number"


USER = Integer(minimum=0, maximum=MOST_IDS - 1, refused=_UNCHANGED, named=_number_of_user)
GROUP = Integer(minimum=0, maximum=MOST_IDS - 1, refused=_UNCHANGED, named=_number_of_group)
