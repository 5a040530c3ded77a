"""The `lithos` command: a table of commands, each imported only when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from typing import TYPE_CHECKING, Any

from . import CommandError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# Each is a module beside this one with HELP, configure and run.
COMMANDS = (
    *("run", "tree", "cmd"),
    *("check", "plan", "switch", "scale", "restart", "upgrade"),
    *("ps", "top", "logs", "metrics"),
    *("clean", "schema"),
)

_DESCRIPTION = "Hands listening sockets to isolated instances of any program, each in a cgroup of its own."
_EPILOG = "Begin with: lithos run FILE. Every command answers --help."


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Format help for this terminal.

    argparse makes a formatter for every argument that is added, and one without a width imports shutil with all its
    compression formats: 8 ms of every command and 1 MB of the supervisor.
    """
    try:
        columns = int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size().columns
    except (OSError, ValueError):
        columns = 80
    return argparse.HelpFormatter(prog, width=columns - 2)


def parser_for(argv: list[str]) -> argparse.ArgumentParser:
    """Build the parser; when ``argv`` names a command, only that one is loaded: `lithos ps` has 60 ms in all."""
    style: dict[str, Any] = {"allow_abbrev": False, "formatter_class": _formatter}
    parser = argparse.ArgumentParser(prog="lithos", description=_DESCRIPTION, epilog=_EPILOG, **style)
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", prog="lithos")
    named = next((word for word in argv if not word.startswith("-")), None)
    for name in [named] if named in COMMANDS else COMMANDS:
        module = importlib.import_module(f"lithos_runner.commands.{name}")
        text: str = module.HELP
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", **style)
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 it failed, 2 bad usage or configuration."""
    _open_standard_streams()
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except CommandError as error:
        print(f"lithos: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        _forget_output()  # the reader of a pipe has had enough
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def _open_standard_streams() -> None:
    """Take /dev/null for those of descriptors 0 to 2 that are closed, lest a socket of ours get such a number."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(null)
    sys.stdout = _output()
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


class _Output(io.FileIO):
    """Standard output. That nothing can be written to it, as a disk is full, is the command's failure and no fault."""

    def write(self, data: ReadableBuffer) -> int:
        """Write some of it, see io.RawIOBase."""
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            _forget_output()
            raise CommandError(f"cannot write to standard output: {error.strerror}") from error


def _output() -> io.TextIOWrapper:
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    stream = io.BufferedWriter(_Output(1, "w", closefd=False))
    return io.TextIOWrapper(stream, encoding, errors="backslashreplace", line_buffering=os.isatty(1))


def _forget_output() -> None:
    """Let what is still in a buffer go nowhere, or the interpreter tries it again at its end, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _run(words: list[str]) -> int:
    parser = parser_for(words)
    try:
        arguments = parser.parse_args(words)
    except SystemExit as end:  # --help, or bad usage
        return int(end.code or 0)
    if arguments.version:
        print(_version())
        return 0
    if arguments.command is None:
        parser.print_help()
        return 2
    return int(arguments.run(arguments))


def _version() -> str:
    from importlib.metadata import version

    return version("lithos-runner")


if __name__ == "__main__":
    sys.exit(main())
