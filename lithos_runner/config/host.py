"""The configuration of a whole host: from a master file to the last container file inside an image."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from . import rules
from .container import Container, ContainerFile
from .declarations import faults_of_values, missing_values
from .errors import ConfigErrors, Error, Place, did_you_mean, quoted
from .files import HostFiles, RootedFiles, Unreadable
from .formats import name_of_component
from .kinds import Kind
from .master import MASTER, Master
from .ownership import check_mode
from .process import PROCESSES, Process
from .resolve import Tree, read_tree
from .rules import Entry, Meeting, memory_of, unix_paths, volume_source
from .sandbox import SANDBOX, Sandbox
from .variables import Variables
from .walk import Document, read_document
from .witness import UNSEEN, Witness

EVERYTHING = ""  # in `Host.broken`: a fault of what all sandboxes follow from
_UNDECLARED = "declare it under variables, with its type"


@attrs.frozen(kw_only=True)
class Service:
    """One entry of a process file with everything that decides how its instances run.

    `container` is complete: variables are put in, the sandbox's defaults for `user_id`, `group_id` and
    `memory_limit` too, and `tcp_ports` holds the ports that variables activate. Only the built-in variables
    are left, which differ between instances.
    """

    sandbox: str
    settings: Sandbox
    process: str
    entry: Process
    container: Container
    sources: Mapping[str, tuple[str, str]]
    """Mount point → directory that the sandbox names and path below it, for the volumes that show one."""
    unix_paths: Mapping[str, str]
    """Key of `unix_sockets` → path on the host."""

    @property
    def name(self) -> str:
        """`sandbox/process`."""
        return f"{self.sandbox}/{self.process}"

    @property
    def root(self) -> str:
        """The directory of the image on the host."""
        return os.path.join(self.settings.image_dir, self.entry.image)

    @property
    def instances(self) -> tuple[str, ...]:
        """The names of the instances that are kept running; none of a command."""
        count = self.entry.instances if self.entry.kind == "Daemon" else 0
        return tuple(f"{self.name}.{index}" for index in range(count))


@attrs.frozen(kw_only=True)
class SandboxServices:
    """A sandbox and what is to run in it, by the name of the process."""

    name: str
    settings: Sandbox
    services: Mapping[str, Service]


@attrs.frozen(kw_only=True)
class Host:
    """All four kinds of file of a host, read and checked together.

    With `errors`, only what they do not concern is there: `master` is None when its file is wrong, `sandboxes` is
    empty when something is that they all follow from, else it lacks those whose sandbox or process file is, and a
    sandbox lacks services whose container file is or that break a rule. `broken` names them (`sandbox`,
    `sandbox/process`, or EVERYTHING): for these, what ran goes on.
    """

    master: Master | None
    sandboxes: Mapping[str, SandboxServices]
    errors: tuple[Error, ...]
    broken: frozenset[str]
    process_files: Mapping[str, str]
    """Where the process file of each sandbox is, or will be."""
    devfs: str
    """The directory for /dev: what the master file names, or the default where that exists; else ""."""


def load_host(
    master_file: str,
    *,
    alternates: Mapping[str, str] | None = None,
    only: str | None = None,
    witness: Witness = UNSEEN,
) -> Host:
    """Read a master file and everything that follows from it.

    `alternates` names another process file for a sandbox. `only` is the one sandbox to read; whether others want the
    same sockets is not asked then. When root asks, the files must belong to root. `witness` is told what all this
    depends on. Never raises for what the files hold.
    """
    reader = _Reader(alternates or {}, only, witness)
    master = reader.read(master_file, MASTER)
    if master is not None:
        reader.master(master)
    return reader.host(master)


@attrs.frozen(kw_only=True)
class SandboxEntries:
    """The sandbox file of a name and its process file; None for one that is wrong, as is what depends on it."""

    name: str
    settings: Sandbox | None
    entries: Mapping[str, Process] | None


@attrs.frozen(kw_only=True)
class HostEntries:
    """The files of a host except for those inside images; with `errors`, what they concern is None."""

    master: Master | None
    sandboxes: tuple[SandboxEntries, ...]
    errors: tuple[Error, ...]


def load_entries(master_file: str) -> HostEntries:
    """Read the master file, the sandbox files and their process files, and nothing inside an image.

    This is for questions that must be answered also when an image is broken or not there. Ownership is checked as by
    `load_host`; never raises for what the files hold.
    """
    reader = _EntryReader({})
    master = reader.read(master_file, MASTER)
    if master is not None:
        reader.master(master)
    return reader.result(master)


class _Reader:
    """Goes through the files and collects what is right and what is wrong."""

    def __init__(self, alternates: Mapping[str, str], only: str | None = None, witness: Witness = UNSEEN) -> None:
        self.alternates = alternates
        self.only = only
        secure = os.geteuid() == 0
        self.witness = witness
        self.files = HostFiles(secure=secure, witness=witness)
        self.distrust = check_mode if secure else None
        self.devfs = ""
        self.errors: list[Error] = []
        self.broken: set[str] = set()
        self.sandboxes: dict[str, Document[Sandbox]] = {}
        self.process_files: dict[str, str] = {}
        self.meetings: list[Meeting] = []
        self.containers: dict[tuple[str, str, str], ContainerFile | ConfigErrors | OSError] = {}
        self.documents: dict[tuple[str, tuple[tuple[str, str], ...]], Document[Container]] = {}

    def read(self, path: str, kind: Kind, owner: str = EVERYTHING) -> Document[Any] | None:
        """A file of the host; None when there is nothing to go on with."""
        try:
            document = read_document(read_tree(self.files, path), kind)
        except ConfigErrors as refused:
            self.report(refused.errors, owner)
            return None
        self.report(document.errors(), owner)
        return None if document.value is None else document

    def report(self, errors: Iterable[Error], owner: str) -> None:
        """Note errors and whom they concern."""
        noted = list(errors)
        self.errors += noted
        if noted:
            self.broken.add(owner)

    # From the master file down

    def master(self, master: Document[Master]) -> None:
        """Read the sandboxes of a host, then check them against each other."""
        settings = master.value
        if settings.devfs_dir and self.files.has_directory(settings.devfs_dir):
            self.devfs = settings.devfs_dir
        elif settings.devfs_dir and ("devfs-dir",) in master.found:
            self.report([master.error(("devfs-dir",), f"there is no directory {settings.devfs_dir}")], EVERYTHING)
        if not master.is_sound(("sandboxes-dir",)) or not master.is_sound(("processes-dir",)):
            return
        here = os.path.dirname(master.file)
        directory = _join(here, settings.sandboxes_dir)
        try:
            files = [name for name in self.files.names(directory) if name.endswith(".yaml") and name[0] != "."]
        except OSError as error:
            message = f"cannot list {directory}: {error.strerror}"
            self.report([master.error(("sandboxes-dir",), message)], EVERYTHING)
            return
        names = [file.removesuffix(".yaml") for file in files]
        for name in self.alternates.keys() - names:
            message = f"leads to no sandbox {quoted(name)}{did_you_mean(name, names)}"
            self.report([master.error((), message)], name)
        for file in files if self.only is None else {f"{self.only}.yaml"} & {*files}:
            self.sandbox(os.path.join(directory, file), _join(here, settings.processes_dir))
        for clash, *meetings in rules.clashes(self.meetings):
            for meeting in meetings:
                self.report([clash], meeting.full_name)

    def sandbox(self, file: str, processes_dir: str) -> None:
        """Read a sandbox file, its process file, and the container files of that."""
        name = os.path.basename(file).removesuffix(".yaml")
        try:
            name_of_component(name)
        except ValueError as error:
            self.report([Error(*Place(file), "", str(error))], name)
            return
        sandbox: Document[Sandbox] | None = self.read(file, SANDBOX, name)
        if sandbox is None or not sandbox.is_sound(("config-file",)):
            return
        self.sandboxes[name] = sandbox
        self.process_files[name] = os.path.join(processes_dir, sandbox.value.config_file or f"{name}.yaml")
        processes = self.processes(name, self.process_files[name])
        if processes is None:
            return
        before = len(self.meetings)
        for process in processes.value:
            if processes.is_sound((process,)):
                self.service(Entry(name, process, sandbox, processes))
        if sandbox.is_sound():
            self.report(rules.memory_in_all(sandbox, self.meetings[before:]), name)

    def processes(self, sandbox: str, file: str) -> Document[Mapping[str, Process]] | None:
        """Read a process file; the orchestrator may not have written it yet, then nothing is to run."""
        if sandbox in self.alternates:
            return self.read(self.alternates[sandbox], PROCESSES, sandbox)
        if not self.files.has_entry(file):
            return read_document(Tree(file, None, ()), PROCESSES)
        return self.read(file, PROCESSES, sandbox)

    def service(self, entry: Entry) -> None:
        """Read the container file of an entry and check the entry against it and the sandbox."""
        if not entry.sandbox.is_sound(("image-dir",)) or not entry.sandbox.is_sound(("image-dir-levels",)):
            return
        if errors := list(rules.image_depth(entry)):
            self.report(errors, entry.full_name)
            return
        file = self.container_file(entry)
        if file is None:
            return
        container = self.container(entry, file)
        if entry.sandbox.is_sound() and container.is_sound():
            meeting = Meeting(entry.sandbox_name, entry.name, entry.sandbox, entry.processes, container)
            self.meetings.append(meeting)
            self.report((error for rule in rules.RULES for error in rule(meeting)), entry.full_name)

    # Inside the image

    def container_file(self, entry: Entry) -> ContainerFile | None:
        """The container file of an entry; None, and the reason reported, when there is none."""
        directory = entry.sandbox.value.image_dir
        opened = self.opened(directory, entry.value.image, entry.value.config)
        match opened:
            case ContainerFile():
                return opened
            case Unreadable():
                error = opened.errors[0]
                errors = [entry.error(("config",), f"cannot use {error.file}: {error.message}")]
            case ConfigErrors():
                errors = list(opened.errors)
            case OSError() if opened.filename == directory:
                errors = [entry.sandbox.error(("image-dir",), f"cannot open {directory}: {opened.strerror}")]
            case OSError():
                image = os.path.join(directory, entry.value.image)
                errors = [entry.error(("image",), f"cannot open {image}: {_reason(opened)}")]
        self.report(errors, entry.full_name)
        return None

    def opened(self, directory: str, image: str, config: str) -> ContainerFile | ConfigErrors | OSError:
        """A container file, or why there is none; read once however many entries share it."""
        key = (directory, image, config)
        if key not in self.containers:
            try:
                with RootedFiles(directory, below=image, distrust=self.distrust, witness=self.witness) as files:
                    self.containers[key] = ContainerFile(read_tree(files, config))
            except (ConfigErrors, OSError) as error:
                self.containers[key] = error
        return self.containers[key]

    def container(self, entry: Entry, file: ContainerFile) -> Document[Container]:
        """The container file with the entry's variables put in; read once for all that have the same."""
        supplied = entry.value.variables
        wrong = dict(faults_of_values(file.declared, supplied))
        missing = missing_values(file.declared, supplied)
        faults = [entry.error(("variables", name), why) for name, why in wrong.items()]
        faults += [entry.error(("variables",), _missing(file, name)) for name in missing]
        self.report(faults, entry.full_name)
        given = {name: supplied[name] for name in file.declared if name in supplied and name not in wrong}
        key = (file.tree.file, tuple(given.items()))
        if key not in self.documents:
            variables = Variables(given, frozenset((*wrong, *missing)), _UNDECLARED)
            self.documents[key] = file.document(variables)
        document = self.documents[key]
        self.report(document.errors(), entry.full_name)
        return document

    # What is left

    def host(self, master: Document[Master] | None) -> Host:
        """The result: what no error concerns."""
        sound = () if EVERYTHING in self.broken else self.sandboxes.keys() - self.broken
        services: dict[str, dict[str, Service]] = {name: {} for name in self.sandboxes if name in sound}
        for meeting in self.meetings:
            if meeting.sandbox_name in services and meeting.full_name not in self.broken:
                services[meeting.sandbox_name][meeting.name] = _service(meeting)
        return Host(
            master=master.value if master is not None and master.is_sound() else None,
            sandboxes={
                name: SandboxServices(name=name, settings=self.sandboxes[name].value, services=each)
                for name, each in services.items()
            },
            errors=ConfigErrors(dict.fromkeys(self.errors)).errors,
            broken=frozenset(self.broken),
            process_files=self.process_files,
            devfs=self.devfs,
        )


