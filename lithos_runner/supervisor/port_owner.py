"""Who listens on a TCP port, from /proc/net/tcp and the descriptors of all processes; see proc_pid_net(5)."""

from __future__ import annotations

import os

_LISTEN = "0A"  # TCP_LISTEN of linux/tcp_states.h


def port_owner(port: int) -> str | None:
    """Return the owner as "nginx (pid 812)", or None when no process that we can see has such a socket."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table, port)}
    for pid in filter(str.isdigit, os.listdir("/proc")) if inodes else ():
        if _holds(pid, inodes):
            return f"{_command(pid)} (pid {pid})"
    return None


def _listening(table: str, port: int) -> list[str]:
    try:
        with open(f"/proc/net/{table}") as file:
            rows = [line.split() for line in file.readlines()[1:]]
    except OSError:  # a kernel without IPv6 has no tcp6
        return []
    return [row[9] for row in rows if row[3] == _LISTEN and row[1].endswith(f":{port:04X}")]


def _holds(pid: str, inodes: set[str]) -> bool:
    directory = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{directory}/{fd}") in inodes for fd in os.listdir(directory))
    except OSError:  # it has ended, or is another user's
        return False


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "a process"
