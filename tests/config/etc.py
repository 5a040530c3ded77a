"""A host's configuration in a directory of its own, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lithos_runner.config import Host, Service, load_host

SANDBOX = "image-dir: {images}\nallow-users: [1, 1000-2000]\nallow-groups: [0-100]\nallow-tcp-ports: [80, 8000-8099]\n"
CONTAINER = "executable: /bin/app\nuser-id: 1000\n"
PROCESS = "image: v1\nconfig: /config/app.yaml\n"


class Etc:
    """`shop`, a sandbox with the process `web`, until a test writes something else."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.images = directory / "images"
        for name in ("sandboxes", "processes", "images"):
            (directory / name).mkdir()
        self.master = self.write("master.yaml", "")
        self.sandbox("shop")
        self.processes("shop", web=PROCESS)
        self.container("v1")

    def write(self, name: str, text: str) -> Path:
        file = self.directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("{images}", str(self.images)).replace("{dir}", str(self.directory)))
        return file

    def sandbox(self, name: str, more: str = "", *, text: str = SANDBOX) -> Path:
        """A sandbox file: what is usual, and `more`."""
        return self.write(f"sandboxes/{name}.yaml", text + more)

    def processes(self, name: str, **entries: str) -> Path:
        """A process file; each entry is the text of its keys."""
        blocks = (
            f"{entry}:\n" + "".join(f"  {line}\n" for line in text.splitlines()) for entry, text in entries.items()
        )
        return self.write(f"processes/{name}.yaml", "".join(blocks))

    def container(self, image: str, more: str = "", *, text: str = CONTAINER, config: str = "config/app.yaml") -> Path:
        """A container file inside an image."""
        return self.write(f"images/{image}/{config}", text + more)

    def load(self, **options: Any) -> Host:
        return load_host(str(self.master), **options)

    def errors(self, **options: Any) -> list[str]:
        """What is wrong, with paths as they are below the directory."""
        return [str(error).replace(f"{self.directory}/", "") for error in self.load(**options).errors]

    def service(self, name: str = "shop/web") -> Service:
        """A service of a configuration without errors."""
        host = self.load()
        assert host.errors == ()
        sandbox, process = name.split("/")
        return host.sandboxes[sandbox].services[process]
