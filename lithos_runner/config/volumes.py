"""What may be mounted into a container: four kinds of volume, told apart by their tag."""

from __future__ import annotations

import attrs

from .formats import BYTES, FLAG, GROUP, MODE, PLAIN_PATH, USER, plain_path
from .kinds import Integer, MapOf, Record, Tagged, Text, key

_MODE_DOC = "Permission bits, at most `0o1777`."
_USER_DOC = "Owner of a directory that is made, as the application sees it."
_GROUP_DOC = "Group of a directory that is made, as the application sees it."


def _mount_point(text: str) -> str:
    path = plain_path(text)
    if path == "/":
        raise ValueError("'/' is the image itself: mount below it")
    return path


@attrs.frozen(kw_only=True)
class Readonly:
    """A directory of the host that the application may read."""

    path: str = key(PLAIN_PATH, "Virtual path, found in `readonly-paths` or `writable-paths` of the sandbox.")


@attrs.frozen(kw_only=True)
class Persistent:
    """A directory of the host that the application may write."""

    path: str = key(PLAIN_PATH, "Virtual path, found in `writable-paths` of the sandbox.", default="/")
    mkdir: bool = key(FLAG, "Make the directory when it is not there.", default=False)
    mode: int = key(MODE, _MODE_DOC, default=0o777)
    user: int = key(USER, _USER_DOC, default=0)
    group: int = key(GROUP, _GROUP_DOC, default=0)


@attrs.frozen(kw_only=True)
class Tmpfs:
    """A file system in memory, empty at every start; it counts towards the memory limit."""

    size: int = key(
        # lithos's own examples write `size: 100m`, which its documented units do not have; tmpfs(5) has it.
        Integer(minimum=4096, maximum=(1 << 63) - 1, unit=BYTES, suffixes=True, units={"m": 1 << 20}),
        "Most that it can hold; `m` is `Mi` here, as in lithos's examples.",
        default=100 << 20,
    )
    mode: int = key(MODE, _MODE_DOC, default=0o777)


@attrs.frozen(kw_only=True)
class Statedir:
    """A directory below the instance's own state directory, which is gone when the instance is."""

    path: str = key(PLAIN_PATH, "Path below the state directory.", default="/")
    mode: int = key(MODE, _MODE_DOC, default=0o777)
    user: int = key(USER, _USER_DOC, default=0)
    group: int = key(GROUP, _GROUP_DOC, default=0)


Volume = Readonly | Persistent | Tmpfs | Statedir

VOLUME = Tagged(
    words="a volume",
    options={
        "!Readonly": Record(Readonly, "read-only volume", short="path"),
        "!Persistent": Record(Persistent, "persistent volume", short="path"),
        "!Tmpfs": Record(Tmpfs, "tmpfs volume"),
        "!Statedir": Record(Statedir, "state volume"),
    },
)

VOLUMES = MapOf(Text(words="mount point", parse=_mount_point, schema={"pattern": "^/."}), VOLUME)


def find_prefix(path: str, prefixes: list[str]) -> str | None:
    """The longest of the plain paths that `path` is equal to or lies below; None when there is none."""
    inside = [prefix for prefix in prefixes if path == prefix or path.startswith(prefix.rstrip("/") + "/")]
    return max(inside, key=len, default=None)


def below(prefix: str, path: str) -> str:
    """What is left of `path`, which lies below the virtual `prefix`; "" when they are the same."""
    return path[len(prefix.rstrip("/")) :].lstrip("/")
