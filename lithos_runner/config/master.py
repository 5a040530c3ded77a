"""The master file: where everything is on this host. An empty one is valid."""

from __future__ import annotations

import os

import attrs

from .errors import did_you_mean, quoted
from .formats import ABSOLUTE, PATH
from .kinds import ListOf, Record, Text, key

LEVELS = ("error", "warn", "info", "debug", "trace")

_FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *(f"local{number}" for number in range(8)),
)
"""syslog(3)"""

_CONTROLLERS = {name: name for name in ("cpu", "cpuset", "io", "memory", "pids", "hugetlb", "rdma", "misc", "name")}
_CONTROLLERS |= {"cpuacct": "cpu", "blkio": "io"}
"""The names of cgroup v2, and those of v1 that stand for one of them."""


def _level(text: str) -> str:
    if text.lower() not in LEVELS:
        raise ValueError(f"expected one of {', '.join(LEVELS)}, found {quoted(text)}")
    return text.lower()


def _facility(text: str) -> str:
    name = text.lower().removeprefix("log_")
    if name not in _FACILITIES:
        raise ValueError(f"{quoted(text)} is not a facility of syslog(3){did_you_mean(name, _FACILITIES)}")
    return name


def _controller(text: str) -> str:
    if text not in _CONTROLLERS:
        raise ValueError(f"{quoted(text)} is not a controller of cgroup v2{did_you_mean(text, _CONTROLLERS)}")
    return _CONTROLLERS[text]


def _cgroup_name(text: str) -> str:
    if text in ("", ".", "..") or "/" in text or "\n" in text or text.startswith("cgroup."):
        raise ValueError(f"{quoted(text)} cannot name a cgroup: write one component of a path, such as lithos.slice")
    return text


LEVEL = Text(words="log level", parse=_level, schema={"pattern": f"^(?i:{'|'.join(LEVELS)})$"})


@attrs.frozen(kw_only=True)
class Master:
    """A master file; attributes are its keys with underscores, paths as they are written."""

    sandboxes_dir: str = key(
        PATH, "Directory of the sandbox files, relative to that of the master file.", default="./sandboxes"
    )
    processes_dir: str = key(
        PATH, "Directory of the process files, relative to that of the master file.", default="./processes"
    )
    runtime_dir: str = key(ABSOLUTE, "Directory of the process id and the state, on a tmpfs.", default="/run/lithos")
    state_dir: str = key(PATH, "Directory of the instances' state, relative to `runtime-dir`.", default="state")
    mount_dir: str = key(PATH, "Empty directory to mount images on, relative to `runtime-dir`.", default="mnt")
    devfs_dir: str = key(
        ABSOLUTE,
        "Directory of device nodes for `/dev`; one that is written must exist, and without the default one it is made.",
        default="/var/lib/lithos/dev",
    )
    default_log_dir: str = key(ABSOLUTE, "Directory of the supervisor's logs.", default="/var/log/lithos")
    log_file: str = key(PATH, "The supervisor's log, relative to `default-log-dir`.", default="master.log")
    log_level: str = key(LEVEL, "One of `error`, `warn`, `info`, `debug`, `trace`.", default="warn")
    config_log_dir: str | None = key(
        ABSOLUTE,
        "Directory of the history of process files; `null`: none is kept.",
        default="/var/log/lithos/config",
        off=True,
    )
    stdio_log_dir: str = key(
        ABSOLUTE, "Directory of what the applications print, one file per sandbox.", default="/var/log/lithos/stderr"
    )
    syslog_facility: str | None = key(
        Text(words="facility", parse=_facility), "Log to syslog under this facility, not to files.", default=None
    )
    syslog_app_name: str = key(
        Text(),
        "Name in syslog; lithos's pages call it `syslog-name`, which is accepted.",
        default="lithos",
        also=("syslog-name",),
    )
    cgroup_name: str | None = key(
        Text(words="cgroup name", parse=_cgroup_name),
        "The cgroup of all instances; `null`: no cgroups, and so no limits.",
        default="lithos.slice",
        off=True,
    )
    cgroup_controllers: tuple[str, ...] = key(
        ListOf(Text(words="controller", parse=_controller)),
        "Controllers of cgroup v2 to use, empty for all that limits need; `cpuacct` and `blkio` of v1 are `cpu` "
        "and `io`, and `name` alone is cgroups without limits.",
        default=(),
    )

    def below_runtime(self, path: str) -> str:
        """The path of `state-dir` or `mount-dir`."""
        return os.path.join(self.runtime_dir, path)


MASTER = Record(Master, "master file")
