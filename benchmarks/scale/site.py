"""The files of a host with many instances of sleep(1), and images that have nothing else."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import cgroup

from .. import images

USER = 65534
PROGRAM = "/bin/sleep"
# For state and logs. ext4 looks for an inode that nobody has deleted in the last seconds (recently_deleted() in
# fs/ext4/ialloc.c): where others delete many files, making one takes as long as a start.
_MEMORY = "/dev/shm"


class Shape(NamedTuple):
    """How much there is: so many sandboxes share so many processes, which share so many images.

    ``alike``: entries of one image have the same variables, so that its container file is understood once for all.
    """

    processes: int
    instances: int  # of each process
    sandboxes: int = 1
    images: int = 1
    alike: bool = True
    init: bool = True

    @property
    def total(self) -> int:
        """All instances."""
        return self.processes * self.instances


class Site:
    """A directory with the four kinds of file, and the place of its supervisor."""

    def __init__(self, directory: Path, runtime: Path) -> None:
        self.directory = directory
        self.runtime = runtime
        self.master = directory / "master.yaml"
        self.slice = f"{directory.name}.slice"
        self._base = directory / "base"

    def write(self, shape: Shape) -> None:
        """Write all of it."""
        for name in ("sandboxes", "processes", "images"):
            (self.directory / name).mkdir(parents=True)
        self.write_master()
        images.make(self._base, images.programs(PROGRAM))
        for number in range(shape.images):
            self._image(number, shape)
        for number in range(shape.sandboxes):
            self._sandbox(number, shape)

    def write_master(self) -> None:
        """Write the master file, in the place of the one that is there."""
        keys = {
            "runtime-dir": str(self.runtime),
            "default-log-dir": f"{self.runtime}/logs",
            "config-log-dir": f"{self.runtime}/logs/config",
            "stdio-log-dir": f"{self.runtime}/logs/stdio",
            "cgroup-name": self.slice,
        }
        self._write("master.yaml.new", keys).rename(self.master)

    def _write(self, name: str, keys: object) -> Path:
        path = self.directory / name
        path.write_text(json.dumps(keys, indent=1))  # JSON is YAML
        path.chmod(0o644)
        return path

    def _image(self, number: int, shape: Shape) -> None:
        images.copy(self._base, self.directory / "images" / f"app-{number}")
        keys = {
            "executable": PROGRAM,
            "arguments": ["1000000"],
            "environ": {"HOME": "/tmp", "LANG": "C.UTF-8", "NUMBER": "@{number}"},
            "user-id": USER,
            "group-id": USER,
            "init": shape.init,
            "restart-timeout": 0,
        }
        container = self._write(f"images/app-{number}/app.yaml", keys)
        container.write_text(f'{container.read_text()[:-2]},\n "variables": {{"number": !TcpPort {{}}}}\n}}')

    def _sandbox(self, number: int, shape: Shape) -> None:
        name = f"sandbox-{number}"
        keys = {
            "image-dir": f"{self.directory}/images",
            "allow-users": [USER],
            "allow-groups": [USER],
            "allow-tcp-ports": ["1-65535"],
        }
        self._write(f"sandboxes/{name}.yaml", keys)
        entries = {
            f"app-{each}": {
                "image": f"app-{each % shape.images}",
                "config": "/app.yaml",
                "instances": shape.instances,
                "variables": {"number": "1" if shape.alike else str(each + 1)},
            }
            for each in range(number, shape.processes, shape.sandboxes)
        }
        self._write(f"processes/{name}.yaml", entries)


class Sites:
    """Makes sites."""

    def __init__(self, directory: Path, memory: Path) -> None:
        self._directory = directory
        self._memory = memory

    def make(self, name: str, shape: Shape) -> Site:
        """Make a site."""
        directory = self._directory / f"{self._directory.name}-{name}"
        site = Site(directory, self._memory / name)
        site.write(shape)
        return site


@contextmanager
def sites() -> Iterator[Sites]:
    """Have a place for sites; they end together, and with them whatever a failure has left in their cgroups."""
    directory = Path(tempfile.mkdtemp(prefix="scale-", dir="/var/tmp"))
    directory.chmod(0o755)
    memory = Path(tempfile.mkdtemp(prefix="scale-", dir=_MEMORY))
    try:
        yield Sites(directory, memory)
    finally:
        for path in Path(cgroup.find().mount).glob(f"{directory.name}-*.slice"):
            with suppress(OSError), cgroup.Group.open(str(path)) as group:
                group.kill()
                group.remove()
        shutil.rmtree(directory)
        shutil.rmtree(memory)
