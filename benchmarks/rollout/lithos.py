"""This project: the four files of lithos, `lithos tree`, and `lithos switch` for a roll-out."""

from __future__ import annotations

import json
import subprocess
from contextlib import suppress
from pathlib import Path

import cgroup
from lithos_runner.status.readings import Observer

from .. import images
from ..program import LITHOS, PYTHON, Failed
from .contenders import Report
from .invariants import Instance
from .stage import (
    BACKLOG,
    COMMAND_TIME,
    INSTANCES,
    MEMORY_LIMIT,
    PATIENCE,
    Stage,
    kill,
    release,
    run,
    until,
)

SANDBOX, PROCESS = "bench", "web"
NAME = f"{SANDBOX}/{PROCESS}"
USER = 65534
WATCHED = 2.0  # seconds that a new version is watched: twice as long as one goes well that fails late
DRAIN_TIME = 1.0  # seconds: clients who keep their connections busy would keep them for the default of 10 s


class Site:
    """The four files of one supervisor, in the stage's folder, and its commands; a version is an image."""

    def __init__(self, stage: Stage, *, reuse_port: bool, memory_limit: int | None) -> None:
        self._stage = stage
        self._folder = stage.folder
        self._reuse_port = reuse_port
        self._memory_limit = memory_limit
        self._runtime = f"{stage.folder}/run"
        self.slice = f"{stage.folder.name}.slice"

    def create(self) -> None:
        """Write the master and the sandbox file, and make what all images have in common. JSON is YAML."""
        for name in ("sandboxes", "processes", "images"):
            (self._folder / name).mkdir()
        images.make(self._folder / "base", images.python("__future__", "asyncio", "pathlib", "threading"))
        master = {
            "runtime-dir": self._runtime,
            "default-log-dir": f"{self._folder}/logs",
            "config-log-dir": f"{self._folder}/logs/config",
            "stdio-log-dir": f"{self._folder}/logs/stderr",
            "cgroup-name": self.slice,
        }
        sandbox = {
            "image-dir": f"{self._folder}/images",
            "allow-users": [USER],
            "allow-groups": [USER],
            "allow-tcp-ports": [self._stage.port],
        }
        self.write("master.yaml", json.dumps(master))
        self.write(f"sandboxes/{SANDBOX}.yaml", json.dumps(sandbox))

    def image(self, version: str, behaviour: str) -> None:
        """Make the image of a version: a Python, the application, and its container file."""
        root = self.root(version)
        images.copy(self._folder / "base", root)
        release(root / "app", version, behaviour)
        self.write(f"images/{version}/web.yaml", self._container())

    def root(self, version: str) -> Path:
        """The directory of the image of a version."""
        return self._folder / "images" / version

    def _container(self) -> str:
        limit = "" if self._memory_limit is None else f"memory-limit: {self._memory_limit}\n"
        return (
            f"executable: {PYTHON}\n"
            "arguments: [-ES, /app/app.py, '3']\n"
            f"user-id: {USER}\n"
            f"group-id: {USER}\n"
            f"drain-timeout: {DRAIN_TIME}\n"
            "tcp-ports:\n"
            f"  {self._stage.port}:\n"
            "    fd: 3\n"
            "    host: 127.0.0.1\n"
            f"    listen-backlog: {BACKLOG}\n"
            f"    reuse-port: {json.dumps(self._reuse_port)}\n{limit}"
        )

    def processes(self, file: str, version: str, instances: int = INSTANCES) -> Path:
        """Write a process file."""
        # Before it has clients, where that can be.
        watched = "warm-up" if self._reuse_port else "soak"
        upgrade = {"max-surge": instances, watched: WATCHED}
        entry = {"image": version, "config": "/web.yaml", "instances": instances, "upgrade": upgrade}
        return self.write(file, json.dumps({PROCESS: entry}))

    def write(self, name: str, text: str) -> Path:
        """Write a file that only root can write."""
        path = self._folder / name
        path.write_text(text)
        path.chmod(0o644)
        return path

    def command(self, name: str, *arguments: str) -> list[str]:
        """A `lithos` command for this supervisor."""
        return [*LITHOS, name, "-C", f"{self._folder}/master.yaml", *arguments]

    def instances(self) -> list[Instance]:
        """What runs; none when no supervisor lives."""
        with Observer() as observer:
            found = [one for one in observer.supervisors() if one.runtime == self._runtime]
            return [
                Instance(
                    one.name,
                    Path(one.image).name,
                    one.state,
                    observer.observe(one).pid,
                    one.generation,
                    one.restarts,
                    one.cgroup,
                )
                for supervisor in found
                for one in supervisor.instances
            ]

    def are_ready(self, count: int = INSTANCES) -> bool:
        """Whether there are so many instances, and all are ready."""
        return [one.state for one in self.instances()] == count * ["ready"]

    def remove_groups(self) -> None:
        """Kill what a failed trial has left in the cgroups of the instances."""
        path = cgroup.find().path(self.slice)
        with suppress(FileNotFoundError), cgroup.Group.open(path) as group:
            group.kill()
            group.remove(PATIENCE)


