"""What a contender is, and who takes part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .stage import Stage


class Report(NamedTuple):
    """What a command told whoever gave it: its exit code and its last line."""

    code: int
    said: str


class Contender(Protocol):
    """A supervisor with `INSTANCES` instances of the application on the stage's port.

    Every method raises Failed when it cannot do its part.
    """

    name: str

    def __init__(self, stage: Stage) -> None: ...

    @staticmethod
    def missing() -> str:
        """Why it cannot run on this host, a sentence; empty when it can."""

    def limit_memory(self) -> None:
        """Before `start`: limit the memory in the way that this contender has."""

    def start(self, version: str) -> None:
        """Start a good version and return when it is served."""

    def upgrade(self, version: str, behaviour: str) -> Report:
        """Deploy another version as this contender's documentation says, and return what was reported."""

    def kill_instance(self) -> None:
        """Do `kill -9` to the application's process of one instance."""

    def kill_supervisor(self) -> Report:
        """Do `kill -9` to the supervisor, have it started again as an init does, and say whether that went well."""

    def stop(self) -> None:
        """End it in good order; what is left after that is killed with the stage."""


def everyone() -> Sequence[type[Contender]]:
    """All contenders, in the order of the table."""
    from .lithos import LithosReusePort, LithosShared
    from .peers import Circus, Gunicorn, Supervisord
    from .systemd import Systemd

    return LithosShared, LithosReusePort, Circus, Supervisord, Gunicorn, Systemd
