"""Volumes and files of /etc: what an instance finds mounted in its root, one operation per step.

What is the host's must be opened before the child enters the instance's root, and can only be mounted behind that.
Between the two a descriptor holds it, whose number is chosen before the clone, so that operations are values here too.
Every step happens in the child: a file server that does not answer stops that start and nothing else.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

from . import kernel, trees
from .kernel import Call, perform
from .operations import Operation
from .spec import EtcFile, LaunchSpec, Volume

DEFAULT_SIZE = 100 << 20  # bytes; lithos's own for tmpfs volumes
MAX_ETC = 1 << 20  # bytes
_TMPFS = kernel.MS_NOSUID | kernel.MS_NODEV
# What lithos's documentation promises for both kinds of bind (its code sets none): docs/volumes.rst.
_BIND = kernel.MOUNT_ATTR_NOSUID | kernel.MOUNT_ATTR_NODEV | kernel.MOUNT_ATTR_NOEXEC
_READ_ONLY = _BIND | kernel.MOUNT_ATTR_RDONLY
_MEETING_POINT = "/tmp"  # a directory that every root must have, and where nothing of the instance is mounted yet


class Steps(NamedTuple):
    """What mounts the volumes of one instance: before it enters its root, and behind that."""

    before: list[Operation]
    behind: list[Operation]


def steps(spec: LaunchSpec, first: int, reserved: tuple[str, ...]) -> Steps:
    """Return the steps for ``spec``; descriptors from ``first`` on are free to hold things, one for each of them.

    ``reserved`` are the directories where we mount something of our own later. A volume inside of another has the
    longer path, so it comes behind it.
    """
    numbers = iter(range(first, first + held(spec)))
    volumes = [(volume, next(numbers)) for volume in sorted(spec.volumes, key=lambda volume: len(volume.target))]
    files = [(file, next(numbers)) for file in spec.etc]
    state = sorted((pair for pair in volumes if pair[0].kind == "state"), key=lambda pair: len(pair[0].below))
    return Steps(
        before=[
            *(TakeDirectory(volume, number) for volume, number in volumes if volume.kind == "bind"),
            *(ReadFile(file.target, file.copy_from, file.text, number) for file, number in files),
        ],
        behind=[
            *([MakeState(tuple(state), tuple(files))] if state or files else []),
            *(_mount(volume, number, reserved) for volume, number in volumes),
            *(AttachFile(file.target, number, file.required) for file, number in files),
        ],
    )


def _mount(volume: Volume, number: int, reserved: tuple[str, ...]) -> Operation:
    if volume.kind == "tmpfs":
        return MountTmpfs(volume, reserved)
    return AttachVolume(volume.target, number, reserved)


def held(spec: LaunchSpec) -> int:
    """Return how many descriptors ``steps`` needs."""
    return len(spec.volumes) + len(spec.etc)


class TakeDirectory(NamedTuple):
    """Hold a copy of a directory of the host, made when it is missing, by the descriptor ``number``."""

    volume: Volume
    number: int

    def describe(self) -> str:
        path = os.path.normpath(os.path.join(self.volume.base, self.volume.below))
        return f"open {path} for the volume {self.volume.target}"

    def calls(self) -> list[Call]:
        return [kernel.action(_take_directory, self.volume, self.number)]


def _take_directory(volume: Volume, number: int) -> None:
    _hold_copy(_open_source(volume), _BIND if volume.writable else _READ_ONLY, number)


def _open_source(volume: Volume) -> int:
    made = _made(volume) if volume.mkdir else None
    if not volume.below:
        return trees.open_directory(kernel.AT_FDCWD, volume.base, trees.TRUSTED, made)
    base = trees.open_directory(kernel.AT_FDCWD, volume.base, trees.TRUSTED, made and trees.PARENT)
    try:
        return trees.open_directory(base, volume.below, trees.BENEATH, made)
    finally:
        os.close(base)


def _made(volume: Volume) -> trees.Made:
    return trees.Made(volume.mode, volume.uid, volume.gid)


def _hold_copy(directory: int, attributes: int, number: int) -> None:
    """Hold a copy of what is mounted at the descriptor ``directory``, which is closed."""
    try:
        tree = trees.copy(directory, attributes)
    finally:
        os.close(directory)
    _hold(tree, number)


def _hold(descriptor: int, number: int) -> None:
    """Give a descriptor the number by which later steps know it.

    Meanwhile nothing else may be open that is needed later: the kernel could have given it this number.
    """
    if descriptor != number:
        os.dup2(descriptor, number, inheritable=False)
        os.close(descriptor)


class ReadFile(NamedTuple):
    """Hold what a file of /etc shall contain, in memory, by the descriptor ``number``."""

    target: str
    copy_from: str
    text: str
    number: int

    def describe(self) -> str:
        return f"read {self.copy_from} for {self.target}" if self.copy_from else f"write what {self.target} shall hold"

    def calls(self) -> list[Call]:
        return [kernel.action(_read_file, self.copy_from, self.text, self.number)]


def _read_file(copy_from: str, text: str, number: int) -> None:
    content = _content(copy_from) if copy_from else b""
    if text and content and not content.endswith(b"\n"):
        content += b"\n"
    memory = os.memfd_create("etc", os.MFD_CLOEXEC)
    _hold(memory, number)
    _write(number, content + os.fsencode(text))


def _content(path: str) -> bytes:
    with open(path, "rb", opener=_without_waiting) as file:
        content = file.read(MAX_ETC + 1)
    if len(content) > MAX_ETC:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # for the writer of a FIFO


def _write(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)


class MakeState(NamedTuple):
    """Make the instance's state directory in memory, and hold what is mounted of it in more places than one.

    Nothing refers to it by a path: it is gone with the instance's mount namespace. As in lithos it has the files of
    /etc, too, because images link to them there. They are held by their numbers before, as memory, and afterwards.
    """

    directories: tuple[tuple[Volume, int], ...]
    files: tuple[tuple[EtcFile, int], ...]

    def describe(self) -> str:
        return "make the state directory"

    def calls(self) -> list[Call]:
        size = max((volume.size for volume, _ in self.directories), default=0) or DEFAULT_SIZE
        mount = kernel.mount(b"tmpfs", b".", b"tmpfs", _TMPFS, f"mode=1777,size={size}".encode())
        return [kernel.action(_make_state, mount, self.directories, self.files)]


def _make_state(
    mount: Call, directories: tuple[tuple[Volume, int], ...], files: tuple[tuple[EtcFile, int], ...]
) -> None:
    _enter(_MEETING_POINT)
    perform(mount)
    _enter(_MEETING_POINT)
    for file, number in files:
        name = os.path.basename(file.target)
        _write_file(name, os.pread(number, os.fstat(number).st_size, 0))
        _hold_copy(trees.open_at(kernel.AT_FDCWD, name, os.O_PATH, trees.BENEATH), _READ_ONLY, number)
    for volume, number in directories:
        made = trees.open_directory(kernel.AT_FDCWD, volume.below or ".", trees.BENEATH, _made(volume))
        _hold_copy(made, 0, number)
    perform(kernel.umount2(b".", kernel.MNT_DETACH))


def _write_file(name: str, content: bytes) -> None:
    with open(name, "xb") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(content)


class AttachVolume(NamedTuple):
    """Mount what the descriptor ``number`` holds on the directory ``target`` of the instance."""

    target: str
    number: int
    reserved: tuple[str, ...]

    def describe(self) -> str:
        return f"mount the volume {self.target}"

    def calls(self) -> list[Call]:
        mount = kernel.move_mount(self.number, kernel.AT_FDCWD, b".", kernel.MOVE_MOUNT_F_EMPTY_PATH)
        return [kernel.action(_enter_mount_point, self.target, self.reserved), mount]


class MountTmpfs(NamedTuple):
    """Mount a new file system in memory on a directory of the instance."""

    volume: Volume
    reserved: tuple[str, ...]

    def describe(self) -> str:
        return f"mount the volume {self.volume.target}"

    def calls(self) -> list[Call]:
        volume = self.volume
        options = f"size={volume.size or DEFAULT_SIZE},mode={volume.mode:o},uid={volume.uid},gid={volume.gid}"
        mount = kernel.mount(b"tmpfs", b".", b"tmpfs", _TMPFS, options.encode())
        return [kernel.action(_enter_mount_point, volume.target, self.reserved), mount]


def _enter_mount_point(target: str, reserved: tuple[str, ...]) -> None:
    """Make a mount point the working directory: the kernel then says where it is, and a mount on "." goes there.

    Links of the image are followed, /var/run is one often. They stay inside the root, because it is ours by now, but
    could lead to where a mount of ours would cover the volume, or the volume something of the kernel's.
    """
    _enter(target)
    place = os.getcwd()
    if place in ("/", "/dev") or any(f"{place}/".startswith(f"{ours}/") for ours in reserved):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _enter(path: str) -> None:
    directory = trees.open_at(kernel.AT_FDCWD, path, trees.DIRECTORY, kernel.RESOLVE_NO_MAGICLINKS)
    os.fchdir(directory)
    os.close(directory)


_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class AttachFile(NamedTuple):
    """Mount the file that the descriptor ``number`` holds over the regular file ``target`` of the instance.

    Without symbolic links: an image that has one there means to say itself where the file is.
    """

    target: str
    number: int
    required: bool

    def describe(self) -> str:
        return f"mount a file on {self.target}"

    def calls(self) -> list[Call]:
        return [kernel.action(_attach_file, *self)]


def _attach_file(target: str, number: int, required: bool) -> None:
    try:
        point = _open_regular(target)
    except OSError as error:
        if required or error.errno not in _NO_FILE:
            raise
        return
    trees.attach(number, point)
    os.close(point)


def _open_regular(path: str) -> int:
    found = trees.open_at(kernel.AT_FDCWD, path, os.O_PATH, kernel.RESOLVE_NO_SYMLINKS)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    return found