class Lithos:
    """`lithos tree` with one process of several instances."""

    name: str
    reuse_port: bool

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.site = Site(stage, reuse_port=self.reuse_port, memory_limit=None)
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing() -> str:
        """See Contender."""
        return ""

    def limit_memory(self) -> None:
        """Limit each instance."""
        self.site = Site(self.stage, reuse_port=self.reuse_port, memory_limit=MEMORY_LIMIT)

    def start(self, version: str) -> None:
        """See Contender."""
        self.site.create()
        self.site.image(version, "good")
        self.site.processes(f"processes/{SANDBOX}.yaml", version)
        self._process = self.stage.spawn(*self.site.command("tree"))
        self.until_ready()

    def until_ready(self) -> None:
        """Wait until the supervisor says that all instances are ready. Raises Failed when it never does."""
        if not until(self._settled) or not self.site.are_ready():
            raise Failed(f"{self.name}: not all instances were ready within {PATIENCE:g} s: {self.stage.last_words()}")

    def upgrade(self, version: str, behaviour: str) -> Report:
        """See Contender."""
        self.site.image(version, behaviour)
        file = self.site.processes("next.yaml", version)
        ended = run(self.site.command("switch", SANDBOX, str(file)), COMMAND_TIME)
        return Report(ended.returncode, (ended.stderr.strip() or ended.stdout.strip()).rpartition("\n")[2])

    def kill_instance(self) -> None:
        """See Contender."""
        pid = next((one.pid for one in self.site.instances() if one.state == "ready" and one.pid), None)
        if pid is None:
            raise Failed(f"{self.name} has no instances: {self.stage.last_words()}")
        kill(pid)

    def kill_supervisor(self) -> Report:
        """See Contender; what counts as well is that the instances are the same as before."""
        before = self.site.instances()
        self.replace_supervisor()
        try:
            self.until_ready()
        except Failed as failed:
            return Report(1, str(failed))
        same = [one.pid for one in before] == [one.pid for one in self.site.instances()]
        return Report(0, "adopted") if same else Report(1, "the instances are other processes than before")

    def replace_supervisor(self) -> None:
        """Do `kill -9` to the supervisor and start the next one, whatever it finds."""
        self.kill_only_the_supervisor()
        self.restart_supervisor()

    def kill_only_the_supervisor(self) -> None:
        """Do `kill -9` to the supervisor, and start none."""
        self.supervisor.kill()
        self.supervisor.wait()

    def restart_supervisor(self) -> None:
        """Start the next one, as an init does."""
        self._process = self.stage.restart(*self.site.command("tree"))

    @property
    def supervisor(self) -> subprocess.Popen[bytes]:
        """The process of `lithos tree`."""
        assert self._process is not None
        return self._process

    def _settled(self) -> bool:
        """Whether the supervisor has ended or says that all instances are ready."""
        return self.supervisor.poll() is not None or self.site.are_ready()

    def stop(self) -> None:
        """See Contender."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE)
        self.site.remove_groups()


class LithosShared(Lithos):
    """One listening socket for all instances, the default."""

    name = "lithos-shared"
    reuse_port = False


class LithosReusePort(Lithos):
    """A listening socket for every instance, held and steered by the supervisor."""

    name = "lithos-reuse-port"
    reuse_port = True
