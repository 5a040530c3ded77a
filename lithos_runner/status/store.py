"""What runs, on disk: its format, the half that writes it, and the lock that says which supervisor lives.

::

    <root>/supervisors/<id>                            -> a runtime directory
    <runtime>/lock                                     flock'd for as long as the supervisor lives
    <runtime>/supervisor.json                          what it supervises
    <runtime>/master.pid                               its process id, for who would send it a signal
    <runtime>/state/<sandbox>:<process>.<index>.json   one for each instance
    <runtime>/services/<sandbox>:<process>.json        one for each process group, for the supervisor's successor
    <root>/commands/<sandbox>:cmd.<process>.<pid>.json one for each one-off command, which has no supervisor

The supervisor imports this module, so it must stay light; `status.readings` has the other half.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from lithos_runner.status import processes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

DEFAULT_ROOT = "/run/lithos"

_LOCK = "lock"
_SUPERVISOR = "supervisor.json"
_PID = "master.pid"  # lithos's name
_STATE = "state"
_SETTING_UP = 5.0  # seconds that the set-up of an instance takes at most, until it has closed what it inherited
_SERVICES = "services"
_COARSEST_CLOCK = 2_000_000_000  # ns, that of FAT; a file system of Linux's own takes the tick, 10 ms at most

#: Inode and time of change of a directory.
Mark = tuple[int, int]

# json.dumps() builds a new encoder on each call that asks for anything but the defaults.
_encode = json.JSONEncoder(separators=(",", ":")).encode


class AlreadyRunning(Exception):
    """Another supervisor holds the lock of a runtime directory; `pid` is None while it only starts."""

    def __init__(self, runtime: str, pid: int | None) -> None:
        who = "a supervisor that starts just now" if pid is None else f"the supervisor with pid {pid}"
        super().__init__(f"cannot lock {runtime}: {who} holds it, stop that one or choose another name or runtime-dir")
        self.pid = pid


def control_socket(runtime: str) -> str:
    """Where the supervisor of `runtime` takes requests."""
    return os.path.join(runtime, "control")


def root() -> str:
    """The directory below which all supervisors of this host are found."""
    return os.environ.get("LITHOS_RUNTIME_DIR", DEFAULT_ROOT)


def claim(runtime: str, held: int | None = None) -> int:
    """Make `runtime` this process's own and return the descriptor that holds it until it is closed.

    `held` is such a descriptor that the process had before it replaced its program.

    The descriptor is close-on-exec: an instance that inherited it would keep a dead supervisor "alive".
    What a killed predecessor said of itself is removed, its instances' files stay, for adoption.
    Raises `AlreadyRunning` when a living supervisor has it.
    """
    path = os.path.join(runtime, _LOCK)
    if held is not None and os.path.samestat(os.fstat(held), os.stat(path)):
        return held
    patience = time.monotonic() + _SETTING_UP
    while True:
        os.makedirs(runtime, 0o755, exist_ok=True)
        # Not readable for others: whoever can open a file can flock it, and keep a supervisor from starting.
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            lock = os.open(path, flags, 0o600)
        except FileNotFoundError:  # a supervisor that ended removed the directory under our feet
            continue
        if not _lock_exclusively(lock):
            os.close(lock)
            if _is_let_go(runtime) and time.monotonic() < patience:
                time.sleep(0.01)
                continue
            raise AlreadyRunning(runtime, _pid_of(runtime))
        if os.fstat(lock).st_nlink:
            break
        os.close(lock)  # that supervisor removed the file after we had opened it
    for name in (_SUPERVISOR, _PID):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(runtime, name))
    return lock


def _is_let_go(runtime: str) -> bool:
    """Whether the supervisor that has the lock is dead: a child of it, not yet an instance, has the lock still."""
    process = process_of(read_supervisor(runtime) or {})
    return process is not None and not processes.is_alive(*process)


def process_of(supervisor: Mapping[str, object]) -> tuple[int, int] | None:
    """What a supervisor said of its own process: pid and start time; None when it did not."""
    pid, start = supervisor.get("pid"), supervisor.get("pid_start")
    return (pid, start) if isinstance(pid, int) and isinstance(start, int) else None


def is_held(runtime: str) -> bool:
    """Whether a living supervisor holds `runtime`; raises `PermissionError` to all but its owner and root."""
    try:
        lock = os.open(os.path.join(runtime, _LOCK), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(lock, fcntl.LOCK_SH)
    finally:
        os.close(lock)


def _lock_exclusively(lock: int) -> bool:
    """Take the lock unless a supervisor has it; the shared locks of `is_held` last microseconds."""
    while not _try_lock(lock, fcntl.LOCK_EX):
        if not _try_lock(lock, fcntl.LOCK_SH):
            return False
    return True


def _try_lock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pid_of(runtime: str) -> int | None:
    pid = (read_supervisor(runtime) or {}).get("pid")
    return pid if isinstance(pid, int) else None


class StateDirectory:
    """The write half. The caller holds the lock that `claim` gave.

    Files are replaced by rename, so that no reader sees half of one, and never synced: the place is a
    tmpfs, and what it says is worthless after a power cut. One that would say the same again is left alone.
    """

    def __init__(self, runtime: str) -> None:
        """Open the directories of `runtime`, which must exist."""
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._runtime = runtime
        self._runtime_fd = os.open(runtime, flags)
        self._state_fd = os.open(_STATE, flags, dir_fd=self._runtime_fd)
        self._services_fd = os.open(_SERVICES, flags, dir_fd=self._runtime_fd)
        # The hash of what each file says: the texts of 1,000 instances are 0.7 MB.
        self._said: dict[tuple[int, str], int] = {}

    @classmethod
    def create(cls, runtime: str) -> StateDirectory:
        """Open the state of `runtime` with what a predecessor left there, and register it under the root."""
        runtime = os.path.abspath(runtime)
        os.makedirs(os.path.join(runtime, _STATE), 0o755, exist_ok=True)
        # What is in there, environments among it, is for root only.
        os.makedirs(os.path.join(runtime, _SERVICES), 0o700, exist_ok=True)
        _remove_halves(runtime)
        _register(runtime)
        return cls(runtime)

    def write_supervisor(self, supervisor: Mapping[str, object]) -> None:
        """Say what this supervisor is: pid, config, started, log_dir, limits, cgroup_parent, not_enforced.

        `pid_start` is added, by which those who may not open the lock tell it from a recycled pid.
        """
        started = {"pid_start": processes.start_time(os.getpid())}
        self._write(self._runtime_fd, _SUPERVISOR, {**supervisor, **started})
        self._write(self._runtime_fd, _PID, os.getpid())

    def write_instance(self, instance: Mapping[str, object]) -> None:
        """Say what an instance is: the fields of `readings.Instance`, and others for the supervisor's own use."""
        self._write(self._state_fd, _file_name(str(instance["name"])), instance)

    def forget(self, name: str) -> None:
        """Remove what was said of the instance `name` ("run/hello.0"), if anything."""
        self._unlink(self._state_fd, _file_name(name))

    def write_service(self, name: str, service: Mapping[str, object]) -> None:
        """Say what a successor has to know of the process group `name` ("run/hello")."""
        self._write(self._services_fd, _file_name(name), service)

    def forget_service(self, name: str) -> None:
        """Remove what was said of the process group `name`, if anything."""
        self._unlink(self._services_fd, _file_name(name))

    def _write(self, directory: int, name: str, value: Mapping[str, object] | int) -> None:
        text = _encode(value)
        if self._said.get((directory, name)) != hash(text):
            _replace(directory, name, text.encode())
            self._said[directory, name] = hash(text)

    def _unlink(self, directory: int, name: str) -> None:
        self._said.pop((directory, name), None)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)

    def remove(self) -> None:
        """Remove all of it, the lock last; `runtime` itself stays when it holds files of others."""
        for directory in (_STATE, _SERVICES):
            path = os.path.join(self._runtime, directory)
            with suppress(OSError):  # directories that are not ours
                for name in os.listdir(path):
                    os.unlink(os.path.join(path, name))
                os.rmdir(path)
        with suppress(FileNotFoundError):
            os.unlink(_registration(self._runtime))
        for name in (_SUPERVISOR, _PID, _LOCK):
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._runtime_fd)
        for descriptor in (self._services_fd, self._state_fd, self._runtime_fd):
            os.close(descriptor)
        # Others may be in there; whoever is last leaves nothing.
        for directory in (self._runtime, _registrations(), root()):
            with suppress(OSError):
                os.rmdir(directory)


