"""`lithos run`: one container file, no other files needed."""

from __future__ import annotations

import argparse
import os

from . import CommandError
from .supervise import add_limits, count, require_root, supervise

HELP = "run one container file on this host, no other files needed"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("file", metavar="FILE", help="container file (YAML), see `lithos check --check-container`")
    parser.add_argument("--instances", type=count, metavar="N", help="how many, instead of the file's `instances`")
    parser.add_argument("--name", help="name of the process; its instances are run/NAME.0, run/NAME.1 …")
    parser.add_argument("--image", metavar="DIR", default="/", help="root file system; default: the host's, read-only")
    parser.add_argument(
        "--set", action="append", default=[], metavar="VAR=VALUE", help="value for @{VAR} in the file; may be repeated"
    )
    add_limits(parser)
    parser.epilog = "Runs in the foreground until SIGTERM or Ctrl-C; a second Ctrl-C does not wait for kill-timeout."


def run(arguments: argparse.Namespace) -> int:
    """Supervise until a signal comes."""
    from ..status import store
    from ..supervisor import cgroups, desired, loader, supervisor

    require_root("run")
    name = arguments.name or os.path.splitext(os.path.basename(arguments.file))[0]
    _require_component(name)
    request = loader.Request(
        file=os.path.abspath(arguments.file),
        name=name,
        instances=arguments.instances,
        root=_directory(arguments.image),
        variables=dict(_assignment(text) for text in arguments.set),
    )
    runtime = os.path.join(store.root(), f"{desired.RUN_SANDBOX}-{name}")
    host = desired.Host(
        runtime=runtime,
        mounts=os.path.join(runtime, "mnt"),
        log_directory=os.environ.get("LITHOS_LOG_DIR", supervisor.LOG_DIRECTORY),
        cgroup_name=cgroups.SLICE,
        controllers=(),
    )
    options = supervisor.Options(config=request.file, limits=arguments.limits or cgroups.ENFORCE, once=True, host=host)
    return supervise(request, options)


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
