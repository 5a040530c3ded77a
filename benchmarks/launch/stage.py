"""Where the contenders run: a private mount namespace with a plain cgroup v2 mount, and a folder for a bundle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import cgroup
from lithos_runner.launch import kernel
from lithos_runner.launch.kernel import mount, perform, umount2

from . import bundle

MEMORY_LIMIT = 64 << 20  # bytes
_CGROUPS = "/sys/fs/cgroup"


class Stage(NamedTuple):
    """What contenders need to know of the host."""

    folder: str  # holds the bundle, crun's state and the mount point of our roots
    memory: int | None  # the limit in bytes, None where v2 has no memory controller
    container: str  # the name of crun's container and of its cgroup

    @property
    def roots(self) -> str:
        """The directory that our launcher mounts roots on."""
        return f"{self.folder}/root"

    @property
    def bundle(self) -> str:
        """The bundle's directory."""
        return f"{self.folder}/bundle"

    @property
    def state(self) -> str:
        """The directory of crun's state."""
        return f"{self.folder}/state"


@contextmanager
def stage() -> Iterator[Stage]:
    """Build all that, and leave nothing behind; the mounts end with this process's mount namespace."""
    perform(kernel.unshare(kernel.CLONE_NEWNS))
    perform(mount(None, b"/", None, kernel.MS_REC | kernel.MS_PRIVATE))
    hierarchy = _plain_cgroups()
    name = f"lithos-benchmark-{os.getpid()}"
    made = Stage(f"/run/{name}", MEMORY_LIMIT if "memory" in hierarchy.controllers else None, name)
    rootfs = f"{made.bundle}/rootfs"
    os.mkdir(made.folder, 0o700)
    try:
        for path in (made.roots, made.bundle, made.state, rootfs):
            os.mkdir(path)
        # Without what is mounted below it, to crun's advantage: fewer mounts to copy.
        perform(mount(b"/", rootfs.encode(), None, kernel.MS_BIND))
        with open(f"{made.bundle}/config.json", "w") as file:
            json.dump(bundle.config("rootfs", f"/{name}", made.memory), file)
        yield made
    finally:
        with suppress(OSError):  # not mounted yet
            perform(umount2(rootfs.encode(), kernel.MNT_DETACH))
        for directory, _, files in os.walk(made.folder, topdown=False):
            for leftover in files:
                os.unlink(os.path.join(directory, leftover))
            os.rmdir(directory)


def _plain_cgroups() -> cgroup.Hierarchy:
    """Have cgroup v2, and only that, where everyone expects it: crun refuses hybrid hierarchies."""
    hierarchy = cgroup.find()
    if hierarchy.mount == _CGROUPS:
        return hierarchy
    perform(umount2(_CGROUPS.encode(), kernel.MNT_DETACH))
    perform(mount(b"cgroup2", _CGROUPS.encode(), b"cgroup2", 0))
    return cgroup.find()
