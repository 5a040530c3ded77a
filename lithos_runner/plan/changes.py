"""What a reload changes, instance by instance, and why: the words of `lithos plan`.

A process group is described by its *facts*: configuration keys as people write them, and the text of each value.
Instances whose facts differ are different versions; ``identity`` is the name of a version.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from enum import Enum
from typing import NamedTuple

LIVE = frozenset(
    (
        "drain-timeout",
        "kill-timeout",
        "normal-exit-codes",
        "readiness-timeout",
        "restart-timeout",
        "stop-signal",
    )
)
"""Keys that instances take over while they run; so are all below ``upgrade``."""

_SOCKETS = ("tcp-ports", "udp-ports", "unix-sockets")
_OF_A_LIVING_SOCKET = ("listen-backlog", "set-non-block", "reuse-addr", "mode", "user", "group")
IMAGE = "image"
IMAGE_IDENTITY = "image-identity"  # what tells a directory from another one of the same name; not for people
_SECRET = "secret-environ."  # noqa: S105 a key; what it holds is never shown
UNCHANGED = "unchanged"
_SHOWN = 40  # characters of a value that still fit into a sentence
_NAMED = 5  # reasons; more of them are only counted


class GroupFacts(NamedTuple):
    """A process group, `sandbox/process`, as it runs or as it is wanted."""

    name: str
    instances: int
    facts: Mapping[str, str]


class What(Enum):
    """What becomes of an instance."""

    KEEP = "keep"
    START = "start"
    RESTART = "restart"
    STOP = "stop"


class Change(NamedTuple):
    """What becomes of one instance, `sandbox/process.N`, and why."""

    instance: str
    what: What
    reason: str


def changes(running: Iterable[GroupFacts], wanted: Iterable[GroupFacts], broken: Collection[str] = ()) -> list[Change]:
    """Return what a reload does to every instance, sorted by sandbox, process and index.

    ``broken`` names what cannot be read: `sandbox/process`, `sandbox`, or the empty string for everything. What runs
    there is kept as it is, whatever ``wanted`` says.
    """
    before, after = ({group.name: group for group in groups} for groups in (running, wanted))
    found: list[Change] = []
    for name in sorted(before.keys() | after.keys(), key=lambda name: name.split("/")):
        fates = _fates(before.get(name), after.get(name), _fault(name, broken))
        found += [Change(f"{name}.{index}", what, reason) for index, (what, reason) in enumerate(fates)]
    return found


def identity(facts: Mapping[str, str]) -> str:
    """Return the name of a version: a hash over all facts that a running instance cannot take over."""
    import hashlib  # the configuration reader names versions; in the supervisor, OpenSSL would cost megabytes

    hashed = hashlib.blake2b(digest_size=8)
    for key in sorted(key for key in facts if not _is_live(key)):
        for text in (key, facts[key]):
            # With its length in front no text can pass for the end of one and the beginning of another.
            encoded = text.encode(errors="surrogateescape")
            hashed.update(b"%d:%b" % (len(encoded), encoded))
    return hashed.hexdigest()


_Fate = tuple[What, str]


def _fates(before: GroupFacts | None, after: GroupFacts | None, fault: str | None) -> list[_Fate]:
    """Return what becomes of each instance of a group, by index."""
    if fault is not None:
        return [(What.KEEP, fault)] * (before.instances if before else 0)
    if after is None:
        return [(What.STOP, "the process is not configured any more")] * (before.instances if before else 0)
    if before is None:
        return [(What.START, "the process is new")] * after.instances
    count = f"instances {before.instances} → {after.instances}"
    return [
        *[_fate_of_facts(before.facts, after.facts)] * min(before.instances, after.instances),
        *[(What.START, count)] * (after.instances - before.instances),
        *[(What.STOP, f"not wanted any more ({count})")] * (before.instances - after.instances),
    ]


def _fault(name: str, broken: Collection[str]) -> str | None:
    """Return why a group is left alone; None when it is not."""
    sandbox, _, _ = name.partition("/")
    whose = {"": "the configuration", sandbox: f"the configuration of the sandbox {sandbox}", name: "its configuration"}
    return next((f"kept as it is: {words} has faults" for key, words in whose.items() if key in broken), None)


def _fate_of_facts(before: Mapping[str, str], after: Mapping[str, str]) -> _Fate:
    differing = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    differing.sort(key=lambda key: (_is_live(key), key != IMAGE, key))
    if not differing:
        return What.KEEP, UNCHANGED
    what = What.KEEP if _is_live(differing[0]) else What.RESTART
    reasons = [*_reasons(differing, before, after)]
    more = [f"{len(reasons) - _NAMED} more"] if len(reasons) > _NAMED else []
    return what, _printable("; ".join(reasons[:_NAMED] + more))


def _is_live(key: str) -> bool:
    first, _, last = key.partition(".")[0], *key.rpartition(".")[1:]
    return key in LIVE or first == "upgrade" or (first in _SOCKETS and last in _OF_A_LIVING_SOCKET)


def _reasons(differing: list[str], before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for key in differing:
        if key != IMAGE_IDENTITY:
            yield _reason(key, before.get(key), after.get(key)) + (" from now on" if _is_live(key) else "")
        elif IMAGE not in differing:  # another image has another identity, of course
            yield f"image {after[IMAGE]} was replaced on disk" if IMAGE in after else "the image was replaced on disk"


def _reason(key: str, before: str | None, after: str | None) -> str:
    """Say how a value changed, briefly."""
    if after is None:
        return f"{key} removed"
    shown = _is_shown(key, after)
    if before is None:
        return f"{key} set to {_quoted(after)}" if shown else f"{key} set"
    return f"{key} {_quoted(before)} → {_quoted(after)}" if shown and _is_shown(key, before) else f"{key} changed"


def _is_shown(key: str, value: str) -> bool:
    return len(value) <= _SHOWN and not key.startswith(_SECRET)


def _quoted(value: str) -> str:
    """Set what would be taken for words of the sentence, or be overlooked, in quotation marks."""
    return value if value and not any(character in value for character in ' ";') else f'"{value}"'


def _printable(text: str) -> str:
    """Escape control characters: a terminal reads this."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
