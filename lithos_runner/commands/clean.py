"""`lithos clean`: which images are used, which are not, and away with those."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
import time
from typing import TYPE_CHECKING

from . import MASTER_FILE, CommandError

if TYPE_CHECKING:  # yaml and attrs cost 50 ms, which `lithos --help` need not pay
    from collections.abc import Iterable

    from lithos_runner.config.images.directory import Identity, ImageDirectory
    from lithos_runner.config.images.unused import Keep, Verdict
    from lithos_runner.config.images.use import Directory, Survey

HELP = "show used or unused images, and delete the unused ones"

USED, UNUSED, DELETE = "used", "unused", "delete-unused"

_UNITS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400),
}
_PART = re.compile(r"([0-9]+)\s*([a-z]+)\s*")

_PROGRESS_EVERY = 1000  # files between two changes of the line that shows how far it is


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "-C", "--config", metavar="FILE", default=MASTER_FILE, help="the master file (default: %(default)s)"
    )
    action = parser.add_mutually_exclusive_group()
    for name, text in (
        (USED, "print the images that are used (default)"),
        (UNUSED, "print the images that --delete-unused would delete; needs root"),
        (DELETE, "delete the images that are not used; needs root"),
    ):
        action.add_argument(f"--{name}", dest="action", action="store_const", const=name, default=USED, help=text)
    parser.add_argument(
        "-D", "--history-days", metavar="DAYS", type=_number, help="images that were used in the last DAYS are used"
    )
    parser.add_argument(
        "--versions-min",
        "--vmin",
        metavar="N",
        type=_number,
        default=0,
        help="so are those of the last N versions of a process file, however old they are (default: %(default)s)",
    )
    parser.add_argument(
        "--versions-max",
        "--vmax",
        metavar="N",
        type=_number,
        default=1000,
        help="and of no more than the last N, however new they are (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-recent",
        metavar="TIME",
        type=_seconds,
        default=0,
        help="keep images that were changed less than TIME ago, for example 1h: they may be about to be used",
    )
    parser.add_argument(
        "--clean-logs",
        action="store_true",
        help="with --unused and --delete-unused: also the files of the history in which nothing is that recent",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is kept and deleted, when, and why")
    parser.epilog = "Without --history-days and --versions-min, all of the history counts. See docs/operating.md."


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 7):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 999999")
    return int(text)


def _seconds(text: str) -> int:
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text) or any(unit not in _UNITS for _, unit in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30min, 1h or 2days")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def run(args: argparse.Namespace) -> int:
    """Print or delete; 0 when all is well, 1 when something could not be read or deleted, 2 for the configuration."""
    _check_usage(args)
    report = Report(verbose=args.verbose)
    survey = _survey(args)
    report.survey(survey)
    keep = _keep(survey, args)
    for directory in survey.directories:
        _clean(args, directory, keep, report)
    if args.clean_logs:
        _clean_logs(args, survey, report)
    return report.exit_code


def _check_usage(args: argparse.Namespace) -> None:
    if args.versions_min > args.versions_max:
        raise CommandError("--versions-min is more than --versions-max", exit_code=2)
    if args.clean_logs and args.action == USED:
        raise CommandError("--clean-logs goes with --unused or --delete-unused", exit_code=2)
    if args.action != USED and os.geteuid() != 0:
        raise CommandError(f"clean --{args.action} needs root, to see on which images something runs: use sudo")


def _survey(args: argparse.Namespace) -> Survey:
    from lithos_runner.config.history import Limits
    from lithos_runner.config.images.use import survey

    return survey(args.config, Limits(args.history_days, args.versions_min, args.versions_max))


def _keep(survey: Survey, args: argparse.Namespace) -> Keep:
    from lithos_runner.config.images.unused import Keep, mount_points
    from lithos_runner.status.running_images import running_images

    try:
        running = running_images([survey.runtime] if survey.runtime else [])
    except PermissionError as error:
        raise CommandError(f"cannot see on which images something runs: {error}, try it as root") from error
    return Keep(running, survey.named | mount_points(), time.time() - args.keep_recent)


def _clean(args: argparse.Namespace, wanted: Directory, keep: Keep, report: Report) -> None:
    """Do with one directory of images what was asked for."""
    from lithos_runner.config.images.directory import Busy, ImageDirectory
    from lithos_runner.config.images.unused import judge

    try:
        with ImageDirectory(wanted.path, wanted.levels) as images:
            verdicts = judge(images, wanted.used, keep)
            if args.action == USED:
                _print_used(wanted, verdicts)
            elif wanted.auto_clean and not wanted.doubts:
                report.verdicts(wanted, verdicts)
                _clean_unused(args, images, wanted, verdicts, report)
    except FileNotFoundError as error:
        report.note(f"cannot open {error.filename}: {error.strerror}")
    except Busy as busy:
        report.failure(str(busy))
    except BrokenPipeError:  # not the directory's fault
        raise
    except OSError as error:
        report.failure(f"cannot clean {wanted.path}: {error}")


def _print_used(wanted: Directory, verdicts: list[Verdict]) -> None:
    from lithos_runner.config.images.unused import LINKED, RUNNING

    found = {verdict.image.name for verdict in verdicts if verdict.reason in (LINKED, RUNNING)}
    _print_paths(os.path.join(wanted.path, name) for name in sorted(wanted.used | found))


def _clean_unused(
    args: argparse.Namespace, images: ImageDirectory, wanted: Directory, verdicts: list[Verdict], report: Report
) -> None:
    from lithos_runner.config.images.deletion import delete

    def look_again() -> frozenset[Identity]:
        survey = _survey(args)
        if wanted not in survey.directories:
            raise CommandError("the configuration was changed meanwhile: nothing was deleted, try again")
        return _keep(survey, args).running

    unused = [verdict.image for verdict in verdicts if not verdict.reason]
    if args.action == UNUSED:
        _print_paths(os.path.join(wanted.path, image.name) for image in unused)
    else:
        delete(images, unused, look_again, Progress(wanted.path, report))


def _clean_logs(args: argparse.Namespace, survey: Survey, report: Report) -> None:
    if args.action == UNUSED:
        _print_paths(survey.old_logs)
        return
    for path in survey.old_logs:
        try:
            os.unlink(path)
            report.note(f"deleted {_quoted(path)}")
        except OSError as error:
            report.failure(f"cannot delete {_quoted(path)}: {error.strerror}")


def _print_paths(paths: Iterable[str]) -> None:
    for path in paths:
        print(_quoted(path))


def _quoted(path: str) -> str:
    """A path as a JSON string: on one line, and harmless to a terminal."""
    return json.dumps(path, ensure_ascii=not path.isprintable())


class Report:
    """What is said on stderr, and what it means for the exit code."""

    def __init__(self, *, verbose: bool) -> None:
        self.exit_code = 0
        self._verbose = verbose

    def survey(self, survey: Survey) -> None:
        """Say what is wrong with the files, and which directories nobody may touch."""
        if survey.errors:
            print(*survey.errors, sep="\n", file=sys.stderr)
            self.exit_code = 2
        for directory in survey.directories:
            for doubt in directory.doubts:
                self.failure(f"no image in {directory.path} is deleted: {doubt.sentence}", 2 if doubt.in_files else 1)
            if not directory.auto_clean:
                self.note(f"no image in {directory.path} is deleted: auto-clean is false")

    def verdicts(self, directory: Directory, verdicts: list[Verdict]) -> None:
        """Say what is kept, and why."""
        for image, reason in verdicts:
            if reason:
                self.note(f"{_quoted(os.path.join(directory.path, image.name))} is kept: {reason}")

    def failure(self, sentence: str, exit_code: int = 1) -> None:
        """Say what did not work."""
        self.exit_code = max(self.exit_code, exit_code)
        print(f"lithos: {sentence}", file=sys.stderr)

    def note(self, sentence: str) -> None:
        """Say it, with the time, when every detail was asked for."""
        if self._verbose:
            print(f"lithos: {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {sentence}", file=sys.stderr)


class Progress:
    """Tells a terminal how far a deletion is, and the report how it ended; see `deletion.Observer`."""

    def __init__(self, directory: str, report: Report) -> None:
        self._directory = directory
        self._report = report
        self._name = ""
        self._files = 0
        self._terminal = sys.stderr.isatty()

    def begin(self, name: str) -> None:
        """An image is being removed."""
        self._name, self._files = name, 0
        self._show()

    def removed(self) -> None:
        """One of its files and directories has been."""
        self._files += 1
        if self._files % _PROGRESS_EVERY == 0:
            self._show()

    def end(self, name: str, error: OSError | None) -> None:
        """It is gone, or cannot be removed."""
        self._clear()
        path = _quoted(os.path.join(self._directory, name))
        if error is None:
            self._report.note(f"deleted {path}: {self._files:,} files")
        else:
            self._report.failure(f"cannot delete {path}: {error}{_hint(error)}")

    def _show(self) -> None:
        self._clear()
        if self._terminal:
            line = f"lithos: deleted {self._files:,} files of {_quoted(self._name)}"
            # A longer line could not be cleared.
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            print(line[: columns - 1], end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._terminal:
            print(end="\r\x1b[K", file=sys.stderr, flush=True)  # ECMA-48 EL, console_codes(4)


def _hint(error: OSError) -> str:
    return _HINTS.get(error.errno or 0, "")


_HINTS = {
    errno.EBUSY: ", something is mounted there: unmount it",
    errno.EXDEV: ", something is mounted there: unmount it",
    errno.EPERM: ", a file may be immutable: see lsattr(1)",
}
