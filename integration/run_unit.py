"""`lithos run` as systemd runs it, in a transient unit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from real_host import ask, until
from tree_service import run

if TYPE_CHECKING:
    from real_host import RealHost

LITHOS = Path(sys.prefix, "bin/lithos")


class Unit:
    """A unit that runs one container file until it is stopped."""

    def __init__(self, host: RealHost, file: Path, *properties: str) -> None:
        """Return when READY=1 has come."""
        self.name = f"lithos-{host.name}.service"
        self._runtime = host.runtime / f"run-{host.name}"
        environ = [f"--setenv={name}={host.environ[name]}" for name in ("LITHOS_RUNTIME_DIR", "LITHOS_LOG_DIR")]
        chosen = [f"--property={text}" for text in ("Type=notify", *properties)]
        run("systemd-run", "--quiet", f"--unit={self.name}", *environ, *chosen, str(LITHOS), "run", str(file))

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return run("systemctl", "show", "--value", f"--property={name}", self.name)

    @property
    def main_pid(self) -> int:
        return int(self.show("MainPID"))

    def instances(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(self._runtime / "control", "status")["instances"]
        return found

    def until_ready(self) -> None:
        until(lambda: {one["state"] for one in self.instances()} == {"ready"}, "all instances are ready")

    def stop(self) -> None:
        run("systemctl", "stop", self.name)
