"""systemd: a socket unit, and a template of services that all get that socket; only where systemd is PID 1."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ..program import PYTHON, Failed
from .contenders import Report
from .stage import BACKLOG, COMMAND_TIME, INSTANCES, MEMORY_LIMIT, Stage, kill, run

_UNITS = Path("/run/systemd/system")  # units of the administrator that do not survive a boot, see systemd.unit(5)


class Systemd:
    """`systemctl restart` of the services; the socket stays open meanwhile."""

    name = "systemd"

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._limits = ""
        self._name = stage.folder.name
        self._services = [f"{self._name}@{number}.service" for number in range(INSTANCES)]

    @staticmethod
    def missing() -> str:
        """See Contender."""
        return "" if _UNITS.is_dir() else "systemd is not PID 1 here"

    def limit_memory(self) -> None:
        """Limit each service."""
        self._limits = f"MemoryMax={MEMORY_LIMIT}\nMemorySwapMax=0\n"

    def start(self, version: str) -> None:
        """See Contender."""
        self.stage.deploy(version, "good")
        (_UNITS / f"{self._name}.socket").write_text(
            f"[Socket]\nListenStream=127.0.0.1:{self.stage.port}\nBacklog={BACKLOG}\nService={self._services[0]}\n"
        )
        (_UNITS / f"{self._name}@.service").write_text(
            f"[Unit]\nRequires={self._name}.socket\nAfter={self._name}.socket\n"
            f"[Service]\nType=exec\nSockets={self._name}.socket\nRestart=always\nNice={_own_nice_value()}\n"
            f"ExecStart={PYTHON} -ES {self.stage.current}/app.py 3\nUser=65534\n{self._limits}"
        )
        self._systemctl("daemon-reload")
        started = self._systemctl("start", f"{self._name}.socket", *self._services)
        if started.code != 0:
            raise Failed(f"{self.name} did not start its units: {started.said}")
        self.stage.until_served()

    def upgrade(self, version: str, behaviour: str) -> Report:
        """See Contender."""
        self.stage.deploy(version, behaviour)
        return self._systemctl("restart", *self._services)

    def kill_instance(self) -> None:
        """See Contender."""
        pid = int(self._systemctl("show", "--value", "--property=MainPID", self._services[0]).said or 0)
        if not pid:
            raise Failed(f"{self.name}: {self._services[0]} does not run")
        kill(pid)

    def kill_supervisor(self) -> Report:
        """See Contender. The kernel lets nobody kill PID 1; what comes nearest is that it executes itself anew."""
        return self._systemctl("daemon-reexec")

    def stop(self) -> None:
        """See Contender."""
        self._systemctl("stop", f"{self._name}.socket", *self._services)
        for unit in (f"{self._name}.socket", f"{self._name}@.service"):
            with suppress(FileNotFoundError):
                os.unlink(_UNITS / unit)
        self._systemctl("daemon-reload")
        self._systemctl("reset-failed", f"{self._name}@*.service")

    @staticmethod
    def _systemctl(*arguments: str) -> Report:
        ended = run(["systemctl", *arguments], COMMAND_TIME)
        return Report(ended.returncode, (ended.stdout + ended.stderr).strip().rpartition("\n")[2])


def _own_nice_value() -> int:
    """What the other contenders inherit; a service inherits nothing from us."""
    return os.getpriority(os.PRIO_PROCESS, 0)