class _EntryReader(_Reader):
    """Stops at the images: an entry of a process file is only noted."""

    def __init__(self, alternates: Mapping[str, str]) -> None:
        super().__init__(alternates)
        self.entries: dict[str, dict[str, Process]] = {}

    def service(self, entry: Entry) -> None:
        """Note the entry."""
        self.entries.setdefault(entry.sandbox_name, {})[entry.name] = entry.value

    def result(self, master: Document[Master] | None) -> HostEntries:
        """What was read."""
        names = sorted({*self.sandboxes, *self.broken} - {EVERYTHING})
        return HostEntries(
            master=master.value if master is not None and master.is_sound() else None,
            sandboxes=tuple(map(self._entries, names)),
            errors=ConfigErrors(dict.fromkeys(self.errors)).errors,
        )

    def _entries(self, name: str) -> SandboxEntries:
        sandbox = self.sandboxes.get(name)
        if sandbox is None or not sandbox.is_sound():
            return SandboxEntries(name=name, settings=None, entries=None)
        entries = None if name in self.broken else self.entries.get(name, {})
        return SandboxEntries(name=name, settings=sandbox.value, entries=entries)


def _service(meeting: Meeting) -> Service:
    settings, container = meeting.sandbox.value, meeting.container.value
    sources = {point: volume_source(volume, settings) for point, volume in container.volumes.items()}
    return Service(
        sandbox=meeting.sandbox_name,
        settings=settings,
        process=meeting.name,
        entry=meeting.value,
        container=attrs.evolve(
            container,
            user_id=settings.default_user if container.user_id is None else container.user_id,
            group_id=settings.default_group if container.group_id is None else container.group_id,
            memory_limit=memory_of(meeting),
        ),
        sources={point: source for point, source in sources.items() if source is not None},
        unix_paths={path: real for path, real in unix_paths(meeting).items() if real is not None},
    )


def _missing(file: ContainerFile, name: str) -> str:
    return f"{file.tree.file} declares the variable {quoted(name)}: give it a value"


def _reason(error: OSError) -> str:
    if error.errno == errno.EXDEV:
        return "it is a link that leads out of image-dir"
    return error.strerror or str(error)


def _join(directory: str, path: str) -> str:
    """The path below a directory, in a spelling for messages."""
    return os.path.normpath(os.path.join(directory, path))
