"""`lithos run`: one container file, no other files needed."""

from __future__ import annotations

import argparse
import os
import sys

from . import CommandError

HELP = "run one container file on this host, no other files needed"

MOST_INSTANCES = 10_000


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("file", metavar="FILE", help="container file (YAML), see `lithos check --check-container`")
    parser.add_argument("--instances", type=_count, metavar="N", help="how many, instead of the file's `instances`")
    parser.add_argument("--name", help="name of the process; its instances are run/NAME.0, run/NAME.1 …")
    parser.add_argument("--image", metavar="DIR", default="/", help="root file system; default: the host's, read-only")
    parser.add_argument(
        "--set", action="append", default=[], metavar="VAR=VALUE", help="value for @{VAR} in the file; may be repeated"
    )
    parser.add_argument(
        "--limits",
        choices=("enforce", "available", "off"),
        default="enforce",
        help="enforce: a limit that this host cannot set is an error (default); available: set those it can and name "
        "the others; off: set none",
    )
    parser.epilog = "Runs in the foreground until SIGTERM or Ctrl-C; a second Ctrl-C does not wait for kill-timeout."


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) > MOST_INSTANCES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {MOST_INSTANCES}")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Supervise until a signal comes."""
    from ..status import store
    from ..supervisor import cgroups, desired, loader, supervisor

    _require_root()
    name = arguments.name or os.path.splitext(os.path.basename(arguments.file))[0]
    _require_component(name)
    request = loader.Request(
        file=os.path.abspath(arguments.file),
        name=name,
        instances=arguments.instances,
        root=_directory(arguments.image),
        variables=dict(_assignment(text) for text in arguments.set),
    )
    runtime = os.path.join(store.root(), f"{loader.RUN_SANDBOX}-{name}")
    host = desired.Host(
        runtime=runtime,
        mounts=os.path.join(runtime, "mnt"),
        log_directory=os.environ.get("LITHOS_LOG_DIR", supervisor.LOG_DIRECTORY),
        cgroup_name=cgroups.SLICE,
        controllers=(),
    )
    options = supervisor.Options(config=request.file, limits=arguments.limits, once=True, host=host)
    try:
        supervisor.run(request, options)
    except supervisor.Refusal as refusal:
        faults = str(refusal)
        print(faults, file=sys.stderr)
        count = len(faults.splitlines())
        raise CommandError(f"{count} error{'s'[: count > 1]}, nothing was started", exit_code=2) from refusal
    except supervisor.Failure as failure:
        raise CommandError(str(failure)) from failure
    return 0


def _require_root() -> None:
    if os.geteuid() != 0:
        raise CommandError("run needs root, to open ports, make cgroups and become other users: use sudo")


def _require_component(name: str) -> None:
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii() or len(name) > 100:
        message = f"the name {name!r} is not made of letters, digits, - and _: give one with --name"
        raise CommandError(message, exit_code=2)


def _directory(path: str) -> str:
    if not os.path.isdir(path):
        raise CommandError(f"--image {path}: there is no such directory", exit_code=2)
    return os.path.realpath(path)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise CommandError(f"--set {text}: write it as VAR=VALUE", exit_code=2)
    return name, value
