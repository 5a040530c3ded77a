"""The software stacks of examples/: what each needs and what it can do."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lithos_runner.supervisor.readiness.listening import Wait

PROJECT = Path(__file__).parents[2]


class Stack(NamedTuple):
    """A folder of examples/, of the same name, and what is said of it in docs/recipes/."""

    name: str
    setup: tuple[str, ...] = ()  # shell commands, exactly as in its README, after it was copied to /srv
    tools: tuple[tuple[str, str], ...] = ()  # a program or absolute path that must be there, its Debian package
    graceful: bool = False  # at SIGTERM it finishes its requests and closes connections that are kept
    readiness: Wait = Wait.WAITING  # what the supervisor sees of an instance that serves

    @property
    def commands(self) -> tuple[str, ...]:
        """All that makes it ready to run."""
        return (f"cp -r examples/{self.name} /srv/{self.name}", *self.setup)

    @property
    def container_file(self) -> Path:
        """Where its container file is then."""
        return Path("/srv", self.name, f"{self.name}.yaml")

    @property
    def folder(self) -> Path:
        """Where it comes from."""
        return PROJECT / "examples" / self.name


def pip(name: str, *packages: str) -> tuple[str, ...]:
    """The commands that make a virtual environment with packages."""
    folder = f"/srv/{name}/venv"
    return (f"python3 -m venv {folder}", f"{folder}/bin/pip install {' '.join(packages)}")


STACKS = (
    Stack("asyncio", graceful=True),
    Stack("aiohttp", pip("aiohttp", "aiohttp"), graceful=True),
    Stack("flask", pip("flask", "flask")),
    Stack("gunicorn", pip("gunicorn", "flask", "gunicorn"), graceful=True),
    Stack("twisted", pip("twisted", "twisted"), graceful=True),
    Stack("uvicorn", pip("uvicorn", "fastapi", "uvicorn"), graceful=True),
    Stack(
        "systemd-c",
        ("cc -O2 -Wall -pthread -o /srv/systemd-c/hello /srv/systemd-c/hello.c -lsystemd",),
        tools=(("cc", "gcc"), ("/usr/include/systemd/sd-daemon.h", "libsystemd-dev")),
        graceful=True,
    ),
    Stack(
        "go",
        ("cd /srv/go && go build -o hello .",),
        tools=(("go", "golang-go"),),
        graceful=True,
        readiness=Wait.UNCLEAR,
    ),
    Stack("node", tools=(("node", "nodejs"),), graceful=True),
    Stack("express", ("npm install --prefix /srv/express",), tools=(("npm", "npm"),), graceful=True),
    Stack("nginx", tools=(("nginx", "nginx"), ("envsubst", "gettext-base")), graceful=True),
)
