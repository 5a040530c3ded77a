"""Who has a TCP or UDP port, from /proc/net/{tcp,udp} and the descriptors of all processes; see proc_pid_net(5)."""

from __future__ import annotations

import os

_OPEN = {"tcp": "0A", "udp": "07"}  # TCP_LISTEN; TCP_CLOSE is what a UDP socket is without a peer; linux/tcp_states.h


def port_owner(port: int, protocol: str) -> str | None:
    """Return the owner as "nginx (pid 812)", or None when no process that we can see has such a socket."""
    tables = (protocol, f"{protocol}6")
    inodes = {f"socket:[{inode}]" for table in tables for inode in _sockets(table, port, _OPEN[protocol])}
    for pid in filter(str.isdigit, os.listdir("/proc")) if inodes else ():
        if _holds(pid, inodes):
            return f"{_command(pid)} (pid {pid})"
    return None


def _sockets(table: str, port: int, state: str) -> list[str]:
    try:
        with open(f"/proc/net/{table}") as file:
            rows = [line.split() for line in file.readlines()[1:]]
    except OSError:  # a kernel without IPv6 has no tcp6
        return []
    return [row[9] for row in rows if row[3] == state and row[1].endswith(f":{port:04X}")]


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
