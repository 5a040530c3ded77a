"""A host with one stack on it: set up as its README says, run with `lithos run`, or with `lithos tree` from images."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import yaml
from catalogue import PROJECT
from clients import Answer, Load, Page
from private_namespaces import bind, in_network, mount_overlay, mount_tmpfs
from real_host import DIRECTORY, listeners, processes_in, until
from real_tree import RealTree, RunningTree

from lithos_runner.supervisor.readiness import listening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from catalogue import Stack

# Where Go's own installation is, and that of root on Debian. A Python of root's home would be of no use to nobody.
SYSTEM_PATH = "/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SETUP_PATIENCE = 300  # seconds, for what comes over the network
SRV = Path("/srv")
PORT = 80
PAUSE = 0.01  # seconds between two requests of a client, for the servers to have the processors
KEPT = partial(Page, kept=True)


@contextmanager
def by_hand(command: str, **popen: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a line of a README as somebody does who has just logged in as root; nothing of it outlives the context."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environ["PATH"] = SYSTEM_PATH
    process = subprocess.Popen(["sh", "-ec", command], cwd=PROJECT, env=environ, start_new_session=True, **popen)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Site:
    """What /srv holds in the private mounts; it outlives them, so that a stack is set up once."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="lithos-stacks-", dir=DIRECTORY))
        self.directory.chmod(0o755)
        self._srv, self.images = self.directory / "srv", self.directory / "images"
        self._srv.mkdir()
        self.images.mkdir()
        self._network = -1
        self._is_set_up: set[str] = set()

    def move_in(self, network: int) -> None:
        """Take the place of /srv. Images are made in memory, which goes with the namespace."""
        bind(self._srv, SRV)
        mount_tmpfs(self.images)
        self._network = network

    def set_up(self, stack: Stack) -> None:
        """Do what its README says, once; skips the test when a program is missing that it needs."""
        if stack.name in self._is_set_up:
            return
        missing = [package for tool, package in stack.tools if not shutil.which(tool, os.F_OK, SYSTEM_PATH)]
        if missing:
            # `make unit` has installed everything, so in CI this is a fault of its own.
            refuse = pytest.fail if "CI" in os.environ else pytest.skip
            refuse(f"{stack.name} needs: apt-get install {' '.join(missing)}")
        with in_network(self._network):
            for command in stack.commands:
                output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
                with by_hand(command, **output) as process:
                    said, _ = process.communicate(timeout=SETUP_PATIENCE)
                assert process.returncode == 0, f"{command}: {said}"
        self._is_set_up.add(stack.name)

    def image(self, name: str, stack: Stack, container: str) -> None:
        """Make an image: the files of this host, the stack in its place, and a container file `/config/app.yaml`.

        It is one file system, as an executable may not be on a volume, which is what a bind mount would be. Its layers
        are too; those on the disk would be in two of them, which overlayfs refuses.
        """
        root, config, folder = (self.images / f"{name}{suffix}" for suffix in ("", ".config", ".folder"))
        (config / "config").mkdir(parents=True)
        (config / "config/app.yaml").write_text(container)
        shutil.copytree(SRV / stack.name, folder / "srv" / stack.name, symlinks=True)
        root.mkdir()
        mount_overlay([config, folder, Path("/")], root)

    def close(self) -> None:
        shutil.rmtree(self.directory)


def is_seen(group: Path, wait: listening.Wait) -> bool:
    """Whether the supervisor can see this of a listening socket of an instance."""
    inodes = {int(row[9]) for row in listeners(PORT)}
    return wait in listening.look(processes_in(group), inodes).waits.values()


def ask_often(requests: int, at_once: int = 24) -> Counter[Answer]:
    """Make many requests, so many at the same time, each on a connection of its own."""
    with ThreadPoolExecutor(at_once) as pool:
        return Counter(pool.map(lambda _: Page(PORT).ask(), range(requests)))


def with_keys(container: str, **keys: object) -> str:
    """A container file with other values for some keys, each of which is a line of its own."""
    for name, value in keys.items():
        key = name.replace("_", "-")
        container = re.sub(rf"^{key}:.*\n", "", container, flags=re.MULTILINE) + f"{key}: {value}\n"
    return container


class Service(RealTree):
    """`shop/web` of `lithos tree`: a stack as image `v1` and, with another VERSION, as `v2`.

    ``keys`` of its container file have other values.
    """

    def __init__(self, site: Site, stack: Stack, **keys: object) -> None:
        super().__init__()
        self._keys = keys
        self.stack = stack
        self.images = site.images / stack.name
        self._site = site
        self._ports.append(PORT)

    def _release(self, version: str) -> None:
        text, count = re.subn(r'VERSION: "1"', f'VERSION: "{version}"', self.stack.container_file.read_text())
        assert count == 1, f"{self.stack.container_file} has a VERSION that can be changed"
        self._site.image(f"{self.stack.name}/v{version}", self.stack, with_keys(text, **self._keys))

    def serve(self) -> Self:
        """Make the images, and run version 1 in three instances."""
        self.sandbox("shop")
        for version in ("1", "2"):
            self._release(version)
        self.processes("shop", {"web": self.entry("v1", 3)})
        self.running: RunningTree = self.tree()
        self.running.until_serving()
        return self

    def switch(self, **entries: dict[str, Any]) -> None:
        """Put other entries into force, and wait until they are."""
        self.do("switch", "shop", str(self.processes("shop", entries, file="new.yaml")))

    def do(self, name: str, *arguments: str) -> None:
        """Run a command that has to succeed."""
        done = self.command(name, *arguments)
        assert done.returncode == 0, f"lithos {name} {' '.join(arguments)}: {done.stderr}"

    def names(self) -> set[str]:
        """The instances that serve."""
        return {name for name, state in self.running.states().items() if state == "ready"}

    def web(self) -> dict[str, Any]:
        """The entry of `shop/web`: what runs, when nothing is under way."""
        entries: dict[str, dict[str, Any]] = yaml.safe_load((self.directory / "processes/shop.yaml").read_text())
        return entries["web"]

    def load(self) -> Load:
        return Load(PORT, 4 * [Page] + (2 * [KEPT] if self.stack.graceful else []), PAUSE)

    def until_ready(self, names: set[str]) -> None:
        until(lambda: names == self.names(), f"{', '.join(names)} serve")
