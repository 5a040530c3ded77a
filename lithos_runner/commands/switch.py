"""`lithos switch`: put a new process file into force, or nothing."""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from . import MASTER_FILE, CommandError, client

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator

HELP = "check a new process file, put it in the place of the old one, and wait for the roll-out"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("sandbox", metavar="SANDBOX", help="the sandbox whose process file is replaced")
    parser.add_argument("file", metavar="FILE", help="the new process file; it is copied")
    parser.add_argument(
        "-C", "--config", "--master", metavar="FILE", default=MASTER_FILE, help=f"master file (default: {MASTER_FILE})"
    )
    client.add_timeout(parser)
    parser.epilog = (
        "Exit code 2: the file is wrong, nothing was changed. 1: it was rolled back, or a first version did not get "
        "ready, for the reason said."
    )


def run(arguments: argparse.Namespace) -> int:
    """Check, replace, reload, wait."""
    master, sandbox = os.path.abspath(arguments.config), arguments.sandbox
    text = _text(arguments.file)
    replace(process_file(master, sandbox), lambda: text, master, sandbox, origin=arguments.file)
    supervisor = client.find(master)
    if supervisor is None:
        client.say_that_none_runs(master)
        return 0
    supervisor.roll_out(sandbox, "reload", timeout=arguments.timeout, retry=sandbox)
    return 0


def _text(path: str) -> str:
    """Return what a file or pipe holds; never reads more than is allowed."""
    from ..config.files import MAX_BYTES

    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", exit_code=2) from error
    if len(raw) > MAX_BYTES:
        raise CommandError(f"cannot read {path}: it is larger than {MAX_BYTES} bytes", exit_code=2)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise CommandError(f"cannot read {path}: it is not UTF-8", exit_code=2) from error


def process_file(master: str, sandbox: str) -> str:
    """Return where the process file of a sandbox is; raises CommandError when there is no such sandbox."""
    from ..config import load_host

    host = load_host(master)
    if sandbox not in host.process_files:
        _print_errors(host.errors)
        raise CommandError(f"{master} leads to no sandbox {sandbox}", exit_code=2)
    return host.process_files[sandbox]


def replace(path: str, text: Callable[[], str], master: str, sandbox: str, origin: str | None = None) -> None:
    """Put a text in the place of the process file ``path`` if it is right; raises CommandError if not.

    ``text`` is called when nobody else can change the file any more. The file is there as a whole
    or not at all, and survives a power cut once this returns (fsync(2), rename(2)).
    """
    directory = os.path.dirname(path)
    try:
        with _locked(directory):
            temporary = os.path.join(directory, f".tmp.{sandbox}")
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            _write(temporary, text(), _mode(path))
            try:
                _check(temporary, master, sandbox, origin)
                os.rename(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
            _sync(directory)
    except OSError as error:
        raise CommandError(f"cannot replace {path}: {error.strerror or error}") from error


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Keep other switches of the same directory waiting."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _mode(path: str) -> int:
    try:
        return os.stat(path).st_mode & 0o777
    except FileNotFoundError:
        return 0o644


def _write(path: str, text: str, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8", newline="") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(temporary: str, master: str, sandbox: str, origin: str | None) -> None:
    """Check the host as it would be; what is wrong in other sandboxes is theirs."""
    from ..config.host import EVERYTHING, load_host

    host = load_host(master, alternates={sandbox: temporary})
    if not any(name.partition("/")[0] in (EVERYTHING, sandbox) for name in host.broken):
        return
    errors = [str(error).replace(temporary, origin) if origin else str(error) for error in host.errors]
    _print_errors(errors)
    raise CommandError(f"{sandbox} was not switched: nothing was changed", exit_code=2)


def _print_errors(errors: Iterable[object]) -> None:
    for error in errors:
        print(error, file=sys.stderr)
