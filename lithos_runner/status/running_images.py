"""On which images something runs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from lithos_runner.status import processes, store

Identity = tuple[int, int]


def running_images(runtimes: Iterable[str]) -> frozenset[Identity]:
    """The directories (st_dev, st_ino) that are the root of a process, or the image of an instance.

    Instances are those with a state file in `runtimes` or of a supervisor that is registered, whether that lives or
    not, and whether they run or wait for their next start. The root of a process is the kernel's own word:
    /proc/PID/root leads to the directory of the image whatever namespace the process is in (proc_pid_root(5)).
    Raises PermissionError when it may not be seen of an instance.
    """
    return frozenset((*_roots(), *_images({*runtimes, *store.registered()})))


def _roots() -> Iterator[Identity]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            # One that has ended has no root. One that may not be seen is none of ours, or has a state file.
            with suppress(OSError):
                yield _identity(f"/proc/{name}/root")


def _images(runtimes: Iterable[str]) -> Iterator[Identity]:
    for runtime in runtimes:
        for instance in store.read_instances(runtime):
            path = _path(instance)
            if path is not None:
                with suppress(FileNotFoundError, NotADirectoryError, ProcessLookupError):
                    yield _identity(path)


def _path(instance: Mapping[str, object]) -> str | None:
    image, pid, start = (instance.get(key) for key in ("image", "pid", "pid_start"))
    if isinstance(image, str) and image:
        return image
    if isinstance(pid, int) and isinstance(start, int) and processes.is_alive(pid, start):
        return f"/proc/{pid}/root"
    return None


def _identity(path: str) -> Identity:
    status = os.stat(path)
    return status.st_dev, status.st_ino
