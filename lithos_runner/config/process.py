"""The process file of a sandbox: which images run, from which container file, in how many instances."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from .errors import Path, quoted
from .formats import ABSOLUTE, ADDRESS, DAY, NAME, RUNNER, one_of
from .kinds import Found, Integer, ListOf, MapOf, Record, Refused, Text, key
from .sandbox import SECRETS_NAMESPACES


def _image(text: str) -> str:
    parts = text.split("/")
    if not text or text.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{quoted(text)} cannot name an image: write components below image-dir, without . and ..")
    return text


_COUNT = Integer(minimum=0, maximum=10_000)


@attrs.frozen(kw_only=True)
class Upgrade:
    """`upgrade`: how instances of a new version take over. Times are seconds."""

    max_surge: int = key(_COUNT, "Instances beyond `instances` while both versions run.", default=1, origin=RUNNER)
    max_unavailable: int = key(_COUNT, "Instances that may be missing meanwhile.", default=0, origin=RUNNER)
    warm_up: float = key(
        DAY, "Time between ready and the first connection, with `reuse-port`.", default=0.0, origin=RUNNER
    )
    soak: float = key(
        DAY,
        "Time that a new instance serves and is watched before the next old one is stopped.",
        default=0.0,
        origin=RUNNER,
    )


def _goes_on(found: Mapping[Path, Found]) -> Iterator[tuple[Path, str]]:
    surge, unavailable = found.get(("max-surge",)), found.get(("max-unavailable",))
    if surge is not None and surge.value == 0 and (unavailable is None or unavailable.value == 0):
        yield ("max-surge",), "with max-surge 0 and max-unavailable 0 no instance could ever be replaced"


@attrs.frozen(kw_only=True)
class Process:
    """One entry of a process file; attributes are its keys with underscores."""

    kind: str = key(
        one_of("kind", "Daemon", "Command"),
        "`Daemon`: kept running; `Command`: started by hand.",
        default="Daemon",
    )
    image: str = key(
        Text(words="image", parse=_image, schema={"pattern": "^[^/]"}),
        "Directory below the sandbox's `image-dir`, of exactly `image-dir-levels` components.",
    )
    config: str = key(ABSOLUTE, "Path of the container file inside the image.")
    instances: int = key(_COUNT, "How many; they are called `SANDBOX/PROCESS.0` and so on.", default=1)
    variables: Mapping[str, str] = key(
        MapOf(Text(words="name"), Text()),
        "Values of the variables that the container file declares; others are ignored.",
        default=attrs.Factory(dict),
    )
    ip_addresses: tuple[str, ...] = key(
        ListOf(ADDRESS), "With a bridged network: the address of each instance.", default=()
    )
    upgrade: Upgrade = key(  # noqa: RUF009 - key() is attrs.field()
        Record(Upgrade, "mapping", checks=(_goes_on,)),
        "How a new version takes over, see [below](#upgrade).",
        default=Upgrade(),
        origin=RUNNER,
    )
    extra_secrets_namespaces: tuple[str, ...] = key(
        SECRETS_NAMESPACES, "More namespaces than the sandbox's.", default=(), refused=Refused.ALWAYS
    )


PROCESS = Record(Process, "process")
PROCESSES = MapOf(NAME, PROCESS)
