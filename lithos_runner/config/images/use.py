"""Which images the configuration of a host uses: now, and as far back as is asked for."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from .. import history
from ..errors import ConfigErrors, Error
from ..files import HostFiles
from ..history import Limits, Version
from ..host import HostEntries, SandboxEntries, load_entries
from ..master import Master
from ..sandbox import Sandbox


class Doubt(NamedTuple):
    """Why nobody can say which images of a directory are used; `in_files`: the configuration has to be changed."""

    sentence: str
    in_files: bool = False


class Directory(NamedTuple):
    """A directory of images, which several sandboxes may share, and the names of those that are used.

    With doubts, `used` may lack some, and no image of it may be deleted.
    """

    path: str
    levels: int
    auto_clean: bool
    used: frozenset[str]
    doubts: tuple[Doubt, ...]


class Survey(NamedTuple):
    """What the files of a host say of its images."""

    directories: tuple[Directory, ...]
    errors: tuple[Error, ...]
    named: frozenset[str]
    """Real paths of all directories that the configuration names: one that lies in an image is no part of it."""
    runtime: str
    """The runtime directory of the supervisor."""
    old_logs: tuple[str, ...]
    """The files of the history that hold nothing within the limits."""


def survey(master_file: str, limits: Limits) -> Survey:
    """Read the files of a host and their history; never raises for what they hold."""
    host = load_entries(master_file)
    if host.master is None:
        return Survey((), host.errors, frozenset(), "", ())
    past = _Past(host.master, os.path.dirname(os.path.abspath(master_file)), limits, datetime.now(UTC))
    sharing: dict[str, list[_Known]] = {}
    for sandbox in host.sandboxes:
        if sandbox.settings is not None:
            known = past.known(sandbox, sandbox.settings)
            sharing.setdefault(os.path.realpath(known.settings.image_dir), []).append(known)
    everywhere = tuple(_unknown(host))
    directories = [_directory(path, group, everywhere) for path, group in sorted(sharing.items())]
    return Survey(
        directories=tuple(_without_overlaps(directories)),
        errors=host.errors,
        named=_named(host.master, past.here, [known.settings for group in sharing.values() for known in group]),
        runtime=host.master.runtime_dir,
        old_logs=tuple(past.old_logs(host)),
    )


class _Known(NamedTuple):
    """What is known of the images of one sandbox."""

    settings: Sandbox
    used: frozenset[str]
    doubts: tuple[Doubt, ...]


class _Past:
    """Remembers what the histories say."""

    def __init__(self, master: Master, here: str, limits: Limits, now: datetime) -> None:
        self.here = here
        self._directory = master.config_log_dir
        self._limits = limits
        self._now = now
        self._unreadable: Doubt | None = None
        self._files: dict[str, list[str]] = {}
        self._versions: dict[str, list[Version]] = {}
        try:
            if self._directory is not None:
                self._files = history.files(self._directory)
        except FileNotFoundError:
            pass  # each sandbox says that it has none
        except OSError as error:
            self._unreadable = Doubt(f"cannot list the histories in {self._directory}: {error.strerror}")

    def known(self, sandbox: SandboxEntries, settings: Sandbox) -> _Known:
        """What a sandbox uses by its process file, and used by its list or else its history."""
        if sandbox.entries is None:
            return _Known(
                settings, frozenset(), (Doubt(f"the process file of {sandbox.name} is wrong", in_files=True),)
            )
        current = frozenset(entry.image for entry in sandbox.entries.values())
        try:
            if settings.used_images_list is not None:
                return _Known(settings, current | _listed(os.path.join(self.here, settings.used_images_list)), ())
            return _Known(settings, current | self._before(sandbox.name), ())
        except _Doubtful as doubtful:
            return _Known(settings, current, (doubtful.doubt,))

    def _before(self, sandbox: str) -> frozenset[str]:
        """The images of the versions within the limits; raises _Doubtful."""
        if self._directory is None:
            if self._limits.days is None and not self._limits.at_least:
                return frozenset()
            sentence = f"no history says what {sandbox} used: config-log-dir is null and it has no used-images-list"
            raise _Doubtful(Doubt(sentence, in_files=True))
        if self._unreadable is not None:
            raise _Doubtful(self._unreadable)
        if sandbox not in self._files:
            raise _Doubtful(Doubt(f"{sandbox} has no history in {self._directory}: its supervisor writes it"))
        kept = history.within(self._all(sandbox), self._limits, self._now)
        for version in kept:
            if version.images is None:
                change = version.changes[-1]
                raise _Doubtful(Doubt(f"{change.file}:{change.line} cannot be read: repair or remove the line"))
        return frozenset().union(*(version.images for version in kept if version.images is not None))

    def _all(self, sandbox: str) -> list[Version]:
        if sandbox not in self._versions:
            try:
                self._versions[sandbox] = history.versions(history.read(self._files[sandbox]))
            except OSError as error:
                sentence = f"cannot read the history of {sandbox}, {error.filename}: {error.strerror}"
                raise _Doubtful(Doubt(sentence)) from error
        return self._versions[sandbox]

    def old_logs(self, host: HostEntries) -> Iterator[str]:
        """The files of which no line is within the limits; the one that is written to is never among them.

        The history of a sandbox that is gone is old altogether when its last line is older than the days that are
        asked for; without such a number it is kept.
        """
        gone = self._files.keys() - {sandbox.name for sandbox in host.sandboxes} if not host.errors else set()
        for sandbox, paths in sorted(self._files.items()):
            try:
                found = self._all(sandbox)
            except _Doubtful:
                continue
            if sandbox in gone:
                yield from paths if self._is_over(found) else []
                continue
            kept = history.within(found, self._limits, self._now)
            needed = {change.file for version in kept for change in version.changes}
            yield from (path for path in paths[1:] if path not in needed)

    def _is_over(self, found: list[Version]) -> bool:
        if not found or self._limits.days is None:
            return False
        last = found[-1].changes[-1].since
        return last is not None and (self._now - last).total_seconds() > self._limits.days * 86400


class _Doubtful(Exception):
    """Carries a doubt to where it is noted."""

    def __init__(self, doubt: Doubt) -> None:
        super().__init__(doubt.sentence)
        self.doubt = doubt


def _listed(path: str) -> frozenset[str]:
    """The images of a used-images-list; raises _Doubtful."""
    errors: list[Error] = []
    try:
        text = HostFiles(secure=os.geteuid() == 0).read(path, errors)
    except ConfigErrors as refused:
        errors += refused.errors
    if errors:
        raise _Doubtful(Doubt(f"used-images-list: {errors[0]}"))
    names = frozenset(posixpath.normpath(line.strip()) for line in text.splitlines() if line.strip())
    for name in names:
        if name.startswith(("/", "..")):
            raise _Doubtful(Doubt(f"{path}: {name!r} is not the name of an image below image-dir"))
    return names


def _unknown(host: HostEntries) -> Iterator[Doubt]:
    """Sandboxes whose directory of images is not known: it may be any."""
    for sandbox in host.sandboxes:
        if sandbox.settings is None:
            yield Doubt(f"the sandbox file of {sandbox.name} is wrong, and may use any image", in_files=True)


def _directory(path: str, group: list[_Known], everywhere: tuple[Doubt, ...]) -> Directory:
    doubts = [*everywhere, *(doubt for known in group for doubt in known.doubts)]
    for key, values in _shared_settings(group).items():
        if len(values) > 1:
            doubts.append(Doubt(f"its sandboxes do not agree on {key}: {', '.join(sorted(map(str, values)))}", True))
    if path == "/":
        doubts.append(Doubt("this is the root of the host, not a directory of images", in_files=True))
    first = group[0].settings
    used = frozenset().union(*(known.used for known in group))
    return Directory(path, first.image_dir_levels, first.auto_clean, used, tuple(doubts))


def _shared_settings(group: list[_Known]) -> Mapping[str, set[object]]:
    return {
        "auto-clean": {known.settings.auto_clean for known in group},
        "image-dir-levels": {known.settings.image_dir_levels for known in group},
    }


def _without_overlaps(directories: list[Directory]) -> Iterator[Directory]:
    """Add a doubt to those that lie in each other: an image of one may be a directory of images for the other."""
    for one in directories:
        others = [other.path for other in directories if other is not one and _overlap(one.path, other.path)]
        doubts = (Doubt(f"it overlaps with {path}, which is an image-dir too", in_files=True) for path in others)
        yield one._replace(doubts=(*one.doubts, *doubts))


def _overlap(one: str, other: str) -> bool:
    return os.path.commonpath((one, other)) in (one, other)


def _named(master: Master, here: str, sandboxes: Iterable[Sandbox]) -> frozenset[str]:
    """The real paths of the directories that the configuration names."""
    paths = [here, os.path.join(here, master.sandboxes_dir), os.path.join(here, master.processes_dir)]
    paths += [master.runtime_dir, master.devfs_dir, master.default_log_dir, master.stdio_log_dir]
    paths += [master.config_log_dir] if master.config_log_dir is not None else []
    for sandbox in sandboxes:
        paths += [*sandbox.readonly_paths.values(), *sandbox.writable_paths.values()]
    return frozenset(map(os.path.realpath, paths))