def _remove_halves(runtime: str) -> None:
    """Remove what a predecessor was writing when it was killed."""
    for name in (_SUPERVISOR, _PID):
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(runtime, f".{name}"))
    for directory in (_STATE, _SERVICES):
        path = os.path.join(runtime, directory)
        for name in os.listdir(path):
            if name.startswith("."):
                os.unlink(os.path.join(path, name))


def write_command(command: Mapping[str, object]) -> None:
    """Say what a one-off command is: the fields of an instance, see `StateDirectory.write_instance`."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    while True:
        os.makedirs(_commands(), 0o755, exist_ok=True)
        try:
            directory = os.open(_commands(), flags)
        except FileNotFoundError:  # the last of the others took the directory away under our feet
            continue
        try:
            _replace(directory, _file_name(str(command["name"])), _encode(command).encode())
        except FileNotFoundError:
            continue
        finally:
            os.close(directory)
        return


def forget_command(name: str) -> None:
    """Remove what was said of the command `name` ("shop/cmd.migrate.4711"), if anything."""
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(os.path.join(_commands(), _file_name(name)))
    for directory in (_commands(), root()):
        with suppress(OSError):
            os.rmdir(directory)


def read_commands() -> list[dict[str, object]]:
    """What was said of each command, whether it runs still or not, by file name."""
    return _read_all(_files(_commands()))


def _register(runtime: str) -> None:
    """Make `runtime` known under the root; the name is made from the target, so one that is there is right."""
    while True:
        os.makedirs(_registrations(), 0o755, exist_ok=True)
        try:
            os.symlink(runtime, _registration(runtime))
        except FileExistsError:
            return
        except FileNotFoundError:  # the last of the others took the directory away under our feet
            continue
        return


def registered() -> Iterator[str]:
    """The runtime directory of each supervisor that is registered, whether it lives or not."""
    try:
        names = sorted(os.listdir(_registrations()))
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        with suppress(OSError):
            yield os.readlink(os.path.join(_registrations(), name))


def read_supervisor(runtime: str) -> dict[str, object] | None:
    """What the supervisor of `runtime` said of itself; None when there is nothing that can be read."""
    return read_json(os.path.join(runtime, _SUPERVISOR))


def read_instances(runtime: str) -> list[dict[str, object]]:
    """What was last said of each instance, by file name; whatever is no JSON object is passed over."""
    return _read_all(instance_files(runtime))


def read_services(runtime: str) -> list[dict[str, object]]:
    """What was last said of each process group, by file name."""
    return _read_all(_files(os.path.join(runtime, _SERVICES)))


def _read_all(files: Iterable[tuple[str, os.stat_result]]) -> list[dict[str, object]]:
    values = (read_json(path) for path, _ in files)
    return [value for value in values if value is not None]


def instance_files(runtime: str) -> Iterator[tuple[str, os.stat_result]]:
    """The instances' files in the order of their names; one that is being written begins with a dot."""
    yield from _files(os.path.join(runtime, _STATE))


