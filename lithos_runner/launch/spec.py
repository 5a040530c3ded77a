"""What one instance is started with, as a value."""

from __future__ import annotations

from typing import NamedTuple

NOBODY = 65534
FIRST_SOCKET = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


class LaunchSpec(NamedTuple):
    """Everything the set-up module needs to know of one instance; open descriptors come separately.

    ``sockets`` maps the descriptor number that the application sees to the socket's name; ``environ`` is what
    the configuration says, the socket-passing variables are added by ``environment``; ``config`` is the container
    file's path.
    """

    name: str
    executable: str
    arguments: tuple[str, ...] = ()
    environ: tuple[tuple[str, str], ...] = ()
    uid: int = NOBODY
    gid: int = NOBODY
    workdir: str = "/"
    root: str = "/"
    fileno_limit: int = 1024
    init: bool = True
    sockets: tuple[tuple[int, str], ...] = ()
    config: str = ""

    def for_instance(self, name: str) -> LaunchSpec:
        """Return the spec of one instance: its name, and lithos's built-in variables replaced in its values.

        The loader leaves exactly these texts in place, see ``config.variables``.
        """
        values = {
            "@{lithos:name}": name,
            "@{lithos:config_filename}": self.config,
            "@{lithos:pid}": str(self.app_pid),
        }

        def filled(text: str) -> str:
            for variable, value in values.items():
                text = text.replace(variable, value)
            return text

        return self._replace(
            name=name,
            arguments=tuple(filled(text) for text in self.arguments),
            environ=tuple((key, filled(text)) for key, text in self.environ),
        )

    @property
    def app_pid(self) -> int:
        """The application's process id as it sees it: the tiny init is 1 and starts the application first."""
        return 2 if self.init else 1

    @property
    def hostname(self) -> str:
        """The instance's name as a host name (RFC 1123: letters, digits and dashes, 63 at most)."""
        base = self.name.rpartition("/")[2]
        clean = "".join(c if c.isascii() and c.isalnum() else "-" for c in base)
        return clean.strip("-")[:63].rstrip("-") or "instance"


def listen_variables(spec: LaunchSpec) -> dict[str, str]:
    """Return the variables of sd_listen_fds(3), or nothing when its contract cannot be kept.

    The protocol passes a count only, so it can describe descriptors that are contiguous from 3.
    """
    descriptors = sorted(spec.sockets)
    if not descriptors or [fd for fd, _ in descriptors] != list(range(FIRST_SOCKET, FIRST_SOCKET + len(descriptors))):
        return {}
    return {
        "LISTEN_FDS": str(len(descriptors)),
        "LISTEN_PID": str(spec.app_pid),
        "LISTEN_FDNAMES": ":".join(name for _, name in descriptors),
    }


def environment(spec: LaunchSpec) -> tuple[bytes, ...]:
    """Return the complete environment as execve(2) takes it; a value in the configuration wins."""
    fixed = {"LITHOS_NAME": spec.name, "LITHOS_CONFIG": spec.config}
    variables = {"TERM": "dumb", **listen_variables(spec), **dict(spec.environ), **fixed}
    return tuple(f"{key}={value}".encode("utf-8", "surrogateescape") for key, value in variables.items())
