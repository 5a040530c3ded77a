"""What one instance is started with, as a value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

NOBODY = 65534
FIRST_SOCKET = 3  # SD_LISTEN_FDS_START of sd_listen_fds(3)


class Root(NamedTuple):
    """The root file system of an instance, which all its neighbours with the same one share read-only.

    ``image`` is a path below the trusted ``directory``, "" that directory itself; the host's own root is "/" without
    an image. ``identity`` is the (st_dev, st_ino) that the image had when the configuration was read; None: any.
    ``devfs`` is a directory of the host to be seen as /dev, "" for one that is made.
    """

    directory: str = "/"
    image: str = ""
    identity: tuple[int, int] | None = None
    devfs: str = ""

    @property
    def is_image(self) -> bool:
        """Whether it is not the host's own root."""
        return self.path != "/"

    @property
    def path(self) -> str:
        """Where it is on the host."""
        return os.path.normpath(os.path.join(self.directory, self.image))


class Volume(NamedTuple):
    """What an instance finds mounted at ``target``, an absolute path of a directory that its root must have.

    ``kind`` is one of

    - "bind": the directory ``below`` in the trusted directory ``base`` of the host, whose content is hostile: the
      application may have written it in an earlier life. With ``mkdir`` it is made when it is missing;
    - "tmpfs": a new file system in memory of at most ``size`` bytes;
    - "state": the directory ``below`` in a file system in memory that all state volumes of the instance share.

    ``mode``, ``uid`` and ``gid`` are those of a directory that is made; a bind is read-only unless ``writable``.
    """

    target: str
    kind: Literal["bind", "tmpfs", "state"]
    writable: bool = False
    base: str = ""
    below: str = ""
    mkdir: bool = False
    mode: int = 0o777
    uid: int = 0
    gid: int = 0
    size: int = 0


class EtcFile(NamedTuple):
    """A file that is mounted read-only over the image's ``target``: what ``copy_from`` holds now, then ``text``.

    ``copy_from`` is a file of the host of at most 1 MiB, "" for none. The image must have a regular file there,
    below real directories; otherwise nothing is mounted, or the start fails when it is ``required``.
    """

    target: str
    copy_from: str = ""
    text: str = ""
    required: bool = False


class LaunchSpec(NamedTuple):
    """Everything the set-up module needs to know of one instance; open descriptors come separately.

    ``sockets`` maps the descriptor number that the application sees to the socket's name; ``environ`` is what
    the configuration says, the socket-passing variables are added by ``environment``; ``config`` is the container
    file's path.

    ``root``, ``image``, ``identity`` and ``devfs`` are the fields of ``Root``. ``output`` is a file of the instance
    that becomes its descriptors 1 and 2, "" for those that it is given. With ``terminal`` descriptor 0 is a
    terminal of nobody else, and becomes the one that controls the instance's session. ``notify`` is what the
    application finds in NOTIFY_SOCKET, "" for nothing. With ``die_with_parent`` the kernel kills the instance when the
    process dies that has started it.
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
    image: str = ""
    identity: tuple[int, int] | None = None
    devfs: str = ""
    volumes: tuple[Volume, ...] = ()
    etc: tuple[EtcFile, ...] = ()
    output: str = ""
    terminal: bool = False
    notify: str = ""
    die_with_parent: bool = False

    @classmethod
    def decode(cls, fields: Mapping[str, Any]) -> LaunchSpec:
        """Return the spec whose ``_asdict()`` went through JSON, which knows lists only."""
        return cls(**fields)._replace(
            arguments=tuple(fields["arguments"]),
            environ=tuple((name, value) for name, value in fields["environ"]),
            sockets=tuple((descriptor, name) for descriptor, name in fields["sockets"]),
            identity=None if fields["identity"] is None else tuple(fields["identity"]),
            volumes=tuple(Volume(*volume) for volume in fields["volumes"]),
            etc=tuple(EtcFile(*file) for file in fields["etc"]),
        )

    @property
    def file_system(self) -> Root:
        """The root file system."""
        return Root(self.root, self.image, self.identity, self.devfs)

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
    notify = {"NOTIFY_SOCKET": spec.notify} if spec.notify else {}
    variables = {"TERM": "dumb", **listen_variables(spec), **notify, **dict(spec.environ), **fixed}
    return tuple(f"{key}={value}".encode("utf-8", "surrogateescape") for key, value in variables.items())