def _files(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.endswith(".json") and not entry.name.startswith("."):
                with suppress(OSError):
                    yield entry.path, entry.stat(follow_symlinks=False)


def mark(runtime: str) -> Mark | None:
    """What tells the files of all instances, as they are now, from any later state of theirs.

    Every write renames a file, and that changes the directory. None when there is none, or when it has just changed:
    it could change once more within the same tick of the clock, and look the same, see https://git-scm.com/docs/racy-git.
    """
    try:
        status = os.stat(os.path.join(runtime, _STATE))
    except OSError:
        return None
    settled = time.time_ns() - status.st_mtime_ns >= _COARSEST_CLOCK
    return (status.st_ino, status.st_mtime_ns) if settled else None


def instance_of(path: str) -> str:
    """The instance ("run/hello.0") that a file is about, whatever its directory and its ending."""
    return os.path.splitext(os.path.basename(path))[0].replace(":", "/")


def read_json(path: str) -> dict[str, object] | None:
    """The JSON object in a file, None when it is missing, unreadable, or anything else."""
    try:
        # A fifo in the place of a file must not stop the reader.
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(file, "rb", buffering=0) as stream:
            value = json.loads(stream.readall())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _commands() -> str:
    return os.path.join(root(), "commands")


def _registrations() -> str:
    return os.path.join(root(), "supervisors")


def _registration(runtime: str) -> str:
    return os.path.join(_registrations(), escaped(runtime))


def escaped(path: str) -> str:
    """One file name for each path, escaped as systemd does it: systemd.unit(5), "String Escaping"."""
    return path.strip("/").replace("-", r"\x2d").replace("/", "-")


def _file_name(instance: str) -> str:
    return instance.replace("/", ":") + ".json"


def _replace(directory: int, name: str, data: bytes) -> None:
    temporary = f".{name}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.open(temporary, flags, 0o644, dir_fd=directory)
    try:
        if os.write(file, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
    except OSError:
        os.unlink(temporary, dir_fd=directory)
        raise
    finally:
        os.close(file)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
